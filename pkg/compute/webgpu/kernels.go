//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package webgpu

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/webgpu/device"
	"github.com/shoal-llm/shoal/pkg/quant"
	"github.com/shoal-llm/shoal/pkg/quant/formats"
)

//go:embed wgsl/*.wgsl
var sources embed.FS

// kernel names a pipeline: an operation, and the sizes that are written into its
// code.
type kernel struct {
	op       *op
	format   uint32 // GGML number of the weights' format
	segments int    // of a row of weights
	norm     bool
	groups   int // matvec: row groups of a workgroup
	steps    int // matvec: how often a group takes rows
	rows     int // matvec: that a group takes at a time, 2 or 4
	dim      int // attention: head dimension
	class    compute.KVClass
	apart    bool // rope: keys and values are stored by a kernel of its own
	act      int  // matmulGate
}

// op is an operation's code: the files of a kernel and its bindings.
type op struct {
	name     string
	files    string // besides common
	bindings string
	weights  bool
}

// The kernels' code. Bindings of group 0: u parameters, r read, w written.
var (
	embedOp      = &op{"embed", "embed", "urrw", true}
	writeOp      = &op{"write", "write", "uw", false}
	overwriteOp  = &op{"overwrite", "overwrite", "uw", false}
	squaresOp    = &op{"squares", "squares", "urw", false}
	matvecOp     = &op{"matvec", "finish_store store matvec", "urrrrwww", true}
	matvecAddOp  = &op{"matvec add", "finish_store add matvec", "urrrrwww", true}
	matvecGateOp = &op{"matvec gate", "finish_gate matvec", "urrrrwww", true}
	matmulOp     = &op{"matmul", "matmul_store store matmul", "urrrrwwwr", true}
	matmulAddOp  = &op{"matmul add", "matmul_store add matmul", "urrrrwwwr", true}
	matmulGateOp = &op{"matmul gate", "matmul_gate matmul", "urrrrwwwr", true}
	activateOp   = &op{"activate", "activate", "urrw", false}
	matvecRopeOp = &op{"matvec rope", "rotate finish_rope matvec", "urrrrwwwrw", true}
	ropeOp       = &op{"rope", "rotate rope", "urwwrw", false}
	attendOp     = &op{"attend", "attend attend_floats", "urrww", false}
	attendCodeOp = &op{"attend", "attend packed turn attend_packed", "urrww", false}
	keepOp       = &op{"keep", "packed turn halves keep", "urrw", false}
	lowerOp      = &op{"lower", "packed halves lower", "uw", false}
	joinOp       = &op{"join", "join", "urw", false}
	pickOp       = &op{"pick", "pick", "urw", false}
	pickedOp     = &op{"picked", "picked", "urw", false}
	scaleOp      = &op{"scale", "scale", "uw", false}
	capOp        = &op{"cap", "cap", "uw", false}
	biasOp       = &op{"bias", "bias", "urrrwww", false}
	normHeadsOp  = &op{"norm heads", "norm_heads", "urrww", false}
	normAddOp    = &op{"norm add", "norm_add", "urrw", false}
	routeOp      = &op{"route", "route", "urw", false}
	expertOp     = &op{"expert", "finish_expert matvec", "urrrrwwwr", true}
	expertsOp    = &op{"experts", "experts", "urrw", false}
)

// code returns the WGSL of a kernel: constants, then files. Nothing is decided by
// a preprocessor.
func (k kernel) code() string {
	g := geometryOf(k.segments * quant.SegmentCols)
	var b strings.Builder
	constant := func(name string, v int) { fmt.Fprintf(&b, "const %s: u32 = %du;\n", name, v) }
	threads := g.lanes * k.groups
	if k.segments > 0 {
		constant("SEGMENTS", g.segments)
		constant("CHUNKS", g.chunks)
		constant("LANES", g.lanes)
	}
	if k.groups > 0 {
		slots := k.rows * k.groups * k.steps
		constant("GROUPS", k.groups)
		constant("STEPS", k.steps)
		constant("ROWS", k.rows)
		constant("SLOTS", slots)
		constant("THREADS", threads)
		constant("STRIDE", g.stride())
		constant("SUMS", (slots+1)*g.stride())
	}
	if k.dim > 0 {
		constant("DIM", k.dim)
		constant("QUADS", k.dim/4)
	}
	constant("ACT", k.act)
	if k.class != (compute.KVClass{}) {
		constant("BITS", k.class.Bits)
		constant("UPPER", k.class.Upper)
		constant("GROUP", max(k.class.Group, 1))
		constant("KEY_GROUP", max(k.class.KeyGroup(), 1))
		constant("KEY_GROUPS", k.keyGroups())
		constant("RECENT", k.class.Recent/compute.PageTokens)
		constant("FAR", k.class.Far/compute.PageTokens)
		fmt.Fprintf(&b, "const STEPS: bool = %t;\n", k.class.Steps())
	}
	fmt.Fprintf(&b, "const APART: bool = %t;\n", k.apart)
	fmt.Fprintf(&b, "const NORM: bool = %t;\n", k.norm)
	b.WriteString(source("common"))
	if k.op.weights {
		f, _ := formats.ByGGML(k.format)
		constant("VECTORS", f.GPU.Vectors)
		constant("WORDS", f.GPU.Words)
		b.WriteString(source("weights"))
		b.WriteString(f.GPU.WGSL)
	}
	for _, file := range strings.Fields(k.op.files) {
		b.WriteString(source(file))
	}
	// A workgroup's size may not be a named constant in this dialect.
	return strings.NewReplacer(
		"@workgroup_size(THREADS)", fmt.Sprintf("@workgroup_size(%d)", threads),
		"@workgroup_size(LANES)", fmt.Sprintf("@workgroup_size(%d)", g.lanes),
		"@workgroup_size(DIM)", fmt.Sprintf("@workgroup_size(%d)", k.dim),
		"array<f32, SUMS>", fmt.Sprintf("array<f32, %d>", (k.rows*k.groups*k.steps+1)*g.stride()),
		"array<f32, LANES>", fmt.Sprintf("array<f32, %d>", g.lanes),
		"array<f32, DIM>", fmt.Sprintf("array<f32, %d>", k.dim),
		"array<f32, KEY_GROUPS>", fmt.Sprintf("array<f32, %d>", k.keyGroups()),
		"array<f32, SCALED>", fmt.Sprintf("array<f32, %d>", k.keyGroups()*k.dim/4),
		"array<vec4<f32>, SCALED>", fmt.Sprintf("array<vec4<f32>, %d>", k.keyGroups()*k.dim/4),
		"array<vec4<f32>, QUADS>", fmt.Sprintf("array<vec4<f32>, %d>", k.dim/4),
		"array<vec4<f32>, CHAINS>", fmt.Sprintf("array<vec4<f32>, %d>", 4*k.dim),
	).Replace(b.String())
}

// keyGroups returns how many groups of keys that share scales a split of attention
// has; 1 where keys do not share any.
func (k kernel) keyGroups() int {
	if !k.class.Steps() {
		return 1
	}
	return splitTokens / k.class.KeyGroup()
}

func source(name string) string {
	b, err := sources.ReadFile("wgsl/" + name + ".wgsl")
	if err != nil {
		panic("webgpu: no kernel source " + name)
	}
	return string(b)
}

// kernelSet returns the hash of all that fixes the bits of this backend's answers
// besides the device: code, formats and geometry.
func kernelSet() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "geometry %d\n", geometryVersion)
	names, _ := fs.Glob(sources, "wgsl/*.wgsl")
	slices.Sort(names)
	for _, n := range names {
		b, _ := sources.ReadFile(n)
		sum.Write(b)
	}
	for _, f := range formats.All() {
		if f.GPU != nil {
			fmt.Fprintf(sum, "%s\n%s", f.Name, f.GPU.WGSL)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}

// registry holds compiled kernels. Any goroutine may ask for one; each is compiled
// once.
type registry struct {
	dev     *device.Device
	batch   device.Layout // of group 1
	mu      sync.Mutex
	layouts map[string]device.Layout
	entries map[kernel]*entry
	turns   chan struct{} // a token for each kernel that is being compiled
	make    func(kernel, device.Layout) (*device.Pipeline, error)
}

// entry is a kernel that is compiled or being compiled.
type entry struct {
	layout   device.Layout
	done     chan struct{} // closed when what follows is there
	pipeline *device.Pipeline
	err      error
}

// newRegistry makes a registry that compiles up to compilers kernels at a time.
func newRegistry(dev *device.Device, compilers int) (*registry, error) {
	batch, err := dev.NewLayout([]device.Binding{device.Read, device.ReadWrite})
	if err != nil {
		return nil, err
	}
	r := &registry{dev: dev, batch: batch, layouts: map[string]device.Layout{}, entries: map[kernel]*entry{}, turns: make(chan struct{}, compilers)}
	r.make = r.compile
	return r, nil
}

// get returns a kernel. Another goroutine compiles it, if that was not done.
func (r *registry) get(k kernel) (*entry, error) {
	layout, err := r.layout(k.op.bindings)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.op.name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[k]
	if !ok {
		e = &entry{layout: layout, done: make(chan struct{})}
		r.entries[k] = e
		go func() {
			defer close(e.done)
			r.turns <- struct{}{}
			e.pipeline, e.err = r.make(k, layout)
			<-r.turns
		}()
	}
	return e, nil
}

// ready waits until the kernel is compiled.
func (e *entry) ready() (*device.Pipeline, error) {
	<-e.done
	return e.pipeline, e.err
}

func (r *registry) compile(k kernel, layout device.Layout) (*device.Pipeline, error) {
	p, err := r.dev.NewPipeline(k.code(), layout, r.batch)
	if err != nil {
		return nil, fmt.Errorf("kernel %s of format %s, %d segments: %w", k.op.name, formats.GGMLName(k.format), k.segments, err)
	}
	return p, nil
}

func (r *registry) layout(bindings string) (device.Layout, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.layouts[bindings]; ok {
		return l, nil
	}
	l, err := r.dev.NewLayout([]device.Binding(bindings))
	if err == nil {
		r.layouts[bindings] = l
	}
	return l, err
}

// close frees all kernels.
func (r *registry) close() {
	for _, e := range r.entries {
		<-e.done
		if e.pipeline != nil {
			e.pipeline.Free()
		}
	}
}
