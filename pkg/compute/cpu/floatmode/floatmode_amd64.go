package floatmode

// Fields of MXCSR (Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 1, 10.2.3).
const (
	DenormalsAreZero Mode = 1 << 6  // denormal operands count as zero
	FlushToZero      Mode = 1 << 15 // denormal results become zero
	RoundDown        Mode = 1 << 13 // with RoundUp: towards zero
	RoundUp          Mode = 1 << 14

	all = DenormalsAreZero | FlushToZero | RoundDown | RoundUp
)

var deviations = []deviation{
	{RoundDown | RoundUp, "rounding not to nearest"},
	{FlushToZero, "denormal results flushed to zero"},
	{DenormalsAreZero, "denormal operands taken as zero"},
}
