package shard

import (
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/model"
)

// NewModel describes an open model file.
func NewModel(m *library.Model) *Model {
	out := &Model{
		Arch: m.Arch, Spec: m.Spec, Source: m.Source, Digest: m.Digest, Bytes: m.Bytes, Close: m.Close,
		Spelling: m.Spelling, Err: m.Err,
		Ahead: func(p model.Part) (model.Source, func()) {
			a := m.Ahead(p)
			return a, a.Close
		},
	}
	if m.Vision != nil {
		out.Vision = m.Vision
	}
	return out
}
