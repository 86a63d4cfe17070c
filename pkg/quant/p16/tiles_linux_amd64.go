package p16

import "golang.org/x/sys/unix"

// Of asm/prctl.h and of the numbering of the XSAVE features in the Intel manual.
const (
	archRequestPermission = 0x1023 // ARCH_REQ_XCOMP_PERM
	featureTileData       = 18
)

// permitTiles asks Linux for the use of the tile registers, for all threads of
// the process, and reports whether it granted that. It does where the kernel saves
// these registers and every thread's signal stack holds them: those of Go do. To
// ask again changes nothing.
func permitTiles() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archRequestPermission, featureTileData, 0)
	return errno == 0
}
