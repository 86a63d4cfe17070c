package synthetic

// meta answers as the metadata of a Llama file of a shape would.
type meta Shape

// String returns the architecture and the name.
func (m meta) String(key string) (string, bool) {
	switch key {
	case "general.architecture":
		return "llama", true
	case "general.name":
		return Prefix + m.Name, true
	}
	return "", false
}

// Uint64 returns a size.
func (m meta) Uint64(key string) (uint64, bool) {
	v, ok := map[string]int{
		"llama.block_count":             m.Layers,
		"llama.embedding_length":        m.Hidden,
		"llama.context_length":          m.Context,
		"llama.attention.head_count":    m.Heads,
		"llama.attention.head_count_kv": m.KVHeads,
		"llama.feed_forward_length":     m.FF,
		"llama.vocab_size":              m.Vocab,
	}[key]
	return uint64(v), ok
}

// Float64 returns what Llama 3 has.
func (m meta) Float64(key string) (float64, bool) {
	switch key {
	case "llama.attention.layer_norm_rms_epsilon":
		return 1e-5, true
	case "llama.rope.freq_base":
		return 500000, true
	}
	return 0, false
}

// Bool finds nothing.
func (m meta) Bool(string) (bool, bool) { return false, false }

// Uint64s finds nothing.
func (m meta) Uint64s(string) ([]uint64, bool) { return nil, false }
