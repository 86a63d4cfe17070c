package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/pkg/vision"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Pictures in requests. A picture is in the request: addresses are not fetched. It is
// looked at by the coordinator, as far as its header tells, and by the shard that turns
// it into rows.

const (
	maxPictures     = 16        // of a request
	maxPictureBytes = 256 << 20 // of all requests that are being answered
	bulkFrom        = 1 << 20   // bytes of a request from which on it waits for its turn to be read
	bulkAtOnce      = 16        // such requests that are read at a time
)

// errPictures refuses a request while those of others are as large as may be.
var errPictures = &problem{code: codeRateLimit, retryable: true, message: "This gateway holds as many pictures as it may; try again in a moment."}

// dataURL decodes a picture of the form data:image/png;base64,…; why says what is
// wrong.
func dataURL(url string) (file []byte, why string) {
	head, body, found := strings.Cut(url, ",")
	kind, inline := strings.CutPrefix(head, "data:")
	switch {
	case !inline:
		return nil, "must be a data: URL that holds the picture: addresses are not fetched"
	case !found:
		return nil, "has no data"
	}
	kind, encoded := strings.CutSuffix(kind, ";base64")
	kind, _, _ = strings.Cut(kind, ";")
	switch {
	case !encoded:
		return nil, "must be encoded as base64"
	case kind != "" && !strings.HasPrefix(kind, "image/") && kind != "application/octet-stream":
		return nil, fmt.Sprintf("is of the type %.64s, which is no picture", kind)
	}
	return fromBase64(body)
}

// fromBase64 decodes a picture, with or without padding.
func fromBase64(text string) (file []byte, why string) {
	most := vision.DefaultLimits().Bytes
	if base64.RawStdEncoding.DecodedLen(len(strings.TrimRight(text, "="))) > most {
		return nil, fmt.Sprintf("is larger than %d MiB", most>>20)
	}
	file, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, "is not base64"
	}
	if len(file) == 0 {
		return nil, "holds no data"
	}
	return file, ""
}

// readPart reads a part of a message in OpenAI's shape; nil where it is wrong.
func readPart(part *strictjson.Reader) *pb.Part {
	defer part.Close()
	switch kind, _ := part.String("type", maxShortText); kind {
	case "text":
		piece, ok := part.String("text", maxText)
		if !ok {
			part.Fail("text", "must be a string")
			return nil
		}
		return &pb.Part{Part: &pb.Part_Text{Text: piece}}
	case "image_url":
		return readImageURL(part)
	default:
		part.Refuse("type", "must be text or image_url")
		return nil
	}
}

func readImageURL(part *strictjson.Reader) *pb.Part {
	o := part.Object("image_url")
	if o == nil {
		part.Fail("image_url", "is missing")
		return nil
	}
	defer o.Close()
	url, ok := o.String("url", maxText)
	if !ok {
		o.Fail("url", "is missing")
		return nil
	}
	if detail, ok := o.String("detail", maxShortText); ok && detail != "auto" {
		o.Refuse("detail", "must be auto: the model reads pictures of one size")
	}
	file, why := dataURL(url)
	switch {
	case why == "":
		return &pb.Part{Part: &pb.Part_Picture{Picture: file}}
	case strings.HasPrefix(url, "data:"):
		o.Fail("url", why)
	default:
		o.Refuse("url", why)
	}
	return nil
}

// setParts gives a message its parts: as one text where there is no picture.
func setParts(m *pb.Message, parts []*pb.Part) {
	var text strings.Builder
	for _, p := range parts {
		if p.GetPicture() != nil {
			m.Parts = parts
			return
		}
		text.WriteString(p.GetText())
	}
	m.Content = text.String()
}

// readImages reads a list of pictures that go before a text; decode says what is wrong
// with one.
func readImages(r *strictjson.Reader, text string, decode func(string) ([]byte, string)) []*pb.Part {
	var parts []*pb.Part
	for i, image := range r.Strings("images", maxPictures, maxText) {
		file, why := decode(image)
		if why != "" {
			r.Fail(fmt.Sprintf("images[%d]", i), why)
			return nil
		}
		parts = append(parts, &pb.Part{Part: &pb.Part_Picture{Picture: file}})
	}
	if len(parts) > 0 && text != "" {
		parts = append(parts, &pb.Part{Part: &pb.Part_Text{Text: text}})
	}
	return parts
}

// picturesOf returns the files of a request's pictures.
func picturesOf(g *pb.Generation) (files [][]byte) {
	for _, m := range g.GetChat().GetMessages() {
		for _, p := range m.GetParts() {
			if file := p.GetPicture(); file != nil {
				files = append(files, file)
			}
		}
	}
	return files
}

// hold counts a request's pictures until release is called; false says that there are
// too many already.
func (r *relay) hold(g *pb.Generation) (release func(), ok bool) {
	n := int64(0)
	for _, file := range picturesOf(g) {
		n += int64(len(file))
	}
	release = func() { r.pictures.Add(-n) }
	if n > 0 && r.pictures.Add(n) > maxPictureBytes {
		release()
		return func() {}, false
	}
	return release, true
}

// resumedPictures are those of an answer that is submitted again: as the coordinator
// that began it placed them, with their files.
func resumedPictures(g *pb.Generation, placed []*pb.PromptPicture) (out []*pb.PromptPicture) {
	if len(placed) == 0 {
		return nil
	}
	files := map[[32]byte][]byte{}
	for _, file := range picturesOf(g) {
		files[sha256.Sum256(file)] = file
	}
	for _, p := range placed {
		if len(p.GetHash()) == sha256.Size {
			out = append(out, &pb.PromptPicture{Start: p.GetStart(), Count: p.GetCount(), File: files[[32]byte(p.GetHash())]})
		}
	}
	return out
}

// checkParts holds what a message that came as protobuf consists of to the bounds of
// the JSON doors.
func checkParts(m *pb.Message, at string, bad func(param, why string) *problem) *problem {
	if len(m.GetParts()) > maxParts {
		return bad(at+".parts", fmt.Sprintf("has more than %d", maxParts))
	}
	if len(m.GetParts()) > 0 && m.GetContent() != "" {
		return bad(at+".content", "cannot be given together with parts")
	}
	most := vision.DefaultLimits().Bytes
	for i, p := range m.GetParts() {
		switch part := p.GetPart().(type) {
		case *pb.Part_Text:
		case *pb.Part_Picture:
			if len(part.Picture) == 0 || len(part.Picture) > most {
				return bad(fmt.Sprintf("%s.parts[%d].picture", at, i), fmt.Sprintf("must have 1 to %d bytes", most))
			}
		default:
			return bad(fmt.Sprintf("%s.parts[%d]", at, i), "is neither text nor a picture")
		}
	}
	return nil
}

// readBulk reads all of r. What is larger than bulkFrom waits, until ctx ends, while as
// many as may be are being read; the rest of it has bodyTimeout, then cut is called.
func (g *Gateway) readBulk(ctx context.Context, r io.Reader, cut func()) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, bulkFrom))
	if err != nil || len(data) < bulkFrom {
		return data, err
	}
	select {
	case g.bulk <- struct{}{}:
		defer func() { <-g.bulk }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer time.AfterFunc(bodyTimeout, cut).Stop()
	rest, err := io.ReadAll(r)
	return append(data, rest...), err
}
