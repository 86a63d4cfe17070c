#include "textflag.h"

// func read() uint32
TEXT ·read(SB), NOSPLIT, $0-4
	MRS FPCR, R0
	MOVW R0, ret+0(FP)
	RET

// func write(mode uint32)
TEXT ·write(SB), NOSPLIT, $0-4
	MOVWU mode+0(FP), R0
	MSR R0, FPCR
	RET
