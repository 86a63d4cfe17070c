package coordinator

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/template"
	"github.com/shoal-llm/shoal/pkg/token"
	"github.com/shoal-llm/shoal/pkg/vision"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// Pictures of a request: where they stand in its prompt, and how the first stage of
// its pipeline comes to have their rows.

// PictureID stands among the ids that Text makes for a picture.
const PictureID int32 = -1

const (
	maxPictures     = 16        // of a request
	maxPictureBytes = 256 << 20 // of all requests that are here
	lookPause       = 200 * time.Millisecond
	lookPatience    = time.Minute // with a shard that has too much to look at, or does not answer
	maxUnseen       = 3           // times that rows of a session's pictures may get lost before they are used
)

// partPicture is the type of a part that templates show as a picture.
const partPicture = "image"

// picture is one of a prompt.
type picture struct {
	frame.Picture
	file []byte
}

// partsOf returns a turn's parts as templates read them, and the files of its
// pictures.
func partsOf(m *pb.Message) (parts []template.Part, files [][]byte) {
	for _, p := range m.GetParts() {
		if file := p.GetPicture(); file != nil {
			parts, files = append(parts, template.Part{Type: partPicture}), append(files, file)
		} else {
			parts = append(parts, template.Part{Type: partText, Text: p.GetText()})
		}
	}
	return parts, files
}

const partText = "text"

// readPictures checks the pictures of a conversation as far as their headers tell.
func (m *Model) readPictures(messages []*pb.Message) error {
	n := 0
	for i, t := range messages {
		for j, p := range t.GetParts() {
			file := p.GetPicture()
			if file == nil {
				continue
			}
			n++
			param := fmt.Sprintf("messages[%d].content[%d]", i, j)
			switch {
			case t.GetRole() != "user":
				return invalid(param, "Pictures are for the role user alone.")
			case n > maxPictures:
				return invalid(param, "A conversation has at most %d pictures.", maxPictures)
			}
			if err := m.checkPicture(file, param); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Model) checkPicture(file []byte, param string) error {
	if m.PictureRows == 0 {
		return &problem{Code: codeNoPictures, Param: param, Message: fmt.Sprintf("The model %q reads text alone: it cannot be shown a picture.", m.Name)}
	}
	if err := vision.Check(file, vision.DefaultLimits()); err != nil {
		return badPicture(param, err.Error())
	}
	return nil
}

// badPicture says what is wrong with a picture.
func badPicture(param, why string) *problem {
	return &problem{Code: codePicture, Param: param, Message: "The picture cannot be read: " + why + "."}
}

// Expand puts a placeholder for every row of a picture where a PictureID stands.
func (m *Model) Expand(ids []int32, files [][]byte) (prompt []int32, pictures []frame.Picture, err error) {
	prompt = make([]int32, 0, m.expanded(ids))
	for _, id := range ids {
		if id != PictureID {
			prompt = append(prompt, id)
			continue
		}
		if len(pictures) == len(files) {
			return nil, nil, fmt.Errorf("the chat template shows more than %d pictures", len(files))
		}
		pictures = append(pictures, frame.Picture{
			Start: int32(len(prompt)), Count: int32(m.PictureRows), Hash: sha256.Sum256(files[len(pictures)]),
		})
		prompt = append(prompt, slices.Repeat([]int32{m.Placeholder}, m.PictureRows)...)
	}
	if len(pictures) != len(files) {
		return nil, nil, fmt.Errorf("the chat template shows %d pictures of %d", len(pictures), len(files))
	}
	return prompt, pictures, nil
}

// expanded is the length of ids with a placeholder for every row.
func (m *Model) expanded(ids []int32) int {
	n := len(ids)
	for _, id := range ids {
		if id == PictureID {
			n += m.PictureRows - 1
		}
	}
	return n
}

// show gives a prompt its pictures.
func (p *prepared) show(m *Model, ids []int32, files [][]byte) (err error) {
	var shown []frame.Picture
	if p.prompt, shown, err = m.Expand(ids, files); err != nil {
		return invalid("messages", "The prompt cannot be made: %v.", err)
	}
	for i, s := range shown {
		p.pictures = append(p.pictures, picture{s, files[i]})
	}
	return nil
}

// resumePictures takes the pictures of ids that come back.
func (p *prepared) resumePictures(m *Model, r *pb.Resumption) error {
	const param = "resumption"
	if len(r.GetPictures()) > maxPictures {
		return invalid(param, "There are %d pictures; at most %d are possible.", len(r.GetPictures()), maxPictures)
	}
	for _, in := range r.GetPictures() {
		if err := m.checkPicture(in.GetFile(), param); err != nil {
			return err
		}
		if int(in.GetCount()) != m.PictureRows {
			return invalid(param, "A picture takes %d positions, not %d.", m.PictureRows, in.GetCount())
		}
		p.pictures = append(p.pictures, picture{frame.Picture{Start: in.GetStart(), Count: in.GetCount(), Hash: sha256.Sum256(in.GetFile())}, in.GetFile()})
	}
	if err := frame.CheckPictures(p.shown(), len(r.GetPromptIds())); err != nil {
		return invalid(param, "The pictures do not fit the prompt: %v.", err)
	}
	return nil
}

// shown is where the pictures stand.
func (p *prepared) shown() (out []frame.Picture) {
	for _, s := range p.pictures {
		out = append(out, s.Picture)
	}
	return out
}

// pictureBytes adds up the pictures of a request.
func pictureBytes(g *pb.Generation) (n int) {
	for _, m := range g.GetChat().GetMessages() {
		for _, p := range m.GetParts() {
			n += len(p.GetPicture())
		}
	}
	for _, p := range g.GetResumption().GetPictures() {
		n += len(p.GetFile())
	}
	return n
}

// look has the first stage of a session's pipeline get the rows of its pictures; then
// the driver gets the session.
func (o *owner) look(s *session) {
	if len(s.ready.pictures) == 0 {
		o.submit(s)
		return
	}
	n := o.nodes[s.pipe.plan.Stages[0].Node]
	if n == nil || n.conn == nil {
		return // the pipeline is about to be given up
	}
	attempt := s.attempt
	s.lookAway = o.outside.see(n.conn, s.pipe.plan.Key, s.ready.pictures, func(err error) event { return looked{s, attempt, err} })
}

// looked says that a shard has the rows of a session's pictures, or why not.
type looked struct {
	s       *session
	attempt uint32
	err     error
}

func (e looked) apply(o *owner) {
	s := e.s
	if o.running[e.attempt] != s || s.lookAway == nil {
		return
	}
	var p *problem
	switch {
	case errors.As(e.err, &p):
		o.fail(s, p)
	case e.err != nil:
		o.fail(s, later(codeNoCapacity, "The pictures could not be looked at: %v.", e.err))
	default:
		s.lookAway()
		s.lookAway = nil
		o.submit(s)
	}
}

// abandon frees the slot of a session that the driver has not got yet. It reports
// whether there is one.
func (o *owner) abandon(s *session) bool {
	if s.lookAway == nil {
		return false
	}
	s.lookAway()
	s.lookAway = nil
	key := s.pipe.plan.Key
	closed := &pb.Closed{Slot: uint32(s.place), Attempt: s.attempt, Reason: "halted"}
	o.outside.afterwards(driven{key, &pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: closed}}}) // as if the driver had said so
	return true
}

// see shows pictures to a shard, unless it has seen them. A shard that has too much to
// do, or does not answer, is asked again for a while.
func see(ctx context.Context, conn *shardConn, key plan.Key, pictures []picture) error {
	until := time.Now().Add(lookPatience)
	for i := 0; i < len(pictures); {
		err := seeOne(ctx, conn, key, &pictures[i])
		switch status.Code(err) {
		case codes.OK:
			i++
			continue
		case codes.ResourceExhausted, codes.Unavailable:
		default:
			return err
		}
		if time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func seeOne(ctx context.Context, conn *shardConn, key plan.Key, p *picture) error {
	ask := &pb.SeeRequest{Epoch: key.Epoch, Pipeline: key.ID, Hash: p.Hash[:]}
	client := pb.NewShardServiceClient(conn.conn)
	r, err := client.See(ctx, ask)
	if err == nil && r.GetRows() == 0 && r.GetRefused() == "" {
		ask.File = p.file
		r, err = client.See(ctx, ask)
	}
	switch {
	case err != nil:
		return err
	case r.GetRefused() != "":
		return badPicture("messages", r.GetRefused())
	case int(r.GetRows()) != int(p.Count):
		return later(generation.CodeInternal, "A shard made %d rows of a picture that takes %d.", r.GetRows(), p.Count)
	}
	return nil
}

// unseen has a session go on whose pictures' rows got lost before they were used.
func (o *owner) unseen(s *session) {
	if s.unseen++; s.unseen > maxUnseen {
		o.fail(s, later(codeNoCapacity, "Too many pictures are looked at at once."))
		return
	}
	o.requeue(s)
}

// How a template takes content is found out by trial, as whether it shows tools.
type layout struct {
	lists    bool // content is a list of parts, never a string
	pictures bool // a part that is a picture becomes one placeholder
}

// trialWord is a word that no template has.
const trialWord = "qzxv"

func (t text) findLayout() (l layout) {
	part := template.Part{Type: partText, Text: trialWord}
	turn := func(content string, parts ...template.Part) []Message {
		return []Message{{Role: "user", Content: content, Parts: parts}}
	}
	l.lists = !t.says(turn(trialWord)) && t.says(turn("", part))
	if t.placeholder >= 0 {
		before, _ := t.segments(turn("", part), nil)
		after, err := t.segments(turn("", template.Part{Type: partPicture}, part), nil)
		count := func(s []token.Segment) (n int) {
			for _, id := range t.vocab.EncodeSegments(s) {
				if id == t.placeholder {
					n++
				}
			}
			return n
		}
		l.pictures = err == nil && count(after) == count(before)+1
	}
	return l
}

// says reports whether the trial word of messages is shown.
func (t text) says(messages []Message) bool {
	segments, err := t.segments(messages, nil)
	return err == nil && slices.ContainsFunc(segments, func(s token.Segment) bool { return strings.Contains(s.Text, trialWord) })
}

// arrange lays the content of messages out as the template takes it, and returns how
// many pictures there are. Where the template has no place for pictures a mark stands
// in the text, which no user can guess.
func (t text) arrange(messages []Message, mark string) (out []Message, pictures int) {
	for _, m := range messages {
		shown := 0
		for _, p := range m.Parts {
			if p.Type == partPicture {
				shown++
			}
		}
		pictures += shown
		if shown == 0 || !t.layout.pictures {
			m.Content, m.Parts = m.Content+flat(m.Parts, mark), nil
		}
		if t.layout.lists && len(m.Parts) == 0 {
			m.Content, m.Parts = "", []template.Part{{Type: partText, Text: m.Content}}
		}
		out = append(out, m)
	}
	return out, pictures
}

// flat joins parts: a picture is a mark on a line of its own.
func flat(parts []template.Part, mark string) string {
	var b strings.Builder
	for _, p := range parts {
		if p.Type == partPicture {
			b.WriteString(mark + "\n")
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

// newMark is a text that stands for a picture.
func newMark() string { return "\ue000" + rand.Text() + "\ue000" }

// encode returns the ids of segments, in which pictures are PictureID.
func (t text) encode(segments []token.Segment, mark string, pictures int) []int32 {
	switch {
	case pictures == 0:
		return t.vocab.EncodeSegments(segments)
	case t.layout.pictures:
		ids := t.vocab.EncodeSegments(segments)
		for i, id := range ids {
			if id == t.placeholder {
				ids[i] = PictureID
			}
		}
		return ids
	}
	var ids []int32
	var piece []token.Segment
	for _, s := range segments {
		for {
			before, after, found := strings.Cut(s.Text, mark)
			piece = append(piece, token.Segment{Text: before, Special: s.Special})
			if !found {
				break
			}
			ids = append(append(ids, t.vocab.EncodeSegments(piece)...), PictureID)
			piece, s.Text = piece[:0], after
		}
	}
	return append(ids, t.vocab.EncodeSegments(piece)...)
}
