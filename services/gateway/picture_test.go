package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// somePicture is no picture: the gateway does not look into it.
var somePicture = bytes.Repeat([]byte("\x89PNG\r\n\x1a\n?"), 100)

func dataURLOf(file []byte) string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(file)
}

// seenTurn is a user's turn with a picture and a text.
func seenTurn(text string) *pb.Message {
	return &pb.Message{Role: "user", Parts: []*pb.Part{
		{Part: &pb.Part_Picture{Picture: somePicture}}, {Part: &pb.Part_Text{Text: text}},
	}}
}

// TestPicturesByEveryDoor: a picture arrives at the coordinator as it was sent, in its
// place, whichever way the request came.
func TestPicturesByEveryDoor(t *testing.T) {
	url := dataURLOf(somePicture)
	open := fmt.Sprintf(`{"role":"user","content":[{"type":"image_url","image_url":{"url":%q,"detail":"auto"}},{"type":"text","text":"what?"}]}`, url)
	got := map[string]*pb.Generation{}
	plain, err := parsePlain([]byte(fmt.Sprintf(`{"prompt":"what?","images":[%q]}`, url)), 10)
	if err != nil {
		t.Fatal(err)
	}
	got["plain"] = plain
	rich, err := parseRich([]byte(`{"v":1,"type":"generate","id":"a","messages":[`+open+`]}`), 10, false)
	if err != nil {
		t.Fatal(err)
	}
	got["rich"] = rich.generation
	chat, err := parseChat([]byte(`{"messages":[`+open+`]}`), 10)
	if err != nil {
		t.Fatal(err)
	}
	got["openai"] = chat.generation
	f := serveOllama(t)
	unpadded := base64.RawStdEncoding.EncodeToString(somePicture)
	f.post(t, "/api/chat", fmt.Sprintf(`{"model":"tiny","stream":false,"messages":[{"role":"user","content":"what?","images":[%q]}]}`, unpadded))
	got["ollama chat"] = f.next(t).Generation
	f.post(t, "/api/generate", fmt.Sprintf(`{"model":"tiny","stream":false,"prompt":"what?","images":[%q]}`, unpadded))
	got["ollama generate"] = f.next(t).Generation
	for door, g := range got {
		if m := g.GetChat().GetMessages(); len(m) != 1 || !proto.Equal(m[0], seenTurn("what?")) {
			t.Errorf("%s: the coordinator saw %v", door, g.GetInput())
		}
	}
	words, err := parseChat([]byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}`), 10)
	if err != nil || words.generation.GetChat().GetMessages()[0].GetContent() != "ab" {
		t.Errorf("texts alone: %v, %v", words, err)
	}
}

// TestPictureMessagesAreChecked holds what came as protobuf to the bounds of JSON.
func TestPictureMessagesAreChecked(t *testing.T) {
	part := func(p *pb.Part) *pb.Message { return &pb.Message{Role: "user", Parts: []*pb.Part{p}} }
	for name, c := range map[string]struct {
		message *pb.Message
		param   string
	}{
		"empty part":       {part(&pb.Part{}), "chat.messages[0].parts[0]"},
		"empty picture":    {part(&pb.Part{Part: &pb.Part_Picture{}}), "chat.messages[0].parts[0].picture"},
		"large picture":    {part(&pb.Part{Part: &pb.Part_Picture{Picture: make([]byte, 11<<20)}}), "chat.messages[0].parts[0].picture"},
		"text beside them": {&pb.Message{Role: "user", Content: "x", Parts: seenTurn("y").Parts}, "chat.messages[0].content"},
		"too many":         {&pb.Message{Role: "user", Parts: make([]*pb.Part, maxParts+1)}, "chat.messages[0].parts"},
	} {
		p := checkGeneration(&pb.Generation{Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{c.message}}}}, 10)
		if p == nil || p.param != c.param {
			t.Errorf("%s: %+v, want one about %s", name, p, c.param)
		}
	}
}

// TestPicturesAreSubmittedAgain: an answer goes on with the files of its pictures,
// where the first coordinator had placed them.
func TestPicturesAreSubmittedAgain(t *testing.T) {
	hash := sha256.Sum256(somePicture)
	a := &attempts{
		request: &pb.Generation{Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{
			{Role: "user", Parts: []*pb.Part{{Part: &pb.Part_Picture{Picture: []byte("dropped from a long conversation")}}}}, seenTurn("x"),
		}}}},
		accepted: &pb.Accepted{PromptIds: []int32{1, 9, 9, 2}, Pictures: []*pb.PromptPicture{{Start: 1, Count: 2, Hash: hash[:]}}},
	}
	want := []*pb.PromptPicture{{Start: 1, Count: 2, File: somePicture}}
	if got := a.rest().GetResumption().GetPictures(); len(got) != 1 || !proto.Equal(got[0], want[0]) {
		t.Errorf("resumed with %v", got)
	}
}

// TestPicturesAreBounded: requests hold so many bytes of pictures and no more, and give
// them back at their end.
func TestPicturesAreBounded(t *testing.T) {
	f := serve(t)
	one := func() *pb.Event {
		var last *pb.Event
		g := &pb.Generation{Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{seenTurn("x")}}}}
		for e := range f.relay.generate(t.Context(), g) {
			last = e
		}
		return last
	}
	f.relay.pictures.Store(maxPictureBytes - int64(len(somePicture)) + 1)
	if e := one(); e.GetError().GetCode() != codeRateLimit || !e.GetError().GetRetryable() {
		t.Errorf("over the limit: %v", e)
	}
	f.relay.pictures.Add(-1)
	if e := one(); e.GetComplete() == nil {
		t.Errorf("at the limit: %v", e)
	}
	if n := f.relay.pictures.Load(); n != maxPictureBytes-int64(len(somePicture)) {
		t.Errorf("%d bytes are held afterwards", n)
	}
}

// TestLargeRequestsTakeTurns: what is large waits while as many as may be are read.
func TestLargeRequestsTakeTurns(t *testing.T) {
	f := serve(t)
	for range bulkAtOnce {
		f.bulk <- struct{}{}
	}
	large := `{"messages":[{"role":"user","content":"` + strings.Repeat("x", bulkFrom) + `"}]}`
	done := make(chan int, 1)
	go func() {
		status, _, _ := f.do(t, "POST", chatPath, large)
		done <- status
	}()
	if status, _, body := f.do(t, "POST", chatPath, chatBody("")); status != 200 {
		t.Errorf("a small request beside them: %d %s", status, body)
	}
	select {
	case status := <-done:
		t.Fatalf("a large request was not kept waiting: %d", status)
	default:
	}
	<-f.bulk
	if status := <-done; status != 200 {
		t.Errorf("a large request in its turn: %d", status)
	}
}
