package synthetic

import "strings"

// meta answers as the metadata of a file of a shape would.
type meta Shape

// String returns the architecture and the name.
func (m meta) String(key string) (string, bool) {
	switch key {
	case "general.architecture":
		return m.arch(), true
	case "general.name":
		return Prefix + m.Name, true
	}
	return "", false
}

func (m meta) arch() string {
	if m.Arch == "" {
		return "llama"
	}
	return m.Arch
}

// own returns what follows the architecture's name in a key.
func (m meta) own(key string) string {
	own, _ := strings.CutPrefix(key, m.arch()+".")
	return own
}

// Uint64 returns a size.
func (m meta) Uint64(key string) (uint64, bool) {
	sizes := map[string]int{
		"block_count":             m.Layers,
		"embedding_length":        m.Hidden,
		"context_length":          m.Context,
		"attention.head_count":    m.Heads,
		"attention.head_count_kv": m.KVHeads,
		"feed_forward_length":     m.FF,
		"vocab_size":              m.Vocab,
	}
	if m.Experts > 0 {
		sizes["expert_count"], sizes["expert_used_count"], sizes["expert_feed_forward_length"] = m.Experts, m.Used, m.FF
	}
	v, ok := sizes[m.own(key)]
	return uint64(v), ok
}

// Float64 returns what Llama 3 has, and the caps of Gemma 2.
func (m meta) Float64(key string) (float64, bool) {
	switch m.own(key) {
	case "attention.layer_norm_rms_epsilon":
		return 1e-5, true
	case "rope.freq_base":
		return 500000, true
	case "attn_logit_softcapping":
		return 50, true
	case "final_logit_softcapping":
		return 30, true
	}
	return 0, false
}

// Bool finds nothing.
func (m meta) Bool(string) (bool, bool) { return false, false }

// Uint64s finds nothing.
func (m meta) Uint64s(string) ([]uint64, bool) { return nil, false }

// Float64s is that of no key.
func (m meta) Float64s(string) ([]float64, bool) { return nil, false }
