package llama_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/model"
)

// file builds a small but whole model file; edit changes its hyperparameters,
// and a nil value leaves one out.
func file(t *testing.T, edit map[string]any) string {
	t.Helper()
	params := map[string]any{
		"general.architecture":                   "llama",
		"llama.block_count":                      uint32(1),
		"llama.embedding_length":                 uint32(32),
		"llama.context_length":                   uint32(64),
		"llama.feed_forward_length":              uint32(64),
		"llama.attention.head_count":             uint32(4),
		"llama.attention.head_count_kv":          uint32(2),
		"llama.attention.layer_norm_rms_epsilon": float32(1e-5),
		"llama.rope.freq_base":                   float32(10000),
	}
	for k, v := range edit {
		params[k] = v
	}
	b := gguftest.New()
	for k, v := range params {
		if v != nil {
			b.KV(k, v)
		}
	}
	tensor := func(name string, dims ...uint64) {
		n := uint64(4)
		for _, d := range dims {
			n *= d
		}
		b.Tensor(name, dims, 0, make([]byte, n))
	}
	tensor("token_embd.weight", 32, 16)
	tensor("output_norm.weight", 32)
	for name, dims := range map[string][]uint64{
		"attn_norm": {32}, "ffn_norm": {32}, "attn_q": {32, 32}, "attn_k": {32, 16}, "attn_v": {32, 16},
		"attn_output": {32, 32}, "ffn_gate": {32, 64}, "ffn_up": {32, 64}, "ffn_down": {64, 32},
	} {
		tensor("blk.0."+name+".weight", dims...)
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHyperparametersAreChecked is the row of bad inputs on hyperparameters: all
// are refused by name when the file is opened.
func TestHyperparametersAreChecked(t *testing.T) {
	if m, err := (library.Library{}).Open(file(t, nil)); err != nil {
		t.Fatalf("a good file: %v", err)
	} else {
		m.Close()
	}
	for name, c := range map[string]struct {
		edit map[string]any
		want error
	}{
		"architecture missing":      {map[string]any{"general.architecture": nil}, model.ErrArch},
		"architecture unknown":      {map[string]any{"general.architecture": "gpt5"}, model.ErrArch},
		"no layers":                 {map[string]any{"llama.block_count": uint32(0)}, model.ErrHParams},
		"layers missing":            {map[string]any{"llama.block_count": nil}, model.ErrHParams},
		"too many layers":           {map[string]any{"llama.block_count": uint32(1 << 31)}, model.ErrHParams},
		"more layers than tensors":  {map[string]any{"llama.block_count": uint32(2)}, model.ErrHParams},
		"no heads":                  {map[string]any{"llama.attention.head_count": uint32(0)}, model.ErrHParams},
		"negative heads":            {map[string]any{"llama.attention.head_count": int32(-4)}, model.ErrHParams},
		"KV heads do not divide":    {map[string]any{"llama.attention.head_count_kv": uint32(3)}, model.ErrHParams},
		"rope base 0":               {map[string]any{"llama.rope.freq_base": float32(0)}, model.ErrHParams},
		"rope base NaN":             {map[string]any{"llama.rope.freq_base": float32(math.NaN())}, model.ErrHParams},
		"rope base infinite":        {map[string]any{"llama.rope.freq_base": float32(math.Inf(1))}, model.ErrHParams},
		"negative epsilon":          {map[string]any{"llama.attention.layer_norm_rms_epsilon": float32(-1)}, model.ErrHParams},
		"context of 2^40":           {map[string]any{"llama.context_length": uint64(1) << 40}, model.ErrHParams},
		"no experts":                {map[string]any{"llama.expert_count": uint32(0)}, model.ErrHParams},
		"rope wider than a head":    {map[string]any{"llama.rope.dimension_count": uint32(16)}, model.ErrHParams},
		"odd rope":                  {map[string]any{"llama.rope.dimension_count": uint32(7)}, model.ErrHParams},
		"unknown rope scaling":      {map[string]any{"llama.rope.scaling.type": "longrope"}, model.ErrHParams},
		"embedding of another size": {map[string]any{"llama.embedding_length": uint32(64)}, model.ErrHParams},
		"vocabulary of another":     {map[string]any{"llama.vocab_size": uint32(17)}, model.ErrHParams},
		"values of another width":   {map[string]any{"llama.attention.value_length": uint32(4)}, model.ErrHParams},
	} {
		if _, err := (library.Library{}).Open(file(t, c.edit)); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
}
