package modeltest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/quant"
)

// The session that ClassHashes runs: a prompt that is longer than a page of the
// cache and fills tiles of several widths, and some greedy steps.
const (
	classPrompt = 70
	classChunk  = 23
	classSteps  = 4
)

// ClassHashes compares the bits of embedded models' logits, on every level of
// levels, with the hashes in the JSON file at path: those of the CPU class, which
// every processor, level and build of it must give. Another hash is a change of
// the class: it breaks answers in the middle when machines of both kinds serve
// one model, so the class gets another name.
func ClassHashes(t *testing.T, path string, levels []quant.Level) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hashes := map[string]string{}
	if err := json.Unmarshal(b, &hashes); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if len(hashes) == 0 {
		t.Fatalf("%s has no hashes", path)
	}
	for name, want := range hashes {
		for i, level := range levels {
			t.Run(fmt.Sprintf("%s/%s", name, level), func(t *testing.T) {
				got := classHash(t, name, cpu.Config{Level: &level, Threads: 1 + i%2})
				if got != want {
					t.Errorf("the logits have the hash %s, the class %s", got, want)
				}
			})
		}
	}
}

// classHash returns the SHA-256 of the logits after the prompt and after each
// step, as little-endian float32.
func classHash(t *testing.T, name string, c cpu.Config) string {
	m, err := library.Library{}.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	ids := make([]int32, classPrompt)
	for i := range ids {
		ids[i] = int32((i*i*31 + 7) % m.Spec.Vocab)
	}
	l := pipeline(t, m, setup{cpu: c, stages: 1, rows: classChunk, slots: 1})
	logits := logitsOf(t, l, 0, ids, classChunk)
	hash := sha256.New()
	for n := range classSteps {
		for _, v := range logits {
			hash.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
		}
		logits = step(t, l, nil, frame.Span{Attempt: 1, Start: int32(classPrompt + n),
			Tokens: []int32{argmax(logits)}, Output: frame.OutputLogits})
	}
	return hex.EncodeToString(hash.Sum(nil))
}
