package coordinator

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/kv"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// What a draft model is given: it guesses for few sessions, since with many the
// steps are worth more than its guesses.
const (
	draftSessions  = 4
	draftPositions = 4096 // of each of them at most, in the mean
	draftRows      = 256
)

// ErrDraft says that a model cannot guess for another.
var ErrDraft = errors.New("no draft model")

// Draft is a model that guesses for the one that is served. It is not changed.
type Draft struct {
	model    Model
	sessions int
	pages    int
	rows     int
}

// AddDraft has a smaller model guess the next ids of m's answers. Its weights, cache
// and buffers are added to what the first stage of each pipeline holds. manifest is of
// its files, as Model.Manifest. The vocabularies must be one.
func (m *Model) AddDraft(d *library.Model, manifest []byte, w plan.Wishes) error {
	class := m.KV
	if class.Steps() || class.Ratio != 0 { // a few sessions, guessed for from exact keys
		class = compute.KVClass{Bits: 16}
	}
	if d.Spec.CheckKV(class) != nil {
		class = compute.KVClass{}
	}
	context := min(m.Facts.Context, d.Spec.Context)
	if w.Context > 0 {
		context = min(context, w.Context)
	}
	small, err := NewModel(d, class, plan.Wishes{Slots: draftSessions, Rows: draftRows})
	if err != nil {
		return err
	}
	if err := sameVocabulary(m, &small); err != nil {
		return err
	}
	small.Manifest = manifest
	f := &small.Facts
	f.Context = context
	pages := draftSessions * ((min(context, draftPositions) + kv.PageTokens - 1) / kv.PageTokens)
	layers := uint64(f.Layers())
	bytes := f.EmbedBytes + f.HeadBytes - f.TiedBytes + uint64(pages)*f.KVPage*layers + draftRows*(f.RowScratch+f.Logits)
	for _, n := range f.LayerBytes {
		bytes += n
	}
	m.Facts.EmbedBytes += bytes
	m.Draft = &Draft{model: small, sessions: draftSessions, pages: pages, rows: draftRows}
	return nil
}

// sameVocabulary reports an id that means another text to one of two models. One may
// have more ids behind those of the other, as padding.
func sameVocabulary(m, draft *Model) error {
	n := min(m.vocab.Len(), draft.vocab.Len())
	for id := range int32(n) {
		if !bytes.Equal(m.vocab.Bytes(id), draft.vocab.Bytes(id)) || m.vocab.Type(id) != draft.vocab.Type(id) {
			return fmt.Errorf("%w: token %d is %q to %s and %q to %s: a draft model has the tokenizer of the model it guesses for; take a smaller one of the same family",
				ErrDraft, id, m.vocab.Text(id), m.Name, draft.vocab.Text(id), draft.Name)
		}
	}
	return nil
}

// proto is nil where there is none.
func (d *Draft) proto() *pb.Draft {
	if d == nil {
		return nil
	}
	return &pb.Draft{Model: d.model.proto(), Sessions: uint32(d.sessions), Pages: uint32(d.pages), Rows: uint32(d.rows)}
}
