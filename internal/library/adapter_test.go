package library_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
	"github.com/shoal-llm/shoal/pkg/model"
)

func llama(t *testing.T) *library.Model {
	t.Helper()
	m, err := library.Library{}.Open(filepath.Join(golden.Dir(t), "models", "llama", "model-f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func adapterFolder(name string) string {
	return filepath.Join(golden.Root(), "testdata", "adapters", name)
}

// TestAdapterIsRefused: what would not be honoured is named when an adapter is opened.
func TestAdapterIsRefused(t *testing.T) {
	m := llama(t)
	refused := func(path, want string) {
		t.Helper()
		a, err := library.OpenAdapter("x", path, m)
		if err == nil {
			a.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
	text, err := os.ReadFile(filepath.Join(adapterFolder("llama-a"), "adapter_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(filepath.Join(adapterFolder("llama-a"), "adapter_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	folder := func(config, weights []byte) string {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"adapter_config.json": config, "adapter_model.safetensors": weights} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for key, c := range map[string]struct {
		value any
		want  string
	}{
		"peft_type": {"LOHA", "peft_type"}, "use_dora": {true, "use_dora"}, "fan_in_fan_out": {true, "fan_in_fan_out"},
		"bias": {"all", "biases"}, "modules_to_save": {[]string{"lm_head"}, "lm_head"}, "lora_alpha": {-1, "lora_alpha"},
		"alpha_pattern": {map[string]int{"q_proj": 3}, "alpha_pattern"}, "init_lora_weights": {"pissa_niter_4", "pissa"},
		"trainable_token_indices": {[]int{1}, "embeddings"},
	} {
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatal(err)
		}
		config[key] = c.value
		changed, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		refused(folder(changed, weights), c.want)
	}
	refused(folder([]byte("{"), weights), "adapter_config.json")
	refused(folder(text, weights[:len(weights)/2]), "adapter_model.safetensors")
	refused(folder(text, []byte(strings.Replace(string(weights), "layers.0.self_attn.q_proj", "layers.9.self_attn.q_proj", -1))), "blk.9")
	refused(folder(text, []byte(strings.Replace(string(weights), "self_attn.q_proj.lora_A", "self_attn.r_proj.lora_A", 1))), "r_proj")
	refused(folder(text, []byte(strings.Replace(string(weights), "q_proj.lora_A.weight", "q_proj.lora_M.weight", 1))), "lora_M")
	refused(adapterFolder("qwen2"), "the matrix is")
	refused(adapterFolder("none"), "no such file")
	refused(filepath.Join(adapterFolder("phi3"), "adapter.gguf"), "phi3")
	refused(filepath.Join(golden.Dir(t), "models", "llama", "model-f16.gguf"), "general.type")
	refused(os.DevNull, "not a regular file")

	file := func(tensors map[string][]uint64) string {
		b := gguftest.New()
		b.KV("general.architecture", "llama")
		b.KV("general.type", "adapter")
		b.KV("adapter.type", "lora")
		for name, dims := range tensors {
			b.Tensor(name, dims, 0, make([]byte, 4*dims[0]*dims[1]))
		}
		path := filepath.Join(t.TempDir(), "a.gguf")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const q = "blk.0.attn_q.weight"
	refused(file(map[string][]uint64{"token_embd.weight.lora_a": {8, 2}, "token_embd.weight.lora_b": {2, 8}}), "token_embd")
	refused(file(map[string][]uint64{q + ".lora_a": {256, 2}}), "missing")
	refused(file(map[string][]uint64{q + ".lora_a": {256, 2}, q + ".lora_b": {3, 256}}), "ranks of 2 and 3")
	refused(file(map[string][]uint64{q + ".lora_a": {128, 2}, q + ".lora_b": {2, 256}}), "the matrix is")
	refused(file(map[string][]uint64{q: {256, 2}}), "no factor")
	if _, err := library.OpenAdapter("x", adapterFolder("qwen2"), m); !errors.Is(err, library.ErrAdapter) {
		t.Errorf("%v is not of the kind that callers look for", err)
	}
}

// TestAdapterIsWeighed: the planner counts an adapter's bytes with the layers that it
// changes, and a stage needs the bytes of its own layers alone.
func TestAdapterIsWeighed(t *testing.T) {
	m := llama(t)
	a, err := library.OpenAdapter("a", adapterFolder("llama-a"), m)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	plain, err := m.Footprint(compute.KVClass{})
	if err != nil {
		t.Fatal(err)
	}
	with, err := m.Footprint(compute.KVClass{}, a)
	if err != nil {
		t.Fatal(err)
	}
	for i := range plain.Layers {
		if got, want := with.Layers[i]-plain.Layers[i], a.Packed(m, model.Part{First: i, End: i + 1}); got != want || want == 0 {
			t.Errorf("layer %d grows by %d, want %d", i, got, want)
		}
	}
	if with.Row <= plain.Row {
		t.Errorf("a row takes %d bytes with room for gate and up, %d without", with.Row, plain.Row)
	}
	var whole, parts uint64
	seen := map[library.Range]bool{}
	for _, r := range a.Needs(m, model.Whole(m.Spec)) {
		whole += r.Size
	}
	for i := range m.Spec.Layers {
		for _, r := range a.Needs(m, model.Part{First: i, End: i + 1}) {
			parts += r.Size
			if seen[r] {
				t.Errorf("%v is of two layers", r)
			}
			seen[r] = true
		}
	}
	if whole != parts || whole == 0 {
		t.Errorf("layers need %d bytes, the whole %d", parts, whole)
	}
}

// TestAdapterDigest: adapters that differ in a single value have different digests,
// and so never share answers or cached pages.
func TestAdapterDigest(t *testing.T) {
	m := llama(t)
	digest := func(path string) [32]byte {
		a, err := library.OpenAdapter("a", path, m)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		sum, err := a.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	data, err := os.ReadFile(filepath.Join(adapterFolder("llama-a"), "adapter.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	path := filepath.Join(t.TempDir(), "a.gguf")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	one := digest(filepath.Join(adapterFolder("llama-a"), "adapter.gguf"))
	if one == digest(path) || one != digest(filepath.Join(adapterFolder("llama-a"), "adapter.gguf")) {
		t.Error("the digest does not stand for the bytes")
	}
}
