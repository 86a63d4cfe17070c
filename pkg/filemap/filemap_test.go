package filemap

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestMapGivesTheBytes(t *testing.T) {
	for _, want := range []string{"", "weights"} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		data, unmap, err := Map(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		if string(data) != want {
			t.Errorf("%q, want %q", data, want)
		}
		if err := unmap(); err != nil {
			t.Error(err)
		}
	}
}

func TestMapRefusesFolders(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, _, err := Map(dir); err == nil {
		t.Error("a folder was mapped")
	}
}

func TestNeedLeavesTheBytesAsTheyAre(t *testing.T) {
	want := bytes.Repeat([]byte("weights"), 3*pageBytes)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data, unmap, err := Map(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{nil, data[:1], data[5:], data[pageBytes : pageBytes+1], data[len(data)-1:], data} {
		Need(part)
	}
	if !bytes.Equal(data, want) {
		t.Error("other bytes than those of the file")
	}
	if err := unmap(); err != nil {
		t.Error(err)
	}
	Need(want) // not mapped
}

// TestNeedOfOtherMemory: bytes that no file is mapped to are asked for like others.
func TestNeedOfOtherMemory(t *testing.T) {
	for size := range 40 {
		data := make([]byte, size*700)
		for i := range data {
			data[i] = byte(i)
		}
		Need(data[len(data)/3:])
		for i := range data {
			if data[i] != byte(i) {
				t.Fatalf("%d bytes: byte %d has changed", len(data), i)
			}
		}
	}
}
