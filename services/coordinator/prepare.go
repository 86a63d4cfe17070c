package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/shoal-llm/shoal/internal/telemetry"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/compute"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/sample"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Limits of a request.
const (
	maxStops      = 16
	maxStopBytes  = 1024
	maxMessages   = 4096
	bytesPerToken = 4 * 16 // a prompt with more bytes for every position of the context is refused unread
	defaultTokens = 500    // of an answer when nothing is said
	minAnswer     = 4      // a truncated chat leaves at least 1/minAnswer of the context, when that many are asked for
)

// prepared is a request as the pipeline takes it.
type prepared struct {
	prompt    []int32
	committed []int32 // of a resumed answer
	spec      sample.Spec
	notes     []string // what was clamped
	chain     []uint64 // names of the prompt's whole pages
	pictures  []picture
	kv        compute.KVClass
	structure

	pooling              frame.Pooling
	adapterName, adapter string // name and ID; empty is none
}

// prepareAll turns requests into prompts until ctx ends.
func (c *Coordinator) prepareAll(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-c.jobs:
			_, span := c.deps.Telemetry.Start(telemetry.Extract(ctx, s.request.GetTraceparent()), telemetry.SpanTokenize)
			p, err := c.deps.Model.prepare(s.request, s.positions)
			span.End()
			c.post(promptReady{s, p, err})
		}
	}
}

// prepare checks a request and makes its prompt, for sessions of at most context
// positions. Its error is a *problem.
func (m *Model) prepare(g *pb.Generation, positions int) (*prepared, error) {
	p := &prepared{kv: m.KV}
	if err := m.checkOptions(g); err != nil {
		return nil, err
	}
	if err := m.checkPooling(g); err != nil {
		return nil, err
	}
	if err := m.checkKV(g.GetKv()); err != nil {
		return nil, err
	}
	p.limitContext(g.GetKv(), &positions)
	var err error
	if p.spec, err = m.sampling(g.GetSampling()); err != nil {
		return nil, err
	}
	if err := p.readStructure(g); err != nil {
		return nil, err
	}
	switch in := g.GetInput().(type) {
	case *pb.Generation_Chat:
		err = m.chat(p, in.Chat.GetMessages(), g.GetTruncate(), positions)
	case *pb.Generation_Prompt:
		turn := []*pb.Message{{Role: "user", Content: in.Prompt}}
		err = m.chat(p, turn, false, positions)
	case *pb.Generation_Raw:
		if err = checkBytes(len(in.Raw), positions); err == nil {
			p.prompt, err = m.Text.Raw(in.Raw)
		}
	case *pb.Generation_Resumption:
		p.prompt, p.committed = in.Resumption.GetPromptIds(), in.Resumption.GetCommittedIds()
		if err = m.checkResumption(g, in.Resumption); err == nil {
			err = p.resumePictures(m, in.Resumption)
		}
	default:
		err = invalid("messages", "The request has no input.")
	}
	if err != nil {
		return nil, asProblem(err)
	}
	p.pooling = m.poolingOf(g)
	if a := m.adapter(g.GetModel()); a != nil {
		p.adapterName, p.adapter = a.Name, a.ID
	}
	p.chain = chainOf(g.GetTenant()+"\x00"+p.adapter, p.prompt, p.shown())
	return p, p.limitTokens(g, positions)
}

// asProblem makes the error of a template or tokenizer the client's.
func asProblem(err error) error {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	return invalid("messages", "The prompt cannot be made: %v.", err)
}

// checkOptions refuses options by name that this cluster does not honour.
func (m *Model) checkOptions(g *pb.Generation) error {
	if p := g.GetPrecision(); p != "" && p != m.Precision {
		return unsupported("precision", "Precision %q is not served; served is %q.", p, m.Precision)
	}
	for component, p := range g.GetLayerPrecisions() {
		if m.Parts[component] != p {
			return unsupported("layer_precisions", "Precision %q of %s is not served; served are %s.", p, component, m.parts())
		}
	}
	if len(g.GetStop()) > maxStops {
		return invalid("stop", "There are %d stop strings; at most %d are possible.", len(g.GetStop()), maxStops)
	}
	for _, s := range g.GetStop() {
		if s == "" || len(s) > maxStopBytes {
			return invalid("stop", "A stop string must have 1 to %d bytes.", maxStopBytes)
		}
	}
	return nil
}

// checkKV refuses keys and values of another class than is loaded. Who asks for 16
// bits is served float32 too.
func (m *Model) checkKV(kv *pb.KvOptions) error {
	if kv == nil {
		return nil
	}
	bits, group := int(kv.GetBits()), int(kv.GetGroupSize())
	switch {
	case kv.GetOptimized() && m.KV.Bits == 0:
		return unsupported("kv.optimized", "An optimised KV cache is not loaded; loaded is one of class %s (shoal up --kv chooses it).", m.KV)
	case kv.GetProgressive() && !m.KV.Steps():
		return unsupported("kv.progressive", "A progressive KV cache is not loaded; loaded is one of class %s (shoal up --kv chooses it).", m.KV)
	case !slices.Contains([]int{0, 16, 8, 4, 3, 2}, bits):
		return invalid("kv.bits", "A KV cache has 16, 8, 4, 3 or 2 bits, not %d.", bits)
	case !slices.Contains([]int{0, 32, 64, 128}, group):
		return invalid("kv.group_size", "Groups of a KV cache have 32, 64 or 128 values, not %d.", group)
	case bits == 16 && m.KV.Packed(), bits != 0 && bits != 16 && bits != m.KV.Bits:
		return unsupported("kv.bits", "A KV cache of %d bits is not loaded; loaded is one of class %s (shoal up --kv chooses it).", bits, m.KV)
	case group != 0 && group != m.KV.Group:
		return unsupported("kv.group_size", "A KV cache in groups of %d is not loaded; loaded is one of class %s (shoal up --kv chooses it).", group, m.KV)
	}
	return m.checkThinning(kv)
}

// checkThinning refuses to thin old positions out in another way than is loaded, or not
// at all where they are.
func (m *Model) checkThinning(kv *pb.KvOptions) error {
	ratio, older := int(kv.GetCompressionRatio()), int(kv.GetCompressOlder())
	switch {
	case !slices.Contains([]int{0, 4, 8}, ratio):
		return invalid("kv.compression_ratio", "Of old positions one of 4 or of 8 is kept, not of %d.", ratio)
	case kv.CompressOlder != nil && (older == 0 || older%compute.KVBlock != 0):
		return invalid("kv.compress_older", "Positions stay whole in blocks of %d, so %d cannot.", compute.KVBlock, older)
	case kv.Compression == nil && ratio == 0 && older == 0:
		return nil
	}
	wanted := kv.GetCompression() || kv.Compression == nil
	switch {
	case wanted != (m.KV.Ratio != 0):
		return unsupported("kv.compression", "A KV cache that %s is not loaded; loaded is one of class %s (shoal up --kv chooses it).",
			map[bool]string{true: "compresses old positions", false: "keeps all positions"}[wanted], m.KV)
	case wanted && ratio != 0 && ratio != m.KV.Ratio:
		return unsupported("kv.compression_ratio", "A KV cache that keeps one of %d old positions is not loaded; loaded is one of class %s (shoal up --kv chooses it).", ratio, m.KV)
	case wanted && older != 0 && older != m.KV.Older:
		return unsupported("kv.compress_older", "A KV cache that keeps %d positions whole is not loaded; loaded is one of class %s (shoal up --kv chooses it).", older, m.KV)
	}
	return nil
}

// limitContext applies the client's wish for the length of the context.
func (p *prepared) limitContext(kv *pb.KvOptions, positions *int) {
	wish := int(kv.GetMaxSeqLen())
	switch {
	case wish > *positions:
		p.note("max_seq_len %d is more than the context of %d positions and was clamped to it", wish, *positions)
	case wish > 0:
		*positions = wish
	}
}

func (p *prepared) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// sampling checks the sampling parameters and adds the model's stop ids.
func (m *Model) sampling(in *pb.Sampling) (sample.Spec, error) {
	spec, err := wire.SamplingFromProto(in)
	var field *sample.FieldError
	switch {
	case errors.As(err, &field):
		return spec, invalid(field.Field, "%s.", field)
	case err != nil:
		return spec, invalid("sampling", "%v.", err)
	}
	for _, b := range spec.Bias {
		if int(b.ID) >= m.Vocab {
			return spec, invalid("logit_bias", "logit_bias names token %d of a vocabulary of %d.", b.ID, m.Vocab)
		}
	}
	spec.Stop = slices.Compact(slices.Sorted(slices.Values(slices.Concat(spec.Stop, m.StopIDs))))
	if len(spec.Stop) > sample.MaxStopIDs {
		return spec, invalid("stop", "There are too many stop ids.")
	}
	return spec, nil
}

// checkBytes refuses a text that cannot fit, before the work of reading it.
func checkBytes(n, positions int) error {
	if n > bytesPerToken*positions {
		return &problem{Code: codeTooLong, Param: "messages",
			Message: fmt.Sprintf("The prompt has %d bytes, far more than a context of %d tokens holds.", n, positions)}
	}
	return nil
}

// chat makes the prompt of a conversation. A conversation that is too long loses its
// oldest turns when the client allows it; system messages and the last turn stay.
func (m *Model) chat(p *prepared, messages []*pb.Message, truncate bool, positions int) error {
	if len(messages) == 0 || len(messages) > maxMessages {
		return invalid("messages", "A conversation has 1 to %d messages, not %d.", maxMessages, len(messages))
	}
	if err := m.readPictures(messages); err != nil {
		return err
	}
	room := positions
	if n := int(p.spec.MaxTokens); n > 0 {
		room -= min(n, positions/minAnswer)
	} else {
		room -= positions / minAnswer
	}
	turns, files, dropped := make([]Message, 0, len(messages)), make([][][]byte, len(messages)), 0
	for i, t := range messages {
		turn := turnOf(t)
		turn.Parts, files[i] = partsOf(t)
		turns = append(turns, turn)
	}
	for {
		ids, err := m.encodeChat(turns, p.tools, positions)
		if err != nil && !isTooLong(err) {
			return err
		}
		at := slices.IndexFunc(turns, func(t Message) bool { return t.Role != "system" })
		if err == nil && (!truncate || m.expanded(ids) <= room) || !truncate || at < 0 || at == len(turns)-1 {
			if dropped > 0 {
				p.note("the %d oldest messages were dropped to fit the context of %d tokens", dropped, positions)
			}
			if err != nil {
				return err
			}
			return p.show(m, ids, slices.Concat(files...))
		}
		turns, files = slices.Delete(turns, at, at+1), slices.Delete(files, at, at+1)
		dropped++
	}
}

func isTooLong(err error) bool {
	var p *problem
	return errors.As(err, &p) && p.Code == codeTooLong
}

func (m *Model) encodeChat(turns []Message, tools []json.RawMessage, positions int) ([]int32, error) {
	bytes := 0
	for _, t := range turns {
		bytes += len(t.Role) + len(t.Content) + len(t.Name)
		for _, part := range t.Parts {
			bytes += len(part.Text)
		}
		for _, c := range t.ToolCalls {
			bytes += len(c.Name) + len(c.Arguments)
		}
	}
	for _, t := range tools {
		bytes += len(t)
	}
	if err := checkBytes(bytes, positions); err != nil {
		return nil, err
	}
	return m.Text.Chat(turns, tools)
}

// checkResumption checks ids that come back from a client.
func (m *Model) checkResumption(g *pb.Generation, r *pb.Resumption) error {
	if !g.GetSeedSet() {
		return invalid("seed", "A resumption needs the seed of its answer.")
	}
	if len(r.GetId()) > maxID {
		return invalid("resumption", "The id has more than %d bytes.", maxID)
	}
	for _, id := range slices.Concat(r.GetPromptIds(), r.GetCommittedIds()) {
		if id < 0 || int(id) >= m.Vocab {
			return invalid("resumption", "Token %d is not one of a vocabulary of %d.", id, m.Vocab)
		}
	}
	return nil
}

// limitTokens fits the prompt and the answer into the context.
func (p *prepared) limitTokens(g *pb.Generation, positions int) error {
	switch {
	case len(p.prompt) == 0:
		return invalid("messages", "The prompt is empty.")
	case len(p.prompt) >= positions:
		return &problem{Code: codeTooLong, Param: "messages", Message: fmt.Sprintf(
			"The prompt has %d tokens; with an answer it must fit a context of %d.", len(p.prompt), positions)}
	}
	rest := positions - len(p.prompt)
	switch wish := int(p.spec.MaxTokens); {
	case g.GetPooling() != 0:
		p.spec.MaxTokens = 1 // the session takes no more positions than its prompt
	case wish == 0 && g.GetMaxTokensClamp():
		p.spec.MaxTokens = int32(rest)
	case wish == 0:
		p.spec.MaxTokens = int32(min(defaultTokens, rest))
	case wish > rest:
		p.spec.MaxTokens = int32(rest)
		p.note("max_tokens %d does not fit: the prompt of %d tokens leaves %d of a context of %d", wish, len(p.prompt), rest, positions)
	}
	if len(p.committed) > int(p.spec.MaxTokens) {
		return invalid("resumption", "%d tokens are committed of an answer of at most %d.", len(p.committed), p.spec.MaxTokens)
	}
	return nil
}
