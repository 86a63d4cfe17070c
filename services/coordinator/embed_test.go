package coordinator

import (
	"errors"
	"testing"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/frame"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func TestEmbeddingIsOneComplete(t *testing.T) {
	r := newRig(t, nil, "a", "b")
	r.report("ready", ready)
	for _, text := range []string{"ab", "b"} {
		g := raw(text, 0)
		g.Pooling = pb.Pooling_POOLING_MEAN
		a := r.relay.ask(1, g)
		end := a.finish().GetComplete()
		if len(end.GetEmbedding()) != toyModel().Hidden || len(a.ids) != 0 {
			t.Fatalf("%d values, %d tokens: %v", len(end.GetEmbedding()), len(a.ids), a.terminal)
		}
		if got, want := end.GetEmbedding()[0], float32(text[0]); got != want && toyModel().Hidden > 2 {
			t.Errorf("embedding of %q begins with %v, want %v", text, got, want)
		}
		if u := end.GetUsage(); u.GetPromptTokens() != uint32(len(text)) || u.GetCompletionTokens() != 0 {
			t.Errorf("usage %v", u)
		}
	}
}

func TestTokenizeComputesNothing(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	g := raw("hello", 0)
	g.Tokenize = true
	a := r.relay.ask(1, g)
	if a.finish().GetComplete() == nil || len(a.accepted.GetPromptIds()) != 5 {
		t.Errorf("%v, %v", a.accepted, a.terminal)
	}
	r.wires.update(func() {
		if n := len(r.wires.opened); n != 0 {
			t.Errorf("%d sessions were opened", n)
		}
	})
}

func TestEmbeddingRefusals(t *testing.T) {
	r := newRig(t, nil, "a")
	r.report("ready", ready)
	for param, spoil := range map[string]func(*pb.Generation){
		"pooling": func(g *pb.Generation) { g.Pooling = 9 },
		"stop":    func(g *pb.Generation) { g.Stop = []string{"x"} },
	} {
		g := raw("hello", 0)
		g.Pooling = pb.Pooling_POOLING_LAST
		spoil(g)
		if e := r.relay.ask(1, g).finish().GetError(); e.GetParam() != param {
			t.Errorf("%s: %v", param, e)
		}
	}
}

// TestEmbeddingsAsTheModelSays: a request that names no pooling has the model's own; one
// that is not computed is refused, but for requests that name another.
func TestEmbeddingsAsTheModelSays(t *testing.T) {
	own := raw("hello", 0)
	own.Pooling = pb.Pooling_POOLING_OWN
	last := raw("hello", 0)
	last.Pooling = pb.Pooling_POOLING_LAST
	for kind, want := range map[library.Pooling]frame.Pooling{
		{}: frame.PoolingMean, {Kind: frame.PoolingFirst}: frame.PoolingFirst, {Kind: frame.PoolingLast}: frame.PoolingLast,
	} {
		m := toyModel()
		m.Pooling = kind
		if p, err := m.prepare(own, 64); err != nil || p.pooling != want {
			t.Errorf("a model of %v: %v, want %v: %v", kind, p, want, err)
		}
	}
	m := toyModel()
	m.Pooling = library.Pooling{Refused: "a rank"}
	var p *problem
	if _, err := m.prepare(own, 64); !errors.As(err, &p) || p.Param != "pooling" {
		t.Errorf("error %v", err)
	}
	if got, err := m.prepare(last, 64); err != nil || got.pooling != frame.PoolingLast {
		t.Errorf("a request that names one: %v", err)
	}
}
