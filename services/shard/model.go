package shard

import "github.com/shoal-llm/shoal/internal/library"

// NewModel describes an open model file.
func NewModel(m *library.Model) *Model {
	out := &Model{
		Arch: m.Arch, Spec: m.Spec, Source: m.Source, Digest: m.Digest, Bytes: m.Bytes, Close: m.Close,
		Spelling: m.Spelling, Err: m.Err, file: m,
	}
	if m.Vision != nil {
		out.Vision = m.Vision
	}
	return out
}
