package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// Message is one turn of a conversation.
type Message = template.Message

// Text turns conversations into ids and ids into text. Its methods may be called
// from any goroutine.
type Text interface {
	// Chat returns the prompt of a conversation, in which the tools may be
	// called. What messages and tools say never becomes a control token. A picture
	// among their parts becomes one PictureID.
	Chat(messages []Message, tools []json.RawMessage) ([]int32, error)
	// Raw returns the ids of a text that is continued as it is.
	Raw(text string) ([]int32, error)
	// Token returns the text of one id, for reports.
	Token(id int32) string
	// Detokenizer returns a detokenizer at the start of an answer.
	Detokenizer() generation.Detokenizer
}

// Model is the model that a coordinator serves. It is not changed.
type Model struct {
	Name         string
	Path         string // of its file, as the coordinator resolved it; empty when it is embedded
	Architecture string
	Precision    string
	TensorTypes  map[string]int
	Parameters   uint64
	Size         int64
	Digest       [32]byte // of the file and the recipe
	FileDigest   [32]byte
	Recipe       string            // by which weights are rounded as they are loaded; empty: as in the file
	Parts        map[string]string // precision of each component's weights; adaptive where they have several
	Warning      string            // what speaks against the precision of the weights; empty: nothing
	Hidden       int
	Vocab        int
	Created      time.Time

	Manifest []byte // of the files, for shards that lack them; nil: each has its own

	Facts plan.Model
	KV    compute.KVClass // of keys and values
	// HalfPage is what one page of one layer would take in 16 bits.
	HalfPage uint64
	StopIDs  []int32 // ids that end an answer

	PictureRows int   // positions that a picture takes; 0: the model reads text alone
	Placeholder int32 // id of such a position

	Pooling library.Pooling // of embeddings, where a request names none

	Adapters []Adapter // low-rank changes that requests may ask for

	Text Text

	Draft *Draft // nil: there is no draft model

	vocab *token.Vocab
}

// Adapter is a low-rank adapter of the model: a request that names it in the place of
// the model goes through it on every stage.
type Adapter struct {
	Name     string
	ID       string // of its bytes too: answers and cached pages of two never mix
	Manifest []byte // of its files
}

// idLength is how many bytes of an adapter's digest are in its ID.
const idLength = 8

// NewAdapter describes an adapter whose files a manifest describes.
func NewAdapter(a *library.Adapter, manifest []byte) (Adapter, error) {
	sum, err := a.Digest()
	if err != nil {
		return Adapter{}, err
	}
	return Adapter{Name: a.Name, ID: fmt.Sprintf("%s@%x", a.Name, sum[:idLength]), Manifest: manifest}, nil
}

// adapterNames are the names of adapters as a message has them.
func (m *Model) adapterNames() string {
	var out strings.Builder
	for _, a := range m.Adapters {
		fmt.Fprintf(&out, ", and with an adapter %q", a.Name)
	}
	return out.String()
}

// adapter returns the adapter that a request names as its model; nil is none.
func (m *Model) adapter(name string) *Adapter {
	for i := range m.Adapters {
		if m.Adapters[i].Name == name {
			return &m.Adapters[i]
		}
	}
	return nil
}

// NewModel describes an open model file that is served with keys and values of a
// class, to sessions and in steps as many as w says. Stages make room for adapters.
func NewModel(m *library.Model, kv compute.KVClass, w plan.Wishes, adapters ...*library.Adapter) (Model, error) {
	vocab, err := m.Vocab()
	if err != nil {
		return Model{}, err
	}
	chat, err := m.Template()
	if err != nil {
		return Model{}, err
	}
	facts, err := factsOf(m, kv, w, adapters...)
	if err != nil {
		return Model{}, err
	}
	out := Model{
		Name: m.Name, Path: m.Path, Architecture: m.Spec.Arch, Precision: m.Precision, TensorTypes: m.TensorTypes, Parameters: m.Parameters,
		Size: m.Size, Digest: m.Digest, FileDigest: m.FileDigest, Recipe: m.Recipe().String(), Parts: m.Parts(), Warning: m.Warning(), Hidden: m.Spec.Hidden, Vocab: m.Spec.Vocab, Created: time.Now(),
		Facts: facts, KV: kv, HalfPage: m.Spec.KVBytes(1) / 2, StopIDs: vocab.End(), Pooling: m.Pooling(), vocab: vocab,
	}
	placeholder := token.None
	if m.Vision != nil {
		out.PictureRows, out.Placeholder = m.Vision.Rows(), m.Placeholder(vocab)
		placeholder = out.Placeholder
	}
	out.Text = newText(vocab, chat, placeholder)
	return out, nil
}

// factsOf weighs the parts of a model.
func factsOf(m *library.Model, kv compute.KVClass, w plan.Wishes, adapters ...*library.Adapter) (plan.Model, error) {
	p, err := PlaceModel(m, kv, w.Slots, w.Rows, adapters...)
	if err != nil {
		return plan.Model{}, err
	}
	facts := plan.Model{
		Name: p.Name, EmbedBytes: p.Embed, HeadBytes: p.Head, TiedBytes: p.Tied, HeadShape: p.HeadShape,
		KVPage: p.KVPage, KVPools: p.KVPools, KVQueries: p.KVQueries, KV: p.KV, Context: p.Context, RowScratch: p.Buffers, Logits: p.Logits, Wire: p.Wire,
	}
	for _, l := range p.Layers {
		facts.LayerBytes = append(facts.LayerBytes, l.Bytes)
		facts.Shapes = append(facts.Shapes, l.Shape)
	}
	return facts, nil
}

// text is a vocabulary with a template.
type text struct {
	vocab *token.Vocab
	chat  *template.Template
	tells bool // the template has no place for tools: the text tells of them

	placeholder int32 // of a picture's row; token.None is none
	layout      layout
}

// newText finds out by trial how a template takes content, and whether it shows tools.
func newText(vocab *token.Vocab, chat *template.Template, placeholder int32) text {
	t := text{vocab: vocab, chat: chat, placeholder: placeholder}
	if chat == nil {
		return t
	}
	t.layout = t.findLayout()
	turn := []Message{{Role: "user", Content: "?"}}
	without, _ := t.render(turn, nil)
	with, err := t.render(turn, []json.RawMessage{[]byte(`{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{}}}}`)})
	t.tells = err != nil || slices.Equal(with, without)
	return t
}

// ErrNoTemplate says that a model continues text but holds no conversation.
var ErrNoTemplate = errors.New("the model has no chat template: send raw text")

// Chat renders the template and encodes what it wrote apart from what users
// wrote.
func (t text) Chat(messages []Message, tools []json.RawMessage) ([]int32, error) {
	if t.chat == nil {
		return nil, ErrNoTemplate
	}
	if t.tells {
		messages, tools = tell(messages, tools), nil
	}
	return t.render(messages, tools)
}

func (t text) render(messages []Message, tools []json.RawMessage) ([]int32, error) {
	mark := newMark()
	messages, pictures := t.arrange(messages, mark)
	segments, err := t.segments(messages, tools)
	if err != nil {
		return nil, err
	}
	return t.withBOS(t.encode(segments, mark, pictures)), nil
}

func (t text) segments(messages []Message, tools []json.RawMessage) ([]token.Segment, error) {
	in := template.Input{Messages: messages, Tools: tools, AddGenerationPrompt: true, Now: time.Now()}
	if id := t.vocab.BOS(); id != token.None {
		in.BOS = t.vocab.Text(id)
	}
	if id := t.vocab.EOS(); id != token.None {
		in.EOS = t.vocab.Text(id)
	}
	return t.chat.Render(in)
}

// Raw encodes a text without control tokens.
func (t text) Raw(text string) ([]int32, error) { return t.withBOS(t.vocab.Encode(text)), nil }

// withBOS puts the beginning of a text before ids, where the vocabulary asks for
// it and the template has not.
func (t text) withBOS(ids []int32) []int32 {
	if !t.vocab.AddBOS() || len(ids) > 0 && ids[0] == t.vocab.BOS() {
		return ids
	}
	return append([]int32{t.vocab.BOS()}, ids...)
}

// Token returns what stands in the vocabulary.
func (t text) Token(id int32) string { return t.vocab.Text(id) }

// Detokenizer returns a detokenizer at the start of an answer.
func (t text) Detokenizer() generation.Detokenizer { return t.vocab.NewDetokenizer() }

// parts names the precisions of the components.
func (m *Model) parts() string {
	var all []string
	for _, c := range library.Components() {
		all = append(all, c+" "+m.Parts[c])
	}
	return strings.Join(all, ", ")
}

// warned adds to the notes of an answer what speaks against the model's precision.
func (m *Model) warned(notes []string) []string {
	if m.Warning == "" {
		return notes
	}
	return append(notes, m.Warning)
}

// proto names the model for the shards, who find the file themselves.
func (m *Model) proto() *pb.Model {
	var adapters []*pb.Adapter
	for _, a := range m.Adapters {
		adapters = append(adapters, &pb.Adapter{Name: a.Name, Id: a.ID, Manifest: a.Manifest})
	}
	return &pb.Model{
		Adapters: adapters, Name: m.Name, Path: m.Path, Size: uint64(m.Size), Digest: m.FileDigest[:], Recipe: m.Recipe,
		Layers: uint32(m.Facts.Layers()), Hidden: uint32(m.Hidden), Vocab: uint32(m.Vocab), Context: uint32(m.Facts.Context),
		KvBits: uint32(m.KV.Bits), KvGroup: uint32(m.KV.Group), Manifest: m.Manifest,
		KvRecent: uint32(m.KV.Recent), KvUpper: uint32(m.KV.Upper), KvFar: uint32(m.KV.Far),
		KvRatio: uint32(m.KV.Ratio), KvOlder: uint32(m.KV.Older),
	}
}
