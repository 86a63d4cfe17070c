package floatmode

// Fields of FPCR (Arm Architecture Reference Manual for A-profile, C5.2.8).
const (
	DenormalsAreZero Mode = 1 << 0  // FIZ: denormal operands count as zero
	FlushHalfToZero  Mode = 1 << 19 // FZ16: the same for binary16
	RoundUp          Mode = 1 << 22 // with RoundDown: towards zero
	RoundDown        Mode = 1 << 23
	FlushToZero      Mode = 1 << 24 // FZ: denormal operands and results become zero
	AlternativeHalf  Mode = 1 << 26 // AHP: binary16 without infinities

	all = DenormalsAreZero | FlushHalfToZero | RoundUp | RoundDown | FlushToZero | AlternativeHalf
)

var deviations = []deviation{
	{RoundDown | RoundUp, "rounding not to nearest"},
	{FlushToZero | FlushHalfToZero, "denormal results flushed to zero"},
	{DenormalsAreZero, "denormal operands taken as zero"},
	{AlternativeHalf, "half precision in the alternative format"},
}
