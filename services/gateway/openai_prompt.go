package gateway

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// promptInput is a text, or its token ids.
type promptInput struct {
	text string
	ids  []int32
}

// readPrompts reads what OpenAI's older APIs take: a string, an array of at
// most count strings, an array of token ids, or an array of such arrays.
func readPrompts(r *strictjson.Reader, member string, count int) []promptInput {
	if !r.Has(member) {
		r.Fail(member, "is missing")
		return nil
	}
	var list []promptInput
	switch r.Elements(member) {
	case strictjson.Number, strictjson.Array:
		for _, ids := range r.IDs(member, count, maxTokenID) {
			list = append(list, promptInput{ids: ids})
		}
	default:
		for _, text := range r.Strings(member, count, maxText) {
			list = append(list, promptInput{text: text})
		}
	}
	if len(list) == 0 {
		r.Fail(member, "must not be empty")
	}
	return list
}

// give makes p the input of a generation. Ids are those of an answer that
// begins, so its seed must be known here.
func (p promptInput) give(g *pb.Generation) {
	if p.ids == nil {
		g.Input = &pb.Generation_Raw{Raw: p.text}
		return
	}
	if !g.GetSeedSet() {
		g.Sampling.Seed, g.SeedSet = drawSeed(), true
	}
	g.Input = &pb.Generation_Resumption{Resumption: &pb.Resumption{PromptIds: p.ids}}
}

// drawSeed returns a seed that JSON readers keep exactly: below 2^53.
func drawSeed() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) >> 11
}

// about names the member of the request that a coordinator's error is about:
// the coordinator knows prompts by other names.
func (p *problem) about(member string) *problem {
	switch p.param {
	case "messages", "resumption", "raw":
		named := *p
		named.param = member
		return &named
	}
	return p
}

// refuseMembers refuses members that ask for something that is not offered,
// unless they ask for nothing.
func refuseMembers(r *strictjson.Reader, why string, members ...string) {
	for _, m := range members {
		if r.Has(m) {
			r.Refuse(m, why)
		}
	}
}

// atMost is the text of a bound.
func atMost(n int, what string) string { return fmt.Sprintf("asks for more than %d %s", n, what) }
