// Package visiontest makes up vision encoders and pictures for tests.
package visiontest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"

	"github.com/shoal-llm/shoal/pkg/gguf/gguftest"
)

// Rows is how many rows the encoder makes of a picture.
const Rows = 4

// Sizes of the encoder.
const (
	side, patch = 28, 14
	width, ffn  = 32, 64
	blocks      = 2
)

// File is a GGUF file of an encoder whose rows have hidden values of about the size
// scale. Its weights are random, and a function of seed. Change may set metadata to
// other values, or to nil, which leaves them out.
func File(hidden int, seed uint64, scale float64, change map[string]any) []byte {
	b := gguftest.New()
	meta := []struct {
		key   string
		value any
	}{
		{"general.architecture", "clip"},
		{"clip.projector_type", "mlp"}, {"clip.use_gelu", false}, {"clip.use_silu", nil},
		{"clip.vision.image_size", uint32(side)}, {"clip.vision.patch_size", uint32(patch)},
		{"clip.vision.embedding_length", uint32(width)}, {"clip.vision.feed_forward_length", uint32(ffn)},
		{"clip.vision.block_count", uint32(blocks)}, {"clip.vision.attention.head_count", uint32(2)},
		{"clip.vision.attention.layer_norm_epsilon", float32(1e-5)},
		{"clip.vision.image_mean", []float32{0.5, 0.5, 0.5}}, {"clip.vision.image_std", []float32{0.25, 0.25, 0.25}},
	}
	for _, m := range meta {
		value, changed := change[m.key]
		if !changed {
			value = m.value
		}
		if value != nil {
			b.KV(m.key, value)
		}
	}
	r := rand.New(rand.NewPCG(seed, 1))
	tensor := func(name string, size float64, dims ...uint64) {
		n := uint64(1)
		for _, d := range dims {
			n *= d
		}
		data := make([]byte, 0, 4*n)
		for range n {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(r.NormFloat64()*size)))
		}
		b.Tensor(name, dims, 0, data)
	}
	dense := func(name string, rows, cols int) {
		tensor(name+".weight", 1/math.Sqrt(float64(cols)), uint64(cols), uint64(rows))
		tensor(name+".bias", 0.1, uint64(rows))
	}
	norm := func(name string) {
		tensor(name+".weight", 1, width)
		tensor(name+".bias", 0.1, width)
	}
	tensor("v.class_embd", 1, width)
	tensor("v.position_embd.weight", 0.3, width, Rows+1)
	tensor("v.patch_embd.weight", 1.0/patch, patch, patch, 3, width)
	norm("v.pre_ln")
	for i := range blocks {
		at := fmt.Sprintf("v.blk.%d.", i)
		norm(at + "ln1")
		norm(at + "ln2")
		for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_out"} {
			dense(at+name, width, width)
		}
		dense(at+"ffn_up", ffn, width)
		dense(at+"ffn_down", width, ffn)
	}
	dense("mm.0", hidden, width)
	tensor("mm.2.weight", scale/math.Sqrt(float64(hidden)), uint64(hidden), uint64(hidden))
	tensor("mm.2.bias", scale, uint64(hidden))
	return b.Bytes()
}

// Picture is a PNG of stripes, which differ from seed to seed.
func Picture(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	m := image.NewRGBA(image.Rect(0, 0, 40, 30))
	for x := range 40 {
		c := color.RGBA{uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32()), 255}
		for y := range 30 {
			m.SetRGBA(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err) // a picture in memory can always be written
	}
	return b.Bytes()
}
