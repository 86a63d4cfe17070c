#include "textflag.h"

// func read() uint32
TEXT ·read(SB), NOSPLIT, $0-4
	STMXCSR ret+0(FP)
	RET

// func write(mode uint32)
TEXT ·write(SB), NOSPLIT, $0-4
	LDMXCSR mode+0(FP)
	RET
