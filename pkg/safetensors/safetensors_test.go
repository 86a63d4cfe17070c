package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

// file makes a file of a header's text and data.
func file(header, data string) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), data...)
}

// one is the header of a single tensor.
func one(dtype, shape, offsets string) string {
	return fmt.Sprintf(`{"w":{"dtype":%q,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets)
}

func pair(a, b string) string {
	const f = `"%s":{"dtype":"U8","shape":[4],"data_offsets":%s}`
	return "{" + fmt.Sprintf(f, "a", a) + "," + fmt.Sprintf(f, "b", b) + "}"
}

// badFiles are the rows S01 to S04.
func badFiles() map[string]struct {
	data []byte
	want error
} {
	type bad = struct {
		data []byte
		want error
	}
	length := func(n uint64) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), "{}"...) }
	return map[string]bad{
		"S01 empty file":         {nil, ErrHeaderLen},
		"S01 seven bytes":        {make([]byte, 7), ErrHeaderLen},
		"S01 length 0":           {length(0), ErrHeaderLen},
		"S01 length 2^64-1":      {length(1<<64 - 1), ErrHeaderLen},
		"S01 length over 100 MB": {length(100<<20 + 1), ErrHeaderLen},
		"S01 longer than file":   {length(3), ErrHeaderLen},
		"S02 no brace":           {file(" {}", ""), ErrHeader},
		"S02 BOM":                {file("\ufeff{}", ""), ErrHeader},
		"S02 trailing text":      {file("{}x", ""), ErrHeader},
		"S02 second object":      {file("{}{}", ""), ErrHeader},
		"S02 not UTF-8":          {file("{\"\xff\":1}", ""), ErrHeader},
		"S02 deep":               {file(strings.Repeat(`{"a":`, 10000)+"1"+strings.Repeat("}", 10000), ""), ErrTensorInfo},
		"S02 deep array":         {file(`{"a":`+strings.Repeat("[", 10000)+strings.Repeat("]", 10000)+"}", ""), ErrHeader},
		"S02 name twice":         {file(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, ""), ErrHeader},
		"S02 field twice":        {file(`{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, ""), ErrHeader},
		"S02 number as string":   {file(one("U8", `["4"]`, "[0,4]"), "1234"), ErrHeader},
		"S02 ends early":         {file(`{"a":{"dtype"`, ""), ErrHeader},
		"S02 metadata not text":  {file(`{"__metadata__":{"a":1}}`, ""), ErrHeader},
		"S03 begin after end":    {file(one("U8", "[4]", "[4,0]"), "1234"), ErrOffset},
		"S03 negative":           {file(one("U8", "[4]", "[-4,0]"), "1234"), ErrTensorInfo},
		"S03 beyond the end":     {file(one("U8", "[5]", "[0,5]"), "1234"), ErrOffset},
		"S03 overlap":            {file(pair("[0,4]", "[2,6]"), "123456"), ErrOffset},
		"S03 hole":               {file(pair("[0,4]", "[6,10]"), "1234567890"), ErrIncomplete},
		"S03 hole at the start":  {file(one("U8", "[4]", "[1,5]"), "12345"), ErrIncomplete},
		"S03 something appended": {file(one("U8", "[4]", "[0,4]"), "1234PK\x03\x04"), ErrIncomplete},
		"S04 span of other size": {file(one("F32", "[4]", "[0,4]"), "1234"), ErrTensorInfo},
		"S04 overflow":           {file(one("F32", "[4294967296,4294967296]", "[0,4]"), "1234"), ErrTensorInfo},
		"S04 2^64":               {file(one("U8", "[18446744073709551616]", "[0,4]"), "1234"), ErrTensorInfo},
		"S04 unknown type":       {file(one("F128", "[4]", "[0,4]"), "1234"), ErrTensorInfo},
		"S04 half a byte":        {file(one("F4", "[3]", "[0,1]"), "1"), ErrTensorInfo},
		"S04 fraction":           {file(one("U8", "[4.0]", "[0,4]"), "1234"), ErrTensorInfo},
		"S04 many dimensions":    {file(one("U8", "[1,1,1,1,1,1,1,1,4]", "[0,4]"), "1234"), ErrTensorInfo},
		"S04 field missing":      {file(`{"a":{"dtype":"U8","shape":[0]}}`, ""), ErrTensorInfo},
		"S04 unknown field":      {file(`{"a":{"dtype":"U8","shape":[0],"offset":0}}`, ""), ErrTensorInfo},
		"S04 path as name":       {file(`{"../a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, ""), ErrTensorInfo},
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range badFiles() {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(c.data); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	f, err := Parse(file(`{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[1,5]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}  `, "abcde"))
	if err != nil {
		t.Fatal(err)
	}
	b, ok := f.Tensor("b")
	if !ok || string(b.Data) != "bcde" || b.DType != F16 || len(b.Shape) != 2 || f.Metadata()["format"] != "pt" || len(f.Tensors()) != 2 {
		t.Errorf("%+v of %+v", b, f)
	}
	if a, _ := f.Tensor("a"); string(a.Data) != "a" {
		t.Errorf("a is %q", a.Data)
	}
	if int64(len(f.Header()))+5 != f.Size() {
		t.Errorf("header of %d bytes in a file of %d", len(f.Header()), f.Size())
	}
}

// TestShortened: no prefix of a file loads.
func TestShortened(t *testing.T) {
	whole := file(pair("[0,4]", "[4,8]"), "12345678")
	if _, err := Parse(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := Parse(whole[:n:n]); err == nil {
			t.Errorf("the first %d bytes load", n)
		}
	}
}

// folder writes files and opens their folder.
func folder(t *testing.T, files map[string]string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func index(tensor, file string) string { return fmt.Sprintf(`{"weight_map":{%q:%q}}`, tensor, file) }

// TestBadIndex is row S05.
func TestBadIndex(t *testing.T) {
	good := string(file(one("U8", "[4]", "[0,4]"), "1234"))
	for name, c := range map[string]struct {
		index string
		want  error
	}{
		"parent":         {index("w", "../x.safetensors"), ErrPath},
		"absolute":       {index("w", "/x.safetensors"), ErrPath},
		"folder":         {index("w", "y/x.safetensors"), ErrPath},
		"URL":            {index("w", "https://x.safetensors"), ErrPath},
		"another kind":   {index("w", "secret.txt"), ErrPath},
		"missing":        {index("w", "x.safetensors"), ErrPath},
		"link outwards":  {index("w", "link.safetensors"), ErrPath},
		"wrong tensor":   {index("v", "a.safetensors"), ErrIndex},
		"no weights":     {`{}`, ErrIndex},
		"no JSON":        {`{`, ErrIndex},
		"map of numbers": {`{"weight_map":{"w":1}}`, ErrIndex},
	} {
		t.Run(name, func(t *testing.T) {
			root := folder(t, map[string]string{IndexName: c.index, "a.safetensors": good, "secret.txt": good})
			outside := filepath.Join(t.TempDir(), "out")
			if err := errors.Join(os.WriteFile(outside, []byte(good), 0o600), os.Symlink(outside, filepath.Join(root.Name(), "link.safetensors"))); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(root, "."); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestTensorInTwoFiles(t *testing.T) {
	good := string(file(one("U8", "[4]", "[0,4]"), "1234"))
	root := folder(t, map[string]string{
		IndexName: `{"weight_map":{"w":"a.safetensors","v":"b.safetensors"}}`, "a.safetensors": good, "b.safetensors": good,
	})
	if _, err := Open(root, "."); !errors.Is(err, ErrTensorInfo) {
		t.Errorf("%v, want %v", err, ErrTensorInfo)
	}
}

// TestFixtureSets opens every model of the reference data.
func TestFixtureSets(t *testing.T) {
	root, err := os.OpenRoot(filepath.Join(golden.Dir(t), "models"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, files := range map[string]int{"phi3": 1, "gemma3": 1, "llama3_rope": 4} {
		s, err := Open(root, name)
		if err != nil {
			t.Fatal(err)
		}
		embed, ok := s.Tensor("model.embed_tokens.weight")
		if len(s.Files()) != files || !ok || embed.Shape[0] != 512 || s.Size() == 0 {
			t.Errorf("%s: %d files, embedding %v %v", name, len(s.Files()), ok, embed.Shape)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// FuzzParse: what loads covers the file, byte for byte.
func FuzzParse(f *testing.F) {
	f.Add(file(pair("[0,4]", "[4,8]"), "12345678"))
	for _, c := range badFiles() {
		if len(c.data) < 4096 {
			f.Add(c.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Parse(data)
		if err != nil {
			return
		}
		total := len(got.Header())
		for _, tensor := range got.Tensors() {
			total += len(tensor.Data)
			if !bytes.Equal(tensor.Data, data[tensor.Offset:tensor.Offset+uint64(len(tensor.Data))]) {
				t.Fatalf("%s is not at %d", tensor.Name, tensor.Offset)
			}
		}
		if total != len(data) {
			t.Fatalf("%d of %d bytes belong to something", total, len(data))
		}
	})
}
