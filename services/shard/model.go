package shard

import (
	"errors"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/model"
)

// NewModel describes an open model file.
func NewModel(m *library.Model) *Model {
	out := &Model{
		Arch: m.Arch, Spec: m.Spec, Source: m.Source, Digest: m.Digest, File: m.FileDigest, Bytes: m.Bytes, Close: m.Close,
		Spelling: m.Spelling, Err: m.Err, file: m,
		Ahead: func(p model.Part) (model.Source, func()) {
			a := m.Ahead(p)
			return a, a.Close
		},
	}
	if m.Vision != nil {
		out.Vision = m.Vision
	}
	out.Rounded = func(recipe string) (*Model, error) {
		r, err := library.ParseRecipe(recipe)
		if err != nil {
			return nil, err
		}
		rounded, err := m.Rounded(r, nil)
		if err != nil {
			return nil, err
		}
		next := NewModel(rounded)
		next.stored = out.stored
		next.StandIns = rounded.StandIns() // what is only timed need not be rounded
		return next, nil
	}
	return out
}

// round rounds the model's weights as a plan says.
func (m *Model) round(recipe string) (*Model, error) {
	if recipe == "" {
		return m, nil
	}
	if m.Rounded == nil {
		return m, errors.New("its weights cannot be rounded")
	}
	out, err := m.Rounded(recipe)
	if err != nil {
		return m, err
	}
	return out, nil
}
