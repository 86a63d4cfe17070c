package coordinator

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/models/tiny"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/compute/cpu"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
	"github.com/shoal-llm/shoal/pkg/vision/visiontest"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/shard"
)

// newSeeing starts a coordinator and shards that run a model of a folder on the CPU. It
// returns what kills a shard.
func newSeeing(t *testing.T, dir, name string, change func(*Config), shards ...string) (*rig, map[string]func()) {
	t.Helper()
	m, err := library.Library{Dir: dir}.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return newServing(t, dir, m, change, shards...)
}

// newServing is newSeeing for an open model, which it closes.
func newServing(t *testing.T, dir string, m *library.Model, change func(*Config), shards ...string) (*rig, map[string]func()) {
	t.Helper()
	t.Cleanup(func() { m.Close() })
	model, err := NewModel(m, compute.KVClass{}, Default().Wishes)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, secret: pki.NewSecret(), gossip: &gossip{changed: make(chan struct{}, 1)}, ended: make(chan error, 1)}
	cfg := Default()
	cfg.Version = "test"
	cfg.Wishes.Settle, cfg.Wishes.Steady, cfg.Wishes.Stages, cfg.Wishes.MinShards = 0, 0, len(shards), len(shards)
	if change != nil {
		change(&cfg)
	}
	kill := map[string]func(){}
	for _, s := range shards {
		kill[s] = r.startSeeing(dir, s)
	}
	l := listen(t)
	c, err := New(cfg, Deps{Identity: r.identity("head", pki.Coordinator), Listener: l, Members: r.gossip, Model: model, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.addr, r.end = l.Addr().String(), cancel
	go func() { r.ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	r.relay = r.connect("gw")
	r.report("ready", func(c *pb.ClusterResponse) bool { return c.Ready })
	return r, kill
}

func (r *rig) startSeeing(dir, name string) (kill func()) {
	r.t.Helper()
	be, err := cpu.Open(cpu.Config{Threads: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { be.Close() })
	l := listen(r.t)
	s, err := shard.New(shard.Config{Version: "test", KernelSet: "test", Chunk: 16}, shard.Deps{
		Identity: r.identity(name, pki.Shard), Listener: l, Devices: []shard.Device{{Backend: be}}, Log: slog.New(slog.DiscardHandler),
		Open: func(name string) (*shard.Model, error) {
			m, err := library.Library{Dir: dir}.Open(name)
			if err != nil {
				return nil, err
			}
			return shard.NewModel(m), nil
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			r.t.Errorf("shard %s: %v", name, err)
		}
	}()
	kill = sync.OnceFunc(func() { cancel(); <-ended })
	r.t.Cleanup(kill)
	r.gossip.add(name, l.Addr().String())
	return kill
}

// seeingTiny is a folder with the small chat model and a made-up encoder.
func seeingTiny(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	m, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for name, data := range map[string][]byte{
		"seeing.gguf": tiny.Files()[0].Data, "mmproj-seeing.gguf": visiontest.File(m.Spec.Hidden, 1, 1, nil),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shown asks about pictures, which stand between the texts.
func shown(tokens int32, pictures [][]byte, texts ...string) *pb.Generation {
	m := &pb.Message{Role: "user"}
	for i, text := range texts {
		m.Parts = append(m.Parts, &pb.Part{Part: &pb.Part_Text{Text: text}})
		if i < len(pictures) {
			m.Parts = append(m.Parts, &pb.Part{Part: &pb.Part_Picture{Picture: pictures[i]}})
		}
	}
	return &pb.Generation{
		Input:    &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{m}}},
		Sampling: &pb.Sampling{MaxTokens: tokens, IgnoreEos: true},
	}
}

const many = 1 << 20 // tokens of credit

// told returns the ids of an answer.
func (r *rig) told(g *pb.Generation) *answer {
	r.t.Helper()
	a := r.relay.ask(many, g)
	if e := a.finish(); e.GetComplete() == nil {
		r.t.Fatalf("ended with %v", e)
	}
	return a
}

// TestPicturesOverStages: an answer about a picture has the same ids over any number of
// stages, another picture gives another answer, and where pictures are is said.
func TestPicturesOverStages(t *testing.T) {
	dir := seeingTiny(t)
	first, second := visiontest.Picture(1), visiontest.Picture(2)
	var want, other []int32
	for _, shards := range [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}} {
		r, _ := newSeeing(t, dir, "seeing", nil, shards...)
		if n := len(r.report("planned", func(c *pb.ClusterResponse) bool { return c.Ready }).Pipeline.Stages); n != len(shards) {
			t.Fatalf("%d stages on %d shards", n, len(shards))
		}
		got := r.told(shown(24, [][]byte{first}, "Look: ", " What do you see?"))
		p := got.accepted.Pictures
		if len(p) != 1 || p[0].Count != visiontest.Rows || int(p[0].Start) >= len(got.accepted.PromptIds) {
			t.Fatalf("pictures %v of a prompt of %d", p, len(got.accepted.PromptIds))
		}
		another := r.told(shown(24, [][]byte{second}, "Look: ", " What do you see?"))
		if !slices.Equal(got.accepted.PromptIds, another.accepted.PromptIds) {
			t.Error("the ids of two prompts differ by their pictures")
		}
		if want == nil {
			want, other = got.ids, another.ids
			if slices.Equal(want, other) {
				t.Fatal("two pictures give one answer, which proves nothing")
			}
		}
		if !slices.Equal(got.ids, want) || !slices.Equal(another.ids, other) {
			t.Errorf("%d stages: %v and %v, want %v and %v", len(shards), got.ids, another.ids, want, other)
		}
		both := r.told(shown(8, [][]byte{first, second}, "", "", ""))
		if p := both.accepted.Pictures; len(p) != 2 || p[1].Start < p[0].Start+p[0].Count || bytes.Equal(p[0].Hash, p[1].Hash) {
			t.Errorf("two pictures: %v", p)
		}
	}
}

// TestPicturesShareNoPrefix: a prompt is cached up to its end for one who shows the same
// picture, and up to the page with the picture for one who shows another; neither
// changes an answer.
func TestPicturesShareNoPrefix(t *testing.T) {
	dir := seeingTiny(t)
	before, after := strings.Repeat("one two three four ", 25), strings.Repeat("five six seven ", 25)
	ask := func(picture uint64) *pb.Generation {
		return shown(12, [][]byte{visiontest.Picture(picture)}, before, after)
	}
	fresh := map[uint64][]int32{}
	for _, p := range []uint64{1, 2} {
		r, _ := newSeeing(t, dir, "seeing", nil, "a", "b")
		fresh[p] = r.told(ask(p)).ids
	}
	r, _ := newSeeing(t, dir, "seeing", nil, "a", "b")
	var start int
	for i, step := range []struct {
		picture uint64
		cached  func(n int) bool
	}{
		{1, func(n int) bool { return n == 0 }},
		{1, func(n int) bool { return n > start+visiontest.Rows }},
		{2, func(n int) bool { return n > 0 && n <= start }},
		{2, func(n int) bool { return n > start+visiontest.Rows }},
		{1, func(n int) bool { return n > start+visiontest.Rows }},
	} {
		a := r.told(ask(step.picture))
		start = int(a.accepted.Pictures[0].Start)
		if n := int(a.terminal.GetComplete().Usage.CachedTokens); !step.cached(n) {
			t.Errorf("step %d: %d of %d ids were cached, the picture is at %d", i, n, len(a.accepted.PromptIds), start)
		}
		if !slices.Equal(a.ids, fresh[step.picture]) {
			t.Errorf("step %d: ids %v, without a cache %v", i, a.ids, fresh[step.picture])
		}
	}
}

// TestPicturesSurviveTheFirstStage: when the node dies that made a picture's rows, the
// answer goes on as if nothing had been; and so it does from ids that come back.
func TestPicturesSurviveTheFirstStage(t *testing.T) {
	dir := seeingTiny(t)
	ask := func() *pb.Generation {
		return shown(60, [][]byte{visiontest.Picture(1)}, "Look: ", " What do you see?")
	}
	r, kill := newSeeing(t, dir, "seeing", func(c *Config) { c.Wishes.Stages, c.Wishes.MinShards = 2, 3 }, "a", "b", "c")
	want := r.told(ask())
	a := r.relay.ask(5, ask())
	a.until(func(e *pb.Event) bool { return e.GetToken() != nil })
	first := r.report("planned", func(c *pb.ClusterResponse) bool { return c.Pipeline != nil }).Pipeline.Stages[0].Node
	kill[first]()
	a.credit(many)
	if e := a.finish(); e.GetComplete() == nil || !slices.Equal(a.ids, want.ids) {
		t.Errorf("after the death of %s: %v, %v, want %v", first, a.ids, e, want.ids)
	}
	const committed = 20
	g := ask()
	picture := want.accepted.Pictures[0]
	g.Input = &pb.Generation_Resumption{Resumption: &pb.Resumption{
		PromptIds: want.accepted.PromptIds, CommittedIds: want.ids[:committed],
		Pictures: []*pb.PromptPicture{{Start: picture.Start, Count: picture.Count, File: visiontest.Picture(1)}},
	}}
	g.SeedSet, g.Sampling.Seed = true, want.accepted.Seed
	if a := r.told(g); !slices.Equal(a.ids, want.ids[committed:]) {
		t.Errorf("resumed: %v, want %v", a.ids, want.ids[committed:])
	}
}

// TestBadPictures: what cannot be shown ends with an error that says why, and what can
// is shown afterwards.
func TestBadPictures(t *testing.T) {
	r, _ := newSeeing(t, seeingTiny(t), "seeing", func(c *Config) { c.Wishes.Slots = 1 }, "a")
	var small bytes.Buffer
	if err := png.Encode(&small, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	good := visiontest.Picture(1)
	huge := slices.Clone(good)
	copy(huge[16:], []byte{0, 1, 0, 0, 0, 1, 0, 0}) // in the header; its checksum is wrong, too
	for name, c := range map[string]struct {
		g     *pb.Generation
		code  string
		param string
	}{
		"truncated":  {shown(1, [][]byte{good[:len(good)/2]}, "", "?"), codePicture, "messages"},
		"header cut": {shown(1, [][]byte{good[:20]}, "", "?"), codePicture, "messages[0].content[1]"},
		"1×1":        {shown(1, [][]byte{small.Bytes()}, "", "?"), codePicture, "messages[0].content[1]"},
		"huge":       {shown(1, [][]byte{huge}, "", "?"), codePicture, "messages[0].content[1]"},
		"no picture": {shown(1, [][]byte{[]byte("%PDF-1.7")}, "", "?"), codePicture, "messages[0].content[1]"},
		"large":      {shown(1, [][]byte{make([]byte, 11<<20)}, "", "?"), codePicture, "messages[0].content[1]"},
		"too many":   {shown(1, slices.Repeat([][]byte{good}, maxPictures+1), make([]string, maxPictures+2)...), codeInvalid, "messages[0].content[33]"},
	} {
		e := r.relay.ask(many, c.g).finish().GetError()
		if e.GetCode() != c.code || e.GetParam() != c.param || e.GetRetryable() {
			t.Errorf("%s: %v, want %s about %s", name, e, c.code, c.param)
		}
	}
	system := shown(1, [][]byte{good}, "", "?")
	system.GetChat().Messages[0].Role = "system"
	if e := r.relay.ask(many, system).finish().GetError(); e.GetCode() != codeInvalid {
		t.Errorf("a picture of the system: %v", e)
	}
	for name, p := range map[string]*pb.PromptPicture{
		"behind the prompt": {Start: 2, Count: visiontest.Rows, File: good},
		"of other rows":     {Start: 0, Count: 3, File: good},
		"without a file":    {Start: 0, Count: visiontest.Rows},
	} {
		g := &pb.Generation{SeedSet: true, Sampling: &pb.Sampling{MaxTokens: 1}, Input: &pb.Generation_Resumption{
			Resumption: &pb.Resumption{PromptIds: []int32{1, 2, 3, 4, 5}, Pictures: []*pb.PromptPicture{p}},
		}}
		if e := r.relay.ask(many, g).finish().GetError(); e == nil || e.Retryable || e.Param != "resumption" {
			t.Errorf("a resumed picture %s: %v", name, e)
		}
	}
	r.told(shown(2, [][]byte{good}, "", "?")) // and the one slot is free
}

// TestTextModelSeesNothing: a model without an encoder says so.
func TestTextModelSeesNothing(t *testing.T) {
	r, _ := newSeeing(t, "", library.Default, nil, "a")
	e := r.relay.ask(many, shown(1, [][]byte{visiontest.Picture(1)}, "", "?")).finish().GetError()
	if e.GetCode() != codeNoPictures || !strings.Contains(e.GetMessage(), "text alone") || e.GetParam() != "messages[0].content[1]" || e.GetRetryable() {
		t.Errorf("%v", e)
	}
}

// TestFixturePicturesOfACluster: greedy ids about pictures are those of the reference,
// over two shards.
func TestFixturePicturesOfACluster(t *testing.T) {
	dir := filepath.Join(golden.Dir(t), "llava")
	if _, err := os.Stat(filepath.Join(dir, "text-f16.gguf")); err != nil {
		t.Skip("these reference data have no LLaVA model")
	}
	var g struct {
		Cases []struct {
			Image  string
			IDs    []int32
			Greedy []int32
			Gaps   []float64 `json:"greedy_top2_gap"`
		}
	}
	golden.JSON(t, "llava/golden.json", &g)
	for _, name := range []string{"model", "text-f16"} {
		r, _ := newSeeing(t, dir, name, nil, "a", "b")
		for _, c := range g.Cases {
			file, err := os.ReadFile(filepath.Join(dir, "images", c.Image))
			if err != nil {
				t.Fatal(err)
			}
			got := r.told(&pb.Generation{
				SeedSet: true, Sampling: &pb.Sampling{MaxTokens: int32(len(c.Greedy)), IgnoreEos: true},
				Input: &pb.Generation_Resumption{Resumption: &pb.Resumption{
					PromptIds: c.IDs, Pictures: []*pb.PromptPicture{{Start: int32(slices.Index(c.IDs, 508)), Count: 16, File: file}},
				}},
			})
			if !slices.Equal(got.ids, c.Greedy) {
				t.Errorf("%s, %s: %v, want %v", name, c.Image, got.ids, c.Greedy)
			}
		}
	}
}

// seeingToy is a toy model that reads pictures.
func seeingToy() Model {
	m := toyModel()
	m.PictureRows, m.Placeholder = toyRows, 'i'
	return m
}

// toyResumption is a prompt with pictures and a text that ends.
func toyResumption(pictures int) *pb.Generation {
	r := &pb.Resumption{}
	for range pictures {
		r.Pictures = append(r.Pictures, &pb.PromptPicture{Start: int32(len(r.PromptIds)), Count: toyRows, File: visiontest.Picture(1)})
		r.PromptIds = append(r.PromptIds, slices.Repeat([]int32{'i'}, toyRows)...)
	}
	r.PromptIds = append(r.PromptIds, 'o', 'k', '$')
	return &pb.Generation{SeedSet: true, Sampling: &pb.Sampling{MaxTokens: 40}, Input: &pb.Generation_Resumption{Resumption: r}}
}

// TestStopWhilePicturesAreSeen: an answer that is stopped before the driver has it gives
// its place to the next.
func TestStopWhilePicturesAreSeen(t *testing.T) {
	asked, left := make(chan struct{}, 8), make(chan struct{}, 8)
	r := newRigOf(t, seeingToy(), pki.NewSecret(), nil, func(c *Config, w *wires) {
		c.Wishes.Slots = 1
		w.see = func(ctx context.Context, q *pb.SeeRequest) (*pb.SeeResponse, error) {
			asked <- struct{}{}
			<-ctx.Done()
			left <- struct{}{}
			return nil, ctx.Err()
		}
	}, "a")
	r.report("ready", ready)
	first, next := r.relay.ask(many, toyResumption(1)), r.relay.ask(many, raw("ok$", 40))
	<-asked
	first.stop()
	if e := first.finish(); e.GetStopped() == nil {
		t.Errorf("stopped: %v", e)
	}
	<-left // nobody waits for the rows
	if e := next.finish(); e.GetComplete() == nil {
		t.Errorf("the next: %v", e)
	}
}

// TestPicturesAreAskedForFirst: a file is sent once, to a shard that has not seen it.
func TestPicturesAreAskedForFirst(t *testing.T) {
	var mu sync.Mutex
	seen, files, asks := map[string]bool{}, 0, 0
	r := newRigOf(t, seeingToy(), pki.NewSecret(), nil, func(_ *Config, w *wires) {
		w.see = func(_ context.Context, q *pb.SeeRequest) (*pb.SeeResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			asks++
			if len(q.File) > 0 {
				files++
				seen[string(q.Hash)] = true
			}
			if !seen[string(q.Hash)] {
				return &pb.SeeResponse{}, nil
			}
			return &pb.SeeResponse{Rows: toyRows}, nil
		}
	}, "a")
	r.report("ready", ready)
	r.told(toyResumption(2))
	r.told(toyResumption(1))
	if files != 1 || asks != 4 {
		t.Errorf("%d files in %d calls, want 1 in 4", files, asks)
	}
}

// TestPicturesAreSeenAgain: when rows got lost before they were used, they are made
// again, a few times.
func TestPicturesAreSeenAgain(t *testing.T) {
	var mu sync.Mutex
	lost := 0
	for _, c := range []struct {
		losses int
		code   string
	}{{1, ""}, {maxUnseen, ""}, {maxUnseen + 1, codeNoCapacity}} {
		lost = c.losses
		r := newRigOf(t, seeingToy(), pki.NewSecret(), nil, func(cfg *Config, w *wires) {
			cfg.Wishes.Slots = 1
			w.unseen = func() bool {
				mu.Lock()
				defer mu.Unlock()
				lost--
				return lost >= 0
			}
		}, "a")
		r.report("ready", ready)
		e := r.relay.ask(many, toyResumption(1)).finish()
		if got := e.GetError().GetCode(); got != c.code {
			t.Errorf("%d losses: %v, want %q", c.losses, e, c.code)
		}
		r.told(raw("ok$", 40))
	}
}

// TestPictureBytesAreBounded: requests hold so many bytes of pictures and no more.
func TestPictureBytesAreBounded(t *testing.T) {
	o := &owner{
		pictures: maxPictureBytes, c: &Coordinator{cfg: Default(), deps: Deps{Model: seeingToy()}},
		pipes: map[plan.Key]*pipeline{{}: {plan: &plan.Pipeline{}, ready: true}},
	}
	if p := o.refusal(&pb.Generation{}); p != nil {
		t.Errorf("at the limit: %+v", p)
	}
	o.pictures++
	if p := o.refusal(&pb.Generation{}); p == nil || !p.Retryable {
		t.Errorf("over the limit: %+v", p)
	}
}

// TestTemplatesShowPictures: pictures become one id each, in their places, whether a
// template has a place for them, takes lists alone, or knows nothing of them; what users
// write never becomes one.
func TestTemplatesShowPictures(t *testing.T) {
	lib, err := library.Library{}.Open(library.Default)
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	vocab, err := lib.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	control := vocab.EOS()
	mark := vocab.Text(control) // stands for a picture here
	turns := []Message{
		{Role: "system", Content: "be brief"},
		{Role: "user", Parts: []template.Part{
			{Type: partText, Text: "one " + mark}, {Type: partPicture}, {Type: partText, Text: " two"}, {Type: partPicture}, {Type: partText, Text: "three"},
		}},
		{Role: "assistant", Content: "four"},
		{Role: "user", Content: "five " + mark},
	}
	parts := `{% for c in m.content %}{% if c.type == "image" %}` + mark + `{% else %}{{ c.text }}{% endif %}{% endfor %}`
	for name, c := range map[string]struct {
		source      string
		placeholder int32
		want        layout
		says        string
	}{
		"knows nothing":  {`{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}`, control, layout{}, "one " + mark + "P\n twoP\nthree"},
		"no token":       {`{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}`, token.None, layout{}, "one " + mark + "P\n twoP\nthree"},
		"lists alone":    {`{% for m in messages %}<{{ m.role }}>` + parts + `{% endfor %}`, control, layout{lists: true, pictures: true}, "one " + mark + "P twoPthree"},
		"lists of texts": {`{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{% if c.type == "text" %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}`, control, layout{lists: true}, "one " + mark + "P\n twoP\nthree"},
		"both":           {`{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}` + parts + `{% endif %}{% endfor %}`, control, layout{pictures: true}, "one " + mark + "P twoPthree"},
	} {
		compiled, err := template.Compile(c.source)
		if err != nil {
			t.Fatal(err)
		}
		words := newText(vocab, compiled, c.placeholder)
		if words.layout != c.want {
			t.Errorf("%s: it takes content as %+v, want %+v", name, words.layout, c.want)
		}
		ids, err := words.Chat(turns, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var text strings.Builder
		for piece := range slices.Values(split(ids, PictureID)) {
			if slices.Contains(piece, control) {
				t.Errorf("%s: a user's text became a control token: %v", name, piece)
			}
			if text.Len() > 0 {
				text.WriteString("P")
			}
			text.WriteString(vocab.Decode(piece))
		}
		want := "<system>be brief<user>" + c.says + "<assistant>four<user>five " + mark
		if got := strings.TrimSpace(text.String()); got != want {
			t.Errorf("%s: the prompt is %q, want %q", name, got, want)
		}
	}
}

func split(ids []int32, at int32) (out [][]int32) {
	for {
		i := slices.Index(ids, at)
		if i < 0 {
			return append(out, ids)
		}
		out, ids = append(out, ids[:i]), ids[i+1:]
	}
}
