package vision

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/p16"
)

// ErrEncoder says that a vision encoder makes no sense or is of a kind that this build
// does not run.
var ErrEncoder = errors.New("unsupported or invalid vision encoder")

// Bounds of what a file may claim.
const (
	maxSide   = 2048 // pixels
	maxWidth  = 1 << 14
	maxBlocks = 256
	maxHeads  = 256
)

// Encoder turns pictures into rows that a language model takes in place of
// embeddings. It is not changed and safe for concurrent use, as long as the file that
// it was made of is open: weights stay there as they are stored.
type Encoder struct {
	preprocess Preprocess
	tower      tower
	bytes      uint64
}

// reader makes an encoder and keeps the first error.
type reader struct {
	src   model.Source
	err   error
	bytes uint64
}

// New makes the encoder of a source with the keys and names of GGUF files of CLIP
// encoders. Plain is the format of float32, whose kernels multiply. Errors wrap
// ErrEncoder.
func New(src model.Source, plain quant.Format) (*Encoder, error) {
	r := &reader{src: src}
	e := &Encoder{}
	if kind, _ := src.Meta().String("clip.projector_type"); kind != "mlp" {
		return nil, fmt.Errorf("%w: a projector of type %.32q; this build runs LLaVA's, which is \"mlp\"", ErrEncoder, kind)
	}
	if plain.CPU == nil || plain.CPU.Act != quant.ActF32 {
		return nil, fmt.Errorf("%w: no kernels for float32", ErrEncoder)
	}
	e.read(r)
	e.tower.kernel = kernel{cpu: plain.CPU, multiply: plain.CPU.MatMul(p16.Best()), workers: runtime.GOMAXPROCS(0)}
	e.bytes = r.bytes
	return e, r.err
}

// Rows is how many rows stand for a picture.
func (e *Encoder) Rows() int { return e.tower.side * e.tower.side }

// Width is the length of a row, which is the width of the language model.
func (e *Encoder) Width() int { return e.tower.projected.rows }

// Kept is of how many pictures a node keeps the rows.
const Kept = 24

// Memory is the bytes of the weights, which stay in the mapped file, and of the rows of
// Kept pictures.
func (e *Encoder) Memory() uint64 { return e.bytes + Kept*uint64(e.Rows())*uint64(e.Width())*4 }

// Encode decodes a picture and returns its rows, one after the other. Errors of the
// picture are those of Decode; another is that of ctx.
func (e *Encoder) Encode(ctx context.Context, picture []byte) ([]float32, error) {
	p, err := Decode(picture, DefaultLimits())
	if err != nil {
		return nil, err
	}
	return e.tower.features(ctx, e.preprocess.Values(p))
}

func (e *Encoder) read(r *reader) {
	t := &e.tower
	side := r.count("clip.vision.image_size", maxSide)
	t.patch = r.count("clip.vision.patch_size", maxSide)
	t.width = r.count("clip.vision.embedding_length", maxWidth)
	t.heads = r.count("clip.vision.attention.head_count", maxHeads)
	blocks := r.count("clip.vision.block_count", maxBlocks)
	ffn := r.count("clip.vision.feed_forward_length", maxWidth)
	if r.err != nil {
		return
	}
	meta := r.src.Meta()
	t.epsilon, _ = meta.Float64("clip.vision.attention.layer_norm_epsilon")
	gelu, _ := meta.Bool("clip.use_gelu")
	t.quick = !gelu
	if silu, _ := meta.Bool("clip.use_silu"); silu {
		r.fail("the activation SiLU")
	}
	e.preprocess = Preprocess{Size: side, Crop: side, Mean: r.three("clip.vision.image_mean"), Std: r.three("clip.vision.image_std")}
	if err := e.preprocess.Check(); err != nil {
		r.fail("%v", err)
	}
	switch {
	case side%t.patch != 0:
		r.fail("pictures of %d pixels in patches of %d", side, t.patch)
	case t.width%t.heads != 0:
		r.fail("rows of %d values for %d heads", t.width, t.heads)
	case !(t.epsilon > 0):
		r.fail("a layer norm's epsilon of %g", t.epsilon)
	}
	if r.err != nil {
		return
	}
	t.side = side / t.patch
	t.class = r.values("v.class_embd", t.width)
	t.positions = r.values("v.position_embd.weight", (1+e.Rows())*t.width)
	t.patches = r.matrix("v.patch_embd.weight", t.width, 3*t.patch*t.patch)
	t.before = r.norm("v.pre_ln", t.width)
	for i := 0; i < blocks && r.err == nil; i++ {
		t.blocks = append(t.blocks, r.block(fmt.Sprintf("v.blk.%d.", i), t.width, ffn))
	}
	t.project = r.dense("mm.0", r.rows("mm.0.weight"), t.width)
	t.projected = r.dense("mm.2", r.rows("mm.2.weight"), t.project.rows)
}

// block reads a layer. Which of the two dense layers is called up and which down
// depends on the age of the file: their shapes tell.
func (r *reader) block(at string, width, ffn int) block {
	up, down := at+"ffn_up", at+"ffn_down"
	if r.rows(up+".weight") != ffn {
		up, down = down, up
	}
	return block{
		norm1: r.norm(at+"ln1", width), norm2: r.norm(at+"ln2", width),
		q: r.dense(at+"attn_q", width, width), k: r.dense(at+"attn_k", width, width), v: r.dense(at+"attn_v", width, width),
		o: r.dense(at+"attn_out", width, width), expand: r.dense(up, ffn, width), contract: r.dense(down, width, ffn),
	}
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrEncoder, fmt.Sprintf(format, args...))
	}
}

func (r *reader) count(key string, most int) int {
	v, ok := r.src.Meta().Uint64(key)
	if !ok || v < 1 || v > uint64(most) {
		r.fail("%s is missing or not from 1 to %d", key, most)
		return 1
	}
	return int(v)
}

// three reads a number for each channel.
func (r *reader) three(key string) (out [3]float32) {
	list, ok := r.src.Meta().Float64s(key)
	if !ok || len(list) != len(out) {
		r.fail("%s does not have 3 numbers", key)
		return out
	}
	for i, v := range list {
		out[i] = float32(v)
	}
	return out
}

func (r *reader) tensor(name string) compute.Matrix {
	m, ok := r.src.Tensor(name)
	if !ok {
		r.fail("there is no %s", name)
	}
	return m
}

// rows is how many a matrix has, or 1 and an error.
func (r *reader) rows(name string) int {
	m := r.tensor(name)
	if r.err == nil && m.Rows > maxWidth {
		r.fail("%s has %d rows", name, m.Rows)
	}
	if r.err != nil {
		return 1
	}
	return m.Rows
}

// matrix returns the weights of a name as rows of cols values; files may shape them
// otherwise.
func (r *reader) matrix(name string, rows, cols int) dense {
	m := r.tensor(name)
	if r.err != nil {
		return dense{rows: 1, cols: cols}
	}
	if m.Rows*m.Cols != rows*cols || m.Cols != cols && m.Format.BlockElems != 1 {
		r.fail("%s is %d × %d, want %d × %d", name, m.Rows, m.Cols, rows, cols)
		return dense{rows: 1, cols: cols}
	}
	r.bytes += uint64(len(m.Data))
	return dense{rows: rows, cols: cols, format: m.Format, data: m.Data}
}

// values decodes n numbers.
func (r *reader) values(name string, n int) []float32 {
	out := make([]float32, n)
	d := r.matrix(name, 1, n)
	if r.err != nil {
		return out
	}
	d.row(out, 0)
	for _, v := range out {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			r.fail("%s is not finite", name)
		}
	}
	return out
}

func (r *reader) dense(name string, rows, cols int) dense {
	d := r.matrix(name+".weight", rows, cols)
	d.bias = r.values(name+".bias", rows)
	return d
}

func (r *reader) norm(name string, n int) norm {
	return norm{r.values(name+".weight", n), r.values(name+".bias", n)}
}
