package gateway

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

const weatherTool = `{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}`

// structured are generations whose answers have a form, as gRPC clients ask for
// them.
func structured() []*pb.Generation {
	input := &pb.Generation_Prompt{Prompt: "x"}
	return []*pb.Generation{
		{Input: input, ResponseFormat: &pb.ResponseFormat{Type: "text"}},
		{Input: input, ResponseFormat: &pb.ResponseFormat{Type: "json_object"}},
		{Input: input, ResponseFormat: &pb.ResponseFormat{Type: "json_schema", Schema: `{"type":"object"}`}},
		{Input: input, Tools: []string{weatherTool}},
		{Input: input, Tools: []string{weatherTool}, ToolChoice: &pb.ToolChoice{Mode: "required"}, SingleToolCall: true},
		{Input: input, Tools: []string{weatherTool}, ToolChoice: &pb.ToolChoice{Mode: "function", Name: "weather"}},
		{Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{
			{Role: "user", Content: "x"},
			{Role: "assistant", ToolCalls: []*pb.ToolCall{{Id: "c1", Name: "weather", Arguments: `{"city":"Rome"}`}}},
			{Role: "tool", ToolCallId: "c1", Content: "warm"},
		}}}, Tools: []string{weatherTool}},
	}
}

// Generate and Chat hand the form of an answer and its tools on, and the calls
// back.
func TestGRPCStructureReachesTheCoordinator(t *testing.T) {
	f := serve(t)
	f.fake.set(func(g *fakeGeneration) {
		g.accept()
		call := tokenEvent(1, "")
		call.GetToken().Delta = &pb.Delta{Delta: &pb.Delta_ToolCall{ToolCall: &pb.ToolCall{Id: "c1", Name: "weather", Arguments: "{}"}}}
		g.send(g.number, call, completeEvent("tool_calls", 1, ""))
	})
	client := pb.NewGenerateServiceClient(f.dialGRPC(t))
	chat, err := client.Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range structured() {
		generate, err := client.Generate(t.Context(), &pb.GenerateRequest{Generation: want})
		if err != nil {
			t.Fatal(err)
		}
		if err := chat.Send(&pb.ChatRequest{Message: &pb.ChatRequest_Generation{Generation: want}}); err != nil {
			t.Fatal(err)
		}
		for door, read := range map[string]func() (*pb.Event, error){
			"Generate": func() (*pb.Event, error) { r, err := generate.Recv(); return r.GetEvent(), err },
			"Chat":     func() (*pb.Event, error) { r, err := chat.Recv(); return r.GetEvent(), err },
		} {
			var call *pb.ToolCall
			var end *pb.Complete
			for end == nil {
				e, err := read()
				if err != nil {
					t.Fatalf("%d by %s: %v", i, door, err)
				}
				if c := e.GetToken().GetDelta().GetToolCall(); c != nil {
					call = c
				}
				end = e.GetComplete()
			}
			if call.GetName() != "weather" || end.GetFinishReason() != "tool_calls" {
				t.Errorf("%d by %s: call %v, end %v", i, door, call, end)
			}
			got := f.next(t)
			if !proto.Equal(got.GetResponseFormat(), want.GetResponseFormat()) || !slices.Equal(got.GetTools(), want.GetTools()) ||
				!proto.Equal(got.GetToolChoice(), want.GetToolChoice()) || got.GetSingleToolCall() != want.GetSingleToolCall() ||
				!proto.Equal(got.GetChat(), want.GetChat()) {
				t.Errorf("%d by %s: the coordinator saw %v, want %v", i, door, got.Generation, want)
			}
		}
	}
}

// What is wrong with a form, tools or calls is named before any coordinator sees
// it.
func TestGRPCStructureIsRefusedByName(t *testing.T) {
	f := serve(t)
	client := pb.NewGenerateServiceClient(f.dialGRPC(t))
	format := func(kind, schema string) *pb.Generation {
		return &pb.Generation{Input: &pb.Generation_Prompt{}, ResponseFormat: &pb.ResponseFormat{Type: kind, Schema: schema}}
	}
	choice := func(mode, name string, tools ...string) *pb.Generation {
		return &pb.Generation{Input: &pb.Generation_Prompt{}, Tools: tools, ToolChoice: &pb.ToolChoice{Mode: mode, Name: name}}
	}
	turn := func(m *pb.Message) *pb.Generation {
		return &pb.Generation{Input: &pb.Generation_Chat{Chat: &pb.Chat{Messages: []*pb.Message{m}}}}
	}
	call := func(name, arguments string) []*pb.ToolCall {
		return []*pb.ToolCall{{Name: name, Arguments: arguments}}
	}
	for param, list := range map[string][]*pb.Generation{
		"response_format.type":   {format("", ""), format("xml", "")},
		"response_format.schema": {format("json_schema", ""), format("json_object", "{}")},
		"tools":                  {choice("auto", "", slices.Repeat([]string{weatherTool}, maxTools+1)...)},
		"tools[0]":               {choice("auto", "", "{"), choice("auto", "", "")},
		"tool_choice":            {choice("required", ""), choice("function", "weather")},
		"tool_choice.mode":       {choice("", "", weatherTool), choice("always", "", weatherTool)},
		"tool_choice.name":       {choice("function", "", weatherTool), choice("auto", "weather", weatherTool)},

		"chat.messages[0].tool_call_id":            {turn(&pb.Message{Role: "tool"}), turn(&pb.Message{Role: "user", ToolCallId: "c1"})},
		"chat.messages[0].tool_calls":              {turn(&pb.Message{Role: "user", ToolCalls: call("f", "{}")}), turn(&pb.Message{Role: "assistant", ToolCalls: make([]*pb.ToolCall, maxToolCalls+1)})},
		"chat.messages[0].tool_calls[0].name":      {turn(&pb.Message{Role: "assistant", ToolCalls: call("", "{}")})},
		"chat.messages[0].tool_calls[0].arguments": {turn(&pb.Message{Role: "assistant", ToolCalls: call("f", "{")})},
	} {
		for i, g := range list {
			stream, err := client.Generate(t.Context(), &pb.GenerateRequest{Generation: g})
			if err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.InvalidArgument || !strings.HasSuffix(status.Convert(err).Message(), ": "+param+")") {
				t.Errorf("%s, %d: %v", param, i, err)
			}
		}
	}
	if n := len(f.fake.started); n != 0 {
		t.Errorf("the coordinator saw %d of them", n)
	}
}
