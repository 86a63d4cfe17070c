package decoder_test

import (
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/model"
)

// tensors are those of a layer of each architecture, by their dimensions as files
// have them.
var tensors = map[string]map[string][]uint64{
	"qwen2": {
		"attn_norm.weight": {32}, "attn_q.weight": {32, 32}, "attn_k.weight": {32, 16}, "attn_v.weight": {32, 16}, "attn_output.weight": {32, 32},
		"attn_q.bias": {32}, "attn_k.bias": {16}, "attn_v.bias": {16},
		"ffn_norm.weight": {32}, "ffn_gate.weight": {32, 64}, "ffn_up.weight": {32, 64}, "ffn_down.weight": {64, 32},
	},
	"phi3": {
		"attn_norm.weight": {32}, "attn_qkv.weight": {32, 64}, "attn_output.weight": {32, 32},
		"ffn_norm.weight": {32}, "ffn_up.weight": {32, 128}, "ffn_down.weight": {64, 32},
	},
	"qwen3moe": {
		"attn_norm.weight": {32}, "attn_q.weight": {32, 32}, "attn_k.weight": {32, 16}, "attn_v.weight": {32, 16}, "attn_output.weight": {32, 32},
		"attn_q_norm.weight": {16}, "attn_k_norm.weight": {16}, "ffn_norm.weight": {32}, "ffn_gate_inp.weight": {32, 4},
		"ffn_gate_exps.weight": {32, 16, 4}, "ffn_up_exps.weight": {32, 16, 4}, "ffn_down_exps.weight": {16, 32, 4},
	},
}

// file builds a small but whole model file; change edits its hyperparameters, and
// dims its tensors. Nil leaves one out.
func file(t *testing.T, arch string, change map[string]any, dims map[string][]uint64) string {
	t.Helper()
	params := map[string]any{
		"block_count": uint32(1), "embedding_length": uint32(32), "context_length": uint32(64), "feed_forward_length": uint32(64),
		"attention.head_count": uint32(2), "attention.head_count_kv": uint32(1), "attention.layer_norm_rms_epsilon": float32(1e-5),
	}
	if arch == "qwen3moe" {
		maps.Copy(params, map[string]any{"expert_count": uint32(4), "expert_used_count": uint32(2), "expert_feed_forward_length": uint32(16)})
	}
	maps.Copy(params, change)
	b := gguftest.New()
	b.KV("general.architecture", arch)
	for k, v := range params {
		if v != nil {
			b.KV(arch+"."+k, v)
		}
	}
	all := map[string][]uint64{"token_embd.weight": {32, 16}, "output_norm.weight": {32}}
	for name, d := range tensors[arch] {
		all["blk.0."+name] = d
	}
	maps.Copy(all, dims)
	for name, d := range all {
		n := uint64(4)
		for _, size := range d {
			n *= size
		}
		if d != nil {
			b.Tensor(name, d, 0, make([]byte, n))
		}
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFilesAreChecked: hyperparameters that make no sense, and tensors that do not
// fit them, are refused by name when a file is opened.
func TestFilesAreChecked(t *testing.T) {
	for arch := range tensors {
		m, err := library.Library{}.Open(file(t, arch, nil, nil))
		if err != nil {
			t.Fatalf("a good file of %s: %v", arch, err)
		}
		m.Close()
	}
	for name, c := range map[string]struct {
		arch   string
		change map[string]any
		dims   map[string][]uint64
		names  string // what the error names
	}{
		"a bias is missing":     {"qwen2", nil, map[string][]uint64{"blk.0.attn_k.bias": nil}, "blk.0.attn_k.bias"},
		"a bias too long":       {"qwen2", nil, map[string][]uint64{"blk.0.attn_k.bias": {32}}, "blk.0.attn_k.bias"},
		"experts of no family":  {"qwen2", map[string]any{"expert_count": uint32(8)}, nil, "qwen2.expert_count"},
		"YaRN without a factor": {"qwen2", map[string]any{"rope.scaling.type": "yarn"}, nil, "rope.scaling.factor"},
		"YaRN that shrinks": {"qwen2", map[string]any{"rope.scaling.type": "yarn", "rope.scaling.factor": float32(0.5),
			"rope.scaling.original_context_length": uint32(64)}, nil, "rope.scaling.factor"},
		"fused rows missing":       {"phi3", nil, map[string][]uint64{"blk.0.attn_qkv.weight": {32, 48}}, "blk.0.attn_qkv.weight"},
		"a window of 2^40":         {"phi3", map[string]any{"attention.sliding_window": uint64(1) << 40}, nil, "attention.sliding_window"},
		"an original context":      {"phi3", map[string]any{"rope.scaling.original_context_length": uint32(65)}, nil, "original_context_length"},
		"a magnitude of NaN":       {"phi3", map[string]any{"rope.scaling.attn_factor": float32(math.NaN())}, nil, "attn_factor"},
		"no experts":               {"qwen3moe", map[string]any{"expert_count": uint32(0)}, nil, "expert_count"},
		"a million experts":        {"qwen3moe", map[string]any{"expert_count": uint32(1e6)}, nil, "expert_count"},
		"more used than there are": {"qwen3moe", map[string]any{"expert_used_count": uint32(5)}, nil, "expert_used_count"},
		"experts of 8 rows":        {"qwen3moe", map[string]any{"expert_feed_forward_length": uint32(8)}, nil, "expert_feed_forward_length"},
		"an expert is missing":     {"qwen3moe", nil, map[string][]uint64{"blk.0.ffn_up_exps.weight": {32, 16, 3}}, "blk.0.ffn_up_exps.weight"},
		"a router too small":       {"qwen3moe", nil, map[string][]uint64{"blk.0.ffn_gate_inp.weight": {32, 3}}, "blk.0.ffn_gate_inp.weight"},
		"heads of 8": {"qwen3moe", map[string]any{"attention.head_count": uint32(4), "attention.key_length": uint32(8)}, nil,
			"attention.key_length"},
	} {
		if _, err := (library.Library{}).Open(file(t, c.arch, c.change, c.dims)); !errors.Is(err, model.ErrHParams) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: error %v, want one that names %s", name, err, c.names)
		}
	}
}

// TestUnknownArchitecture: a file of another architecture is refused with its name
// and those that there are.
func TestUnknownArchitecture(t *testing.T) {
	path := file(t, "gpt5", nil, nil)
	_, err := library.Library{}.Open(path)
	if !errors.Is(err, model.ErrArch) {
		t.Fatalf("error %v", err)
	}
	for _, name := range []string{"gpt5", "gemma2", "gemma3", "llama", "phi3", "qwen2", "qwen3", "qwen3moe"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}
