package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
	"github.com/shoal-llm/shoal/pkg/vision"
	"github.com/shoal-llm/shoal/services/coordinator"
)

// seenPicture is a picture and where it stands in the prompt.
type seenPicture struct {
	frame.Picture
	name string
	file []byte
}

// encode turns the prompt into ids, by the model's chat template unless raw. Pictures
// stand before the text.
func (o *runOptions) encode(m *library.Model, vocab *token.Vocab, prompt string) ([]int32, []seenPicture, error) {
	if prompt == "" {
		return nil, nil, errors.New("the prompt is empty")
	}
	described, err := coordinator.NewModel(m, o.kv.KVClass, coordinator.Default().Wishes)
	if err != nil {
		return nil, nil, err
	}
	files, err := readImages(m, o.images)
	if err != nil {
		return nil, nil, err
	}
	ids, err := o.words(&described, vocab, prompt)
	if err != nil {
		return nil, nil, err
	}
	ids, pictures, err := described.Expand(ids, files)
	if err != nil {
		return nil, nil, err
	}
	var out []seenPicture
	for i, p := range pictures {
		out = append(out, seenPicture{p, o.images[i], files[i]})
	}
	return ids, out, nil
}

// words encodes the prompt with a coordinator.PictureID for each picture.
func (o *runOptions) words(m *coordinator.Model, vocab *token.Vocab, prompt string) ([]int32, error) {
	if !o.raw {
		var messages []coordinator.Message
		if o.system != "" {
			messages = append(messages, coordinator.Message{Role: "system", Content: o.system})
		}
		turn := coordinator.Message{Role: "user", Content: prompt}
		for range o.images {
			turn.Parts = append(turn.Parts, template.Part{Type: "image"})
		}
		if len(turn.Parts) > 0 {
			turn.Content, turn.Parts = "", append(turn.Parts, template.Part{Type: "text", Text: prompt})
		}
		ids, err := m.Text.Chat(append(messages, turn), nil)
		if !errors.Is(err, coordinator.ErrNoTemplate) {
			return ids, err
		}
	}
	if len(o.images) > 0 {
		prompt = "\n" + prompt
	}
	ids, err := m.Text.Raw(prompt)
	begin := 0 // pictures go behind the beginning of a text
	if vocab.AddBOS() && len(ids) > 0 && ids[0] == vocab.BOS() {
		begin = 1
	}
	return slices.Insert(ids, begin, slices.Repeat([]int32{coordinator.PictureID}, len(o.images))...), err
}

// readImages reads the files of pictures.
func readImages(m *library.Model, names []string) (files [][]byte, err error) {
	if len(names) > 0 && m.Vision == nil {
		return nil, fmt.Errorf("the model %s reads text alone: it cannot be seenPicture a picture", m.Name)
	}
	limits := vision.DefaultLimits()
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read picture: %w", err)
		}
		file, err := io.ReadAll(io.LimitReader(f, int64(limits.Bytes)+1))
		if err = errors.Join(err, f.Close()); err == nil {
			err = vision.Check(file, limits)
		}
		if err != nil {
			return nil, fmt.Errorf("read picture %s: %w", name, err)
		}
		files = append(files, file)
	}
	return files, nil
}

// look makes the rows of pictures.
func look(ctx context.Context, m *library.Model, pictures []seenPicture) (func([32]byte) []byte, error) {
	rows := map[[32]byte][]byte{}
	for _, p := range pictures {
		if rows[p.Hash] != nil {
			continue
		}
		values, err := m.Vision.Encode(ctx, p.file)
		if err != nil {
			return nil, fmt.Errorf("read picture %s: %w", p.name, err)
		}
		for _, v := range values {
			rows[p.Hash] = binary.LittleEndian.AppendUint32(rows[p.Hash], math.Float32bits(v))
		}
	}
	return func(hash [32]byte) []byte { return rows[hash] }, nil
}
