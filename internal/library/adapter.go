package library

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoal-llm/shoal/internal/library/checkpoint"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/gguf"
	"github.com/shoal-llm/shoal/pkg/model"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

// ErrAdapter says that a low-rank adapter cannot be used, or not with the model.
var ErrAdapter = errors.New("unsupported or invalid adapter")

func badAdapter(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrAdapter, fmt.Sprintf(format, args...))
}

// maxRank bounds the rank of an adapter.
const maxRank = 4096

// Adapter is a low-rank adapter (LoRA) of one model: a GGUF file, or a folder as PEFT
// saves it. Its factors are read when they are asked for. It is safe for concurrent use
// until Close.
type Adapter struct {
	Name string

	files   Files
	heads   []Range
	changes map[string]*lowRank // by the tensor that they change
	close   func() error
}

// lowRank is a change as files have it.
type lowRank struct {
	a, b  factor
	scale float32
	// heads is into how many heads the rows of b are cut, whose rotated pairs are to be
	// as the model has them: neighbours, or with apart half a head apart. 0: they are.
	heads int
	apart bool
}

// factor is a matrix of a file.
type factor struct {
	place      Range
	format     quant.Format
	rows, cols int
}

// OpenAdapter opens the adapter of a model at path, a GGUF file or a folder with
// adapter_config.json and adapter_model.safetensors.
func OpenAdapter(name, path string, m *Model) (*Adapter, error) {
	files, err := openDisk(path)
	if err != nil {
		return nil, fmt.Errorf("open adapter %s: %w", name, err)
	}
	a, err := OpenAdapterFiles(name, files, m)
	if err != nil {
		return nil, errors.Join(err, files.close())
	}
	a.close = files.close
	return a, nil
}

// OpenAdapterFiles opens the adapter of a model of which only what lies before the
// factors is read now. Files is used until the adapter is closed.
func OpenAdapterFiles(name string, files Files, m *Model) (*Adapter, error) {
	a := &Adapter{Name: name, files: files, changes: map[string]*lowRank{}, close: func() error { return nil }}
	read := a.readGGUF
	if slices.Contains(files.Names(), peftConfigName) {
		read = a.readPEFT
	}
	err := read(m)
	if err == nil {
		err = a.check(m)
	}
	if err != nil {
		return nil, fmt.Errorf("read adapter %s of model %s: %w", name, m.Name, err)
	}
	return a, nil
}

// readGGUF reads the description of a GGUF file.
func (a *Adapter) readGGUF(m *Model) error {
	names := slices.DeleteFunc(slices.Clone(a.files.Names()), func(s string) bool { return !strings.HasSuffix(strings.ToLower(s), ".gguf") })
	if len(names) != 1 {
		return badAdapter("among %s there is neither one GGUF file nor %s", strings.Join(a.files.Names(), ", "), peftConfigName)
	}
	opts := gguf.Options{Formats: formats.All()}
	head, err := headOf(a.files, names[0], opts)
	if err != nil {
		return err
	}
	f, err := gguf.ParseHeads([]gguf.Head{head}, opts)
	if err != nil {
		return err
	}
	file := ggufFile{File: f, names: names}
	a.heads = file.Heads()
	meta := f.Meta()
	if kind, _ := meta.String("general.type"); kind != "adapter" {
		return badAdapter("general.type is %.64q, want adapter", kind)
	}
	if kind, _ := meta.String("adapter.type"); kind != "lora" {
		return badAdapter("adapter.type is %.64q, want lora", kind)
	}
	if arch, _ := meta.String("general.architecture"); arch != m.Spec.Arch {
		return badAdapter("it is of architecture %.64q, the model of %s", arch, m.Spec.Arch)
	}
	alpha, _, err := gguf.Optional(meta.Float32("adapter.lora.alpha"))
	if err != nil {
		return err
	}
	for _, t := range f.Tensors() {
		name, which, ok := cutSuffixes(t.Name, ".lora_a", ".lora_b")
		if !ok || len(t.Dims) != 2 {
			return badAdapter("%.128q of %d dimensions is no factor of a low-rank change", t.Name, len(t.Dims))
		}
		d := ggufTensor(t)
		if err := a.add(name, which, factor{file.rangeOf(t), d.format, int(d.rows), int(d.cols)}); err != nil {
			return err
		}
	}
	for _, c := range a.changes {
		c.scale = 1
		if alpha != 0 {
			c.scale = alpha / float32(max(1, c.a.rows))
		}
	}
	return a.pair(m, false)
}

// cutSuffixes cuts one of two endings and says which.
func cutSuffixes(s, first, second string) (rest string, which int, ok bool) {
	if rest, ok = strings.CutSuffix(s, first); ok {
		return rest, 0, true
	}
	rest, ok = strings.CutSuffix(s, second)
	return rest, 1, ok
}

// add notes a factor of a change.
func (a *Adapter) add(tensor string, which int, f factor) error {
	c := a.changes[tensor]
	if c == nil {
		c = &lowRank{}
		a.changes[tensor] = c
	}
	to := &c.a
	if which == 1 {
		to = &c.b
	}
	if to.rows != 0 {
		return badAdapter("there are two factors of one kind for %.128s", tensor)
	}
	*to = f
	return nil
}

// check holds the changes against the model.
func (a *Adapter) check(m *Model) error {
	if len(a.changes) == 0 {
		return badAdapter("it changes nothing")
	}
	adaptable := m.Arch.Adaptable(m.Spec, model.Whole(m.Spec))
	for _, tensor := range a.tensors() {
		c := a.changes[tensor]
		if !slices.Contains(adaptable, tensor) {
			return badAdapter("it changes %.128s, which is not a matrix of attention or of a feed-forward network of this %s model", tensor, m.Spec.Arch)
		}
		if c.a.rows == 0 || c.b.rows == 0 {
			return badAdapter("one factor of the change of %s is missing", tensor)
		}
		if c.a.rows != c.b.cols || c.a.rows > maxRank {
			return badAdapter("the factors of %s have ranks of %d and %d, want one of at most %d", tensor, c.a.rows, c.b.cols, maxRank)
		}
		w, ok := m.file.Describe(tensor)
		if !ok || uint64(c.a.cols) != w.cols || uint64(c.b.rows) != w.rows {
			return badAdapter("the factors of %s make %d × %d, the matrix is %d × %d", tensor, c.b.rows, c.a.cols, w.rows, w.cols)
		}
		if v := float64(c.scale); math.IsNaN(v) || math.IsInf(v, 0) {
			return badAdapter("the scale of %s is %g", tensor, v)
		}
	}
	return nil
}

// tensors names what the adapter changes, in order.
func (a *Adapter) tensors() []string {
	var out []string
	for name := range a.changes {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Model returns the adapter as stages load it, for sessions that ask for it by id.
func (a *Adapter) Model(id string) model.Adapter {
	return model.Adapter{ID: id, Change: func(tensor string) (model.Change, bool, error) {
		c := a.changes[tensor]
		if c == nil {
			return model.Change{}, false, nil
		}
		first, err := a.float32s(c.a)
		if err != nil {
			return model.Change{}, false, err
		}
		second, err := a.float32s(c.b)
		if err != nil {
			return model.Change{}, false, err
		}
		if c.heads > 0 {
			second.Data = paired(second, c.heads, c.apart)
		}
		return model.Change{A: first, B: second, Scale: c.scale}, true, nil
	}}
}

// float32s reads a factor and widens it.
func (a *Adapter) float32s(f factor) (compute.Matrix, error) {
	plain, _ := formats.ByGGML(0)
	out := compute.Matrix{Format: plain, Rows: f.rows, Cols: f.cols}
	data, err := a.files.Read(f.place)
	if err != nil {
		return out, fmt.Errorf("read a factor: %w", err)
	}
	values := make([]float32, f.rows*f.cols)
	f.format.Decode(values, data)
	out.Data = make([]byte, 0, 4*len(values))
	for _, v := range values {
		out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(v))
	}
	return out, nil
}

// paired reorders rows: the values of a rotated pair are half a head apart, as
// frameworks have them, or neighbours, as in GGUF files of some architectures.
func paired(m compute.Matrix, heads int, apart bool) []byte {
	out := make([]byte, len(m.Data))
	size, dim := len(m.Data)/m.Rows, m.Rows/heads
	for row := range m.Rows {
		head, in := row/dim, row%dim
		near := head*dim + in%(dim/2)*2 + in/(dim/2)
		from, to := row, near
		if apart {
			from, to = near, row
		}
		copy(out[to*size:(to+1)*size], m.Data[from*size:])
	}
	return out
}

// pair notes which changes are to be reordered: those of queries and keys, if the
// adapter has pairs in the other way than the model.
func (a *Adapter) pair(m *Model, apart bool) error {
	halves, _ := m.Source.Meta().Bool(m.Spec.Arch + ".rope.halves")
	if !checkpoint.Halves(m.Spec.Arch) || halves == apart {
		return nil
	}
	for tensor, c := range a.changes {
		switch _, kind, _ := strings.Cut(strings.TrimPrefix(tensor, "blk."), "."); kind {
		case "attn_q.weight":
			c.heads, c.apart = m.Spec.Heads, halves
		case "attn_k.weight":
			c.heads, c.apart = m.Spec.KVHeads, halves
		}
		if c.heads > 0 && c.b.rows%(2*c.heads) != 0 {
			return badAdapter("%s has %d rows for %d heads", tensor, c.b.rows, c.heads)
		}
	}
	return nil
}

// Packed is the bytes that the factors of a part take on a device.
func (a *Adapter) Packed(m *Model, p model.Part) (n uint64) {
	a.each(m, p, func(c *lowRank) {
		for _, f := range []factor{c.a, c.b} {
			n += uint64(padTo(f.rows, quant.Lanes)) * uint64(f.cols) * 4
		}
	})
	return n
}

// Needs returns the bytes of files that a part needs, each once.
func (a *Adapter) Needs(m *Model, p model.Part) (out []Range) {
	a.each(m, p, func(c *lowRank) { out = append(out, c.a.place, c.b.place) })
	slices.SortFunc(out, func(a, b Range) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset)) })
	return out
}

func (a *Adapter) each(m *Model, p model.Part, f func(*lowRank)) {
	for _, name := range m.Arch.Adaptable(m.Spec, p) {
		if c := a.changes[name]; c != nil {
			f(c)
		}
	}
}

// Heads returns what must be there before the adapter can be opened.
func (a *Adapter) Heads() []Range { return a.heads }

// Bounds returns, by the name of the file, the offsets at which factors begin.
func (a *Adapter) Bounds() map[string][]uint64 {
	out := map[string][]uint64{}
	for _, c := range a.changes {
		for _, f := range []factor{c.a, c.b} {
			out[f.place.File] = append(out[f.place.File], f.place.Offset)
		}
	}
	for _, b := range out {
		slices.Sort(b)
	}
	return out
}

// Digest is the SHA-256 of all that the adapter does: names, scales and factors, which
// are read for it.
func (a *Adapter) Digest() (sum [32]byte, err error) {
	h := sha256.New()
	for _, tensor := range a.tensors() {
		c := a.changes[tensor]
		fmt.Fprintf(h, "%s %x %d\n", tensor, math.Float32bits(c.scale), c.heads)
		for _, f := range []factor{c.a, c.b} {
			fmt.Fprintf(h, "%s %d %d\n", f.format.Name, f.rows, f.cols)
			data, err := a.files.Read(f.place)
			if err != nil {
				return sum, fmt.Errorf("read adapter %s: %w", a.Name, err)
			}
			h.Write(data)
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

// Close releases the files.
func (a *Adapter) Close() error { return a.close() }

// diskFiles are files of a folder of this machine.
type diskFiles struct {
	names []string
	open  map[string]*os.File
	sizes map[string]uint64
}

var _ Files = (*diskFiles)(nil)

// openDisk opens an adapter's files: one file, or those of a folder that adapters have.
func openDisk(path string) (*diskFiles, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	d := &diskFiles{open: map[string]*os.File{}, sizes: map[string]uint64{}}
	folder, names := filepath.Dir(path), []string{filepath.Base(path)}
	if info.IsDir() {
		folder, names = path, []string{peftConfigName, peftWeightsName}
	}
	for _, name := range names {
		f, err := openRegular(filepath.Join(folder, name))
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.names, d.open[name] = append(d.names, name), f
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.sizes[name] = uint64(info.Size())
	}
	return d, nil
}

// openRegular opens a file that is no pipe or device, which could block.
func openRegular(path string) (*os.File, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.Open(path)
}

func (d *diskFiles) close() error {
	var errs []error
	for _, f := range d.open {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Names returns the names of the files.
func (d *diskFiles) Names() []string { return d.names }

// Size returns the bytes of a file.
func (d *diskFiles) Size(name string) uint64 { return d.sizes[name] }

// Head reads the beginning of a file.
func (d *diskFiles) Head(name string, n uint64) ([]byte, error) {
	return d.Read(Range{File: name, Size: min(n, d.sizes[name])})
}

// Read reads bytes of a file.
func (d *diskFiles) Read(r Range) ([]byte, error) {
	f, ok := d.open[r.File]
	if !ok || r.Offset+r.Size < r.Offset || r.Offset+r.Size > d.sizes[r.File] {
		return nil, fmt.Errorf("bytes [%d, %d) of %s: %w", r.Offset, r.Offset+r.Size, r.File, io.ErrUnexpectedEOF)
	}
	out := make([]byte, r.Size)
	_, err := f.ReadAt(out, int64(r.Offset))
	return out, err
}
