package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/safetensors"
	"github.com/shoal-llm/shoal/pkg/token"
)

// small is a config.json of one layer with heads of 8.
func small(changes map[string]any) string {
	c := map[string]any{
		"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
		"intermediate_size": 32, "max_position_embeddings": 64, "vocab_size": 4, "rms_norm_eps": 1e-5, "hidden_act": "silu",
	}
	maps.Copy(c, changes)
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// smallNames are the tensors that fit small; their shapes do not matter here.
var smallNames = []string{
	"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
	"model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
	"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight",
	"model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
}

// weights is a file of tensors of one value each.
func weights(dtype string, size int, names ...string) string {
	header := map[string]any{}
	for i, name := range names {
		header[name] = map[string]any{"dtype": dtype, "shape": []int{1, 1}, "data_offsets": []int{i * size, (i + 1) * size}}
	}
	text, err := json.Marshal(header)
	if err != nil {
		panic(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return string(out) + string(text) + strings.Repeat("\x00", size*len(names))
}

// write makes a model folder.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func openFiles(t *testing.T, files map[string]string) (*Checkpoint, error) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	c, err := Open(dir, formats.All())
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestSmallFolder(t *testing.T) {
	c, err := openFiles(t, map[string]string{
		ConfigName: small(map[string]any{"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 5e5}}), safetensors.SingleName: weights("F32", 4, smallNames...),
		"tokenizer_config.json":  `{"chat_template":[{"name":"tool_use","template":"no"},{"name":"default","template":"yes"}]}`,
		"generation_config.json": `{"temperature":0.5,"top_k":7}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"general.architecture": "llama", "llama.rope.freq_base": 5e5, "llama.attention.key_length": uint64(8), "llama.rope.halves": true,
		"tokenizer.chat_template": "yes", "general.sampling.temp": 0.5, "general.sampling.top_k": uint64(7),
	} {
		if got := c.Meta()[key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if len(c.Tensors()) != len(smallNames) {
		t.Errorf("%d tensors of %d", len(c.Tensors()), len(smallNames))
	}
}

// TestRefusals: what would change the answer and is not done is refused by name.
func TestRefusals(t *testing.T) {
	good := weights("F32", 4, smallNames...)
	rope := func(v map[string]any) map[string]any { return map[string]any{"rope_scaling": v} }
	for name, c := range map[string]struct {
		config  map[string]any
		weights string
		says    string
	}{
		"unknown type":      {map[string]any{"model_type": "mamba"}, good, "mamba"},
		"activation":        {map[string]any{"hidden_act": "relu"}, good, "relu"},
		"packed weights":    {map[string]any{"quantization_config": map[string]any{"quant_method": "gptq"}}, good, "quantization_config"},
		"position scaling":  {rope(map[string]any{"rope_type": "dynamic", "factor": 2}), good, "dynamic"},
		"scaling of llama3": {rope(map[string]any{"rope_type": "llama3", "factor": 2}), good, "llama3"},
		"nested rope":       {map[string]any{"rope_parameters": map[string]any{"full_attention": map[string]any{}}}, good, "rope_theta"},
		"window":            {map[string]any{"use_sliding_window": true}, good, "use_sliding_window"},
		"layer types":       {map[string]any{"layer_types": []string{"linear_attention"}}, good, "linear_attention"},
		"experts":           {map[string]any{"num_local_experts": 4}, good, "experts"},
		"no heads":          {map[string]any{"num_attention_heads": 0}, good, "num_attention_heads"},
		"bias":              {nil, weights("F32", 4, append([]string{"model.layers.0.self_attn.q_proj.bias"}, smallNames...)...), "q_proj.bias"},
		"no head":           {nil, weights("F32", 4, smallNames[1:]...), "lm_head.weight"},
		"eight bits":        {nil, weights("F8_E4M3", 1, smallNames...), "F8_E4M3"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openFiles(t, map[string]string{ConfigName: small(c.config), safetensors.SingleName: c.weights})
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v that says %s", err, ErrConfig, c.says)
			}
		})
	}
}

// TestBadTokenizers is row T03 and what contradicts itself.
func TestBadTokenizers(t *testing.T) {
	bytes := `"pre_tokenizer":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":%s,"merges":%s}`
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"too big":         {"{" + strings.Repeat(" ", maxTokenizerBytes) + "}", ErrTooBig},
		"costly pattern":  {`{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a+)+$"}},{"type":"ByteLevel"}]},"model":{"type":"BPE"}}`, token.ErrPreTokenizer},
		"another kind":    {`{"model":{"type":"WordPiece"}}`, token.ErrModel},
		"id too large":    {"{" + fmt.Sprintf(bytes, `{"a":4}`, `[]`) + "}", token.ErrTokenizer},
		"id below 0":      {"{" + fmt.Sprintf(bytes, `{"a":-1}`, `[]`) + "}", token.ErrTokenizer},
		"id of two":       {"{" + fmt.Sprintf(bytes, `{"a":1,"b":1}`, `[]`) + "}", token.ErrTokenizer},
		"no byte to fall": {`{"model":{"type":"BPE","vocab":{"a":0}}}`, token.ErrModel},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openFiles(t, map[string]string{
				ConfigName: small(nil), safetensors.SingleName: weights("F32", 4, smallNames...), "tokenizer.json": c.text,
			})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestHubCache: in a cache of the hub files are links to blobs of the same model;
// links to anywhere else are refused.
func TestHubCache(t *testing.T) {
	model := filepath.Join(t.TempDir(), "models--org--name")
	snapshot, blobs := filepath.Join(model, "snapshots", "abc"), filepath.Join(model, "blobs")
	if err := errors.Join(os.MkdirAll(snapshot, 0o700), os.MkdirAll(blobs, 0o700)); err != nil {
		t.Fatal(err)
	}
	write(t, blobs, map[string]string{"1": small(nil), "2": weights("F32", 4, smallNames...)})
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(snapshot, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("../../blobs/1", ConfigName)
	link("../../blobs/2", safetensors.SingleName)
	c, err := Open(snapshot, formats.All())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	outside := filepath.Join(t.TempDir(), "w")
	if err := errors.Join(os.Rename(filepath.Join(blobs, "2"), outside), os.Symlink(outside, filepath.Join(blobs, "2"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(snapshot, formats.All()); !errors.Is(err, safetensors.ErrPath) {
		t.Errorf("a link out of the cache: %v, want %v", err, safetensors.ErrPath)
	}
}
