package main

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/measure"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
	"github.com/shoal-llm/shoal/pkg/vision"
)

// Sizes of the encoder of LLaVA 1.5: CLIP ViT-L/14 at 336 pixels, without its last
// layer, and a projector to rows of 4096.
const (
	towerSide, towerPatch    = 336, 14
	towerWidth, towerFFN     = 1024, 4096
	towerBlocks, towerHeads  = 23, 16
	towerHidden, towerFormat = 4096, "F16"
	towerPictures            = 2
)

// pictures measures how long the processor takes for the rows of one picture, with
// random weights.
func pictures(ctx context.Context, about measure.Figure) ([]measure.Figure, error) {
	half, ok := formats.ByName(towerFormat)
	plain, _ := formats.ByGGML(0)
	if !ok {
		return nil, fmt.Errorf("no weight format %s", towerFormat)
	}
	e, err := vision.New(&towerSource{half: half, plain: plain, rng: rand.New(rand.NewPCG(1, 2))}, plain)
	if err != nil {
		return nil, err
	}
	m := image.NewRGBA(image.Rect(0, 0, 640, 480))
	for i := range 640 * 480 {
		m.Set(i%640, i/640, color.RGBA{uint8(i), uint8(i / 640), uint8(i / 7), 255})
	}
	var file bytes.Buffer
	if err := png.Encode(&file, m); err != nil {
		return nil, err
	}
	var took, busy []float64
	for range towerPictures + 1 { // the first warms up
		began, before := time.Now(), processorSeconds()
		if _, err := e.Encode(ctx, file.Bytes()); err != nil {
			return nil, err
		}
		took, busy = append(took, time.Since(began).Seconds()), append(busy, processorSeconds()-before)
	}
	whole, alone := about, about
	whole.Name, whole.Unit, whole.Runs, whole.Value = "picture_clip_l_336", "s a picture", towerPictures, measure.Median(took[1:])
	alone.Name, alone.Unit, alone.Runs, alone.Value = "picture_clip_l_336_processor", "processor s a picture, of all threads", towerPictures, measure.Median(busy[1:])
	if alone.Value == 0 { // not known on this system
		return []measure.Figure{whole}, nil
	}
	return []measure.Figure{whole, alone}, nil
}

// towerSource is random weights of an encoder.
type towerSource struct {
	half, plain quant.Format
	rng         *rand.Rand
}

func (s *towerSource) Meta() model.Meta { return towerMeta{} }

// Tensor makes a tensor; its values are below 1/16.
func (s *towerSource) Tensor(name string) (compute.Matrix, bool) {
	rows, cols := 1, towerWidth
	switch {
	case strings.HasSuffix(name, "ln1.bias"), strings.HasSuffix(name, "ln2.bias"), strings.HasSuffix(name, "pre_ln.bias"): // as their weights
	case strings.HasPrefix(name, "mm."):
		rows, cols = towerHidden, towerHidden
		if name == "mm.0.weight" {
			cols = towerWidth
		}
	case name == "v.position_embd.weight":
		rows = 1 + towerSide/towerPatch*towerSide/towerPatch
	case name == "v.patch_embd.weight":
		rows, cols = towerWidth, 3*towerPatch*towerPatch
	case strings.Contains(name, "ffn_up"):
		rows = towerFFN
	case strings.Contains(name, "ffn_down"):
		rows, cols = towerWidth, towerFFN
	case strings.Contains(name, "attn_"):
		rows = towerWidth
	}
	if strings.HasSuffix(name, ".bias") && rows > 1 {
		rows, cols = 1, rows
	}
	m := compute.Matrix{Name: name, Format: s.plain, Rows: rows, Cols: cols}
	if rows > 1 {
		m.Format = s.half
	}
	m.Data = make([]byte, rows*cols*m.Format.BlockBytes)
	top := m.Format.BlockBytes - 1
	for i := range m.Data {
		if m.Data[i] = byte(s.rng.Uint32()); i%m.Format.BlockBytes == top {
			m.Data[i] = m.Data[i]&0x80 | 0x28
		}
	}
	return m, true
}

// towerMeta is the encoder's hyperparameters.
type towerMeta struct{}

func (towerMeta) String(key string) (string, bool) { return "mlp", key == "clip.projector_type" }

func (towerMeta) Uint64(key string) (uint64, bool) {
	v, ok := map[string]uint64{
		"image_size": towerSide, "patch_size": towerPatch, "embedding_length": towerWidth, "attention.head_count": towerHeads,
		"block_count": towerBlocks, "feed_forward_length": towerFFN,
	}[strings.TrimPrefix(key, "clip.vision.")]
	return v, ok
}

func (towerMeta) Float64(key string) (float64, bool) { return 1e-5, true }
func (towerMeta) Bool(key string) (bool, bool)       { return false, true }
func (towerMeta) Uint64s(string) ([]uint64, bool)    { return nil, false }
func (towerMeta) Float64s(key string) ([]float64, bool) {
	return []float64{0.5, 0.5, 0.5}, true
}
