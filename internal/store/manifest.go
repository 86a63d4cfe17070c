package store

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ErrManifest says that a manifest makes no sense.
var ErrManifest = errors.New("invalid manifest")

// Bounds of a manifest.
const (
	manifestVersion  = 1
	maxManifestBytes = 32 << 20 // some 800,000 segments
	maxFiles         = 4096
	maxName          = 512
)

// Segment is a piece of a file of a model.
type Segment struct {
	File   int   // index of the file
	Offset int64 // in the file
	Size   int
}

// Encode writes a manifest; its hash is the identity of the model.
func Encode(m *pb.Manifest) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Decode reads a manifest, checks all of it and lists its segments.
func Decode(encoded []byte) (*pb.Manifest, []Segment, error) {
	if len(encoded) > maxManifestBytes {
		return nil, nil, fmt.Errorf("%w: %d bytes, the most is %d", ErrManifest, len(encoded), maxManifestBytes)
	}
	m := &pb.Manifest{}
	if err := proto.Unmarshal(encoded, m); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	segments, err := check(m)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return m, segments, nil
}

func check(m *pb.Manifest) (segments []Segment, err error) {
	switch {
	case m.Version != manifestVersion:
		return nil, fmt.Errorf("version %d; %d is read", m.Version, manifestVersion)
	case len(m.Files) == 0 || len(m.Files) > maxFiles:
		return nil, fmt.Errorf("%d files, want 1 to %d", len(m.Files), maxFiles)
	}
	var names []string
	for i, f := range m.Files {
		if !plainName(f.GetName()) || slices.Contains(names, f.GetName()) {
			return nil, fmt.Errorf("file %d: %.80q is no name of a file, or is there twice", i, f.GetName())
		}
		names = append(names, f.Name)
		if len(f.Sha256) != 0 && len(f.Sha256) != len(Hash{}) {
			return nil, fmt.Errorf("%s: a SHA-256 of %d bytes", f.Name, len(f.Sha256))
		}
		if len(f.Hashes) != 0 && len(f.Hashes) != len(Hash{})*len(f.Segments) {
			return nil, fmt.Errorf("%s: %d bytes of hashes for %d segments", f.Name, len(f.Hashes), len(f.Segments))
		}
		at := uint64(0)
		for _, size := range f.Segments {
			if size < 1 || size > MaxSegment {
				return nil, fmt.Errorf("%s: a segment of %d bytes, want 1 to %d", f.Name, size, MaxSegment)
			}
			segments = append(segments, Segment{File: i, Offset: int64(at), Size: int(size)})
			at += uint64(size)
		}
		if f.Head > f.Size {
			return nil, fmt.Errorf("%s: a head of %d bytes in a file of %d", f.Name, f.Head, f.Size)
		}
		if at != f.Size {
			return nil, fmt.Errorf("%s: its segments have %d bytes, the file %d", f.Name, at, f.Size)
		}
	}
	return segments, nil
}

// plainName reports whether a name is a relative one that leads nowhere else.
func plainName(name string) bool {
	return len(name) <= maxName && filepath.IsLocal(name) && path.Clean(name) == name && name != "." &&
		!strings.ContainsAny(name, `\:`) && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7F })
}

// Cut divides a file into segments: at every bound, and where what lies between two
// bounds is larger than a segment. Bounds are ascending offsets.
func Cut(size uint64, bounds []uint64) []uint32 {
	var out []uint32
	at := uint64(0)
	until := func(end uint64) {
		for at < end {
			n := min(end-at, MaxSegment)
			out = append(out, uint32(n))
			at += n
		}
	}
	for _, b := range bounds {
		until(min(b, size))
	}
	until(size)
	return out
}
