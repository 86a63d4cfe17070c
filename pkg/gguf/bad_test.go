package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

var le = binary.LittleEndian

// Type numbers of the tensors that the tests build.
const (
	f32  = 0
	f16  = 1
	q40  = 2
	q41  = 3
	gone = 4
)

// badFile is a file that must be refused, for a reason that is one of want.
type badFile struct {
	name string
	data []byte
	want []error
}

// good returns a small right file, to which bad parts are added.
func good() *gguftest.Builder {
	return gguftest.New().
		KV("general.architecture", "test").
		KV("test.list", []string{"a", "", "bc"}).
		Tensor("a.weight", []uint64{8, 4}, f32, make([]byte, 128)).
		Tensor("b.weight", []uint64{32}, q41, make([]byte, 20))
}

func badHeaders() []badFile {
	head := func(magic string, rest ...byte) []byte { return append([]byte(magic), rest...) }
	patched := func(at int, b []byte) []byte {
		data := good().Bytes()
		copy(data[at:], b)
		return data
	}
	u32 := func(n uint32) []byte { return le.AppendUint32(nil, n) }
	u64 := func(n uint64) []byte { return le.AppendUint64(nil, n) }
	size := uint64(len(good().Bytes()))
	return []badFile{
		{"MF01 reversed magic", head("FUGG", good().Bytes()[4:]...), []error{ErrBadMagic}},
		{"MF01 other file", head("PK\x03\x04", make([]byte, 100)...), []error{ErrBadMagic}},
		{"MF01 big-endian", patched(4, []byte{0, 0, 0, 3}), []error{ErrVersion}},
		{"MF01 empty", nil, []error{ErrTruncated}},
		{"MF01 three bytes", head("GGU"), []error{ErrTruncated}},
		{"MF01 magic alone", head("GGUF"), []error{ErrTruncated}},
		{"MF02 version 0", patched(4, u32(0)), []error{ErrVersion}},
		{"MF02 version 1", patched(4, u32(1)), []error{ErrVersion}},
		{"MF02 version 4", patched(4, u32(4)), []error{ErrVersion}},
		{"MF02 version 2^31", patched(4, u32(1<<31)), []error{ErrVersion}},
		{"MF03 tensors 2^64-1", patched(8, u64(math.MaxUint64)), []error{ErrCount}},
		{"MF03 tensors 2^32", patched(8, u64(1<<32)), []error{ErrCount}},
		{"MF03 tensors above remaining/24", patched(8, u64((size-16)/24+1)), []error{ErrCount}},
		{"MF04 pairs 2^64-1", patched(16, u64(math.MaxUint64)), []error{ErrCount}},
		{"MF04 pairs above remaining", patched(16, u64((size-24)/14+1)), []error{ErrCount}},
	}
}

func badMetadata() []badFile {
	rawKey := func(n uint64, key string) []byte {
		// A key of a length that does not say the truth is the end of the pairs.
		b := gguftest.New().KV(strings.Repeat("k", max(len(key), 1)), uint8(1)).Bytes()
		copy(b[24:], le.AppendUint64(nil, n))
		copy(b[32:], key)
		return b
	}
	text := func(n uint64) []byte { return append(le.AppendUint64(nil, n), "short"...) }
	array := func(elem uint32, n uint64, rest ...byte) []byte {
		return append(le.AppendUint64(le.AppendUint32(nil, elem), n), rest...)
	}
	var nested []byte
	for range 10000 {
		nested = append(nested, array(gguftest.Array, 1)...)
	}
	var rows []badFile
	add := func(name string, want error, b *gguftest.Builder) {
		rows = append(rows, badFile{name, b.Bytes(), []error{want}})
	}
	rows = append(rows,
		badFile{"MF05 key of 2^64-1", rawKey(math.MaxUint64, "key"), []error{ErrKey}},
		badFile{"MF05 key of 2^63", rawKey(1<<63, "key"), []error{ErrKey}},
		badFile{"MF05 key longer than the file", rawKey(1000, "key"), []error{ErrKey}},
		badFile{"MF05 empty key", rawKey(0, ""), []error{ErrKey}},
	)
	add("MF05 key not UTF-8", ErrKey, good().KV("a\xffb", uint8(1)))
	add("MF05 key above 64 KiB", ErrKey, good().KV(strings.Repeat("k", 1<<16), uint8(1)))
	for _, kind := range []uint32{13, math.MaxUint32, 1 << 31} {
		add(fmt.Sprintf("MF06 type %d", kind), ErrKVType, good().RawKV("k", kind, make([]byte, 8)))
		add(fmt.Sprintf("MF06 element type %d", kind), ErrKVType, good().RawKV("k", gguftest.Array, array(kind, 1, 0, 0, 0, 0)))
	}
	add("MF07 string longer than the file", ErrTruncated, good().RawKV("k", gguftest.String, text(1000)))
	add("MF07 template of 2 GiB", ErrTooBig, good().RawKV("tokenizer.chat_template", gguftest.String, text(2<<30)))
	add("MF07 template above 1 MiB", ErrTooBig, good().KV("tokenizer.chat_template", strings.Repeat("x", 1<<20+1)))
	add("MF08 array of 2^60 bytes", ErrCount, good().RawKV("k", gguftest.Array, array(gguftest.Uint8, 1<<60)))
	add("MF08 array of 2^61 uint64: the bytes overflow", ErrCount, good().RawKV("k", gguftest.Array, array(gguftest.Uint64, 1<<61)))
	add("MF08 array of 2^62 strings", ErrCount, good().RawKV("k", gguftest.Array, array(gguftest.String, 1<<62)))
	add("MF08 array of more strings than the bytes can hold", ErrCount, good().RawKV("k", gguftest.Array, array(gguftest.String, 100, text(5)...)))
	add("MF08 array whose second string does not end", ErrTruncated, gguftest.New().RawKV("k", gguftest.Array, array(gguftest.String, 2, append(text(5), text(500)...)...)))
	add("MF08 nested arrays", ErrNested, good().RawKV("k", gguftest.Array, nested))
	add("MF09 key twice", ErrDuplicate, good().KV("general.architecture", "test"))
	add("MF09 alignment twice", ErrDuplicate, good().KV("general.alignment", uint32(32)).KV("general.alignment", uint32(64)))
	for _, n := range []uint32{0, 3, 13, 1 << 31} {
		add(fmt.Sprintf("MF10 alignment %d", n), ErrAlignment, good().KV("general.alignment", n))
	}
	add("MF10 alignment of int32", ErrAlignment, good().KV("general.alignment", int32(32)))
	add("MF10 alignment of text", ErrAlignment, good().KV("general.alignment", "32"))
	add("split file", ErrSplit, good().KV("split.count", uint16(2)))
	add("split count of text", ErrSplit, good().KV("split.count", "2"))
	return rows
}

func badTensors() []badFile {
	one := []uint64{32}
	data := make([]byte, 128)
	var rows []badFile
	add := func(name string, b *gguftest.Builder, want ...error) {
		rows = append(rows, badFile{name, b.Bytes(), want})
	}
	for _, name := range []string{strings.Repeat("n", 64), strings.Repeat("n", 1000), "", "a.weight", "../../x", "/etc/x", `a\b`, "a\x00b", "a b", "a\nb", "\xff"} {
		add(fmt.Sprintf("MF11 name %.12q", name), good().Tensor(name, one, f32, data), ErrTensorName)
	}
	add("MF12 no dimension", good().Tensor("t", nil, f32, data), ErrDims)
	add("MF12 five dimensions", good().Tensor("t", []uint64{1, 1, 1, 1, 1}, f32, data), ErrDims)
	many := gguftest.New().Info("t", one, f32, 0).Bytes()
	copy(many[24+8+1:], le.AppendUint32(nil, math.MaxUint32))
	rows = append(rows, badFile{"MF12 2^32-1 dimensions", many, []error{ErrDims}})
	for _, dims := range [][]uint64{{0}, {32, 0}, {math.MaxUint64}, {1 << 63}, {1 << 33, 1 << 33}, {1 << 62}, {1 << 32, 1 << 32, 0}} {
		add(fmt.Sprintf("MF13 shape %v", dims), good().Tensor("t", dims, f32, data), ErrShape)
	}
	const huge = 0x7FFFFFFFFFFFFFC0
	add("MF13 the sum of two overflows", gguftest.New().Info("a", []uint64{huge}, q40, 0).Info("b", []uint64{huge}, q40, 0), ErrShape)
	for _, id := range []uint32{gone, 5, 36, 255, math.MaxUint32} {
		add(fmt.Sprintf("MF14 type %d", id), good().Tensor("t", one, id, data), ErrTensorType)
	}
	add("MF15 row of 33", good().Tensor("t", []uint64{33}, q41, data), ErrShape)
	add("MF15 rows of 8, 32 values together", good().Tensor("t", []uint64{8, 4}, q41, data), ErrShape)
	add("MF16 offset not aligned", good().Info("t", one, f16, 8), ErrOffset)
	add("MF16 offset 2^64-32", good().Info("t", one, f16, math.MaxUint64-31), ErrOffset)
	add("MF16 offset 2^64-128 and the end wraps to 0", good().Info("t", one, f32, math.MaxUint64-127), ErrOffset)
	add("MF16 data section beyond the file", gguftest.New().Info("t", []uint64{4}, f32, 0), ErrOffset)
	past := gguftest.New().Tensor("t", one, f32, make([]byte, 127))
	add("MF16 one byte past the end", past, ErrOffset)
	add("MF16 two tensors at one place", gguftest.New().Tensor("a", one, f32, data).Info("b", one, f32, 0), ErrOverlap)
	add("MF16 the end of one in another", gguftest.New().Info("b", one, f16, 96).Tensor("a", one, f32, make([]byte, 256)), ErrOverlap)
	return rows
}

func badFiles() []badFile {
	return append(append(badHeaders(), badMetadata()...), badTensors()...)
}

func TestGoodFileBehindTheBadOnes(t *testing.T) {
	f, err := Parse(good().Bytes(), Options{Formats: formats.All()})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors()) != 2 || len(f.Meta().Keys()) != 2 {
		t.Errorf("%d tensors, keys %q", len(f.Tensors()), f.Meta().Keys())
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	for _, c := range badFiles() {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse(c.data, Options{Formats: formats.All()})
			if err == nil {
				t.Fatalf("loaded with %d tensors, want %v", len(f.Tensors()), c.want)
			}
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("error %q is not %q", err, want)
				}
			}
			var place *Error
			if !errors.As(err, &place) || place.Field == "" || place.Offset < 0 || place.Offset > int64(len(c.data)) {
				t.Errorf("error %q does not say where: %+v", err, place)
			}
			if msg := err.Error(); len(msg) > 600 || strings.ContainsFunc(msg, func(r rune) bool { return r < ' ' }) {
				t.Errorf("message is no line of text: %q", msg)
			}
		})
	}
}

// TestBadFilesAllocateLittle is the bound of MF03: what a count promises is not
// allocated before the bytes are seen.
func TestBadFilesAllocateLittle(t *testing.T) {
	opts := Options{Formats: formats.All()}
	for _, c := range badFiles() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(c.data, opts)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: loaded", c.name)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10+2*uint64(len(c.data)) {
			t.Errorf("%s: %d bytes allocated for a file of %d", c.name, n, len(c.data))
		}
	}
}

// TestTruncatedFiles is MF17: a file that was cut anywhere is refused, in memory
// and on disk.
func TestTruncatedFiles(t *testing.T) {
	opts := Options{Formats: formats.All()}
	for _, path := range []string{
		filepath.Join(golden.Root(), "models", "tiny", "tiny-q4_0.gguf"),
		filepath.Join(golden.Dir(t), "quant_models", "llama-Q6_K.gguf"),
	} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(data); n += 4096 {
			if _, err := Parse(data[:n:n], opts); err == nil {
				t.Errorf("%s: the first %d of %d bytes load", path, n, len(data))
			}
		}
		cut := filepath.Join(t.TempDir(), "cut.gguf")
		if err := os.WriteFile(cut, data[:len(data)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		var place *Error
		if f, err := Open(cut, opts); err == nil {
			f.Close()
			t.Errorf("%s: half of it opens", path)
		} else if !errors.As(err, &place) || !strings.Contains(err.Error(), cut) {
			t.Errorf("error %q names neither file nor place", err)
		}
	}
}

// TestEveryPrefixIsRefused cuts a small file at every byte.
func TestEveryPrefixIsRefused(t *testing.T) {
	data := good().Bytes()
	for n := range data {
		if _, err := Parse(data[:n:n], Options{Formats: formats.All()}); err == nil {
			t.Errorf("the first %d of %d bytes load", n, len(data))
		}
	}
}
