package gateway

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/gateway/strictjson"
)

// Limits of embeddings.
const (
	embeddingInputs = 2048 // of one request
	embeddingWidth  = 8    // of one request at a time at the coordinator
)

// embeddingRequest is a request of /v1/embeddings.
type embeddingRequest struct {
	generation *pb.Generation // without input
	inputs     []promptInput
	base64     bool
}

func parseEmbedding(data []byte) (*embeddingRequest, error) {
	r, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	model, _ := r.String("model", maxText)
	q := &embeddingRequest{
		generation: &pb.Generation{Model: model, Pooling: readPooling(r), Sampling: &pb.Sampling{}, SeedSet: true},
		inputs:     readPrompts(r, "input", embeddingInputs),
	}
	switch format, ok := r.String("encoding_format", maxShortText); {
	case format == "base64":
		q.base64 = true
	case ok && format != "float":
		r.Fail("encoding_format", "must be float or base64")
	}
	refuseMembers(r, "is not supported: embeddings have the model's own width", "dimensions")
	r.String("user", maxShortText)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return q, checkModel(model, "model")
}

// readPooling reads how hidden states become one vector.
func readPooling(r *strictjson.Reader) pb.Pooling {
	kind, _ := r.String("pooling", maxShortText)
	switch kind {
	case "":
		return pb.Pooling_POOLING_OWN
	case "mean":
		return pb.Pooling_POOLING_MEAN
	case "cls":
		return pb.Pooling_POOLING_FIRST
	case "last":
		return pb.Pooling_POOLING_LAST
	}
	r.Fail("pooling", "must be mean, last or cls")
	return pb.Pooling_POOLING_MEAN
}

type embeddingList struct {
	Object string          `json:"object"`
	Data   []embeddingItem `json:"data"`
	Model  string          `json:"model"`
	Usage  embeddingUsage  `json:"usage"`
}

type embeddingItem struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // numbers, or base64 of little-endian float32
}

type embeddingUsage struct {
	PromptTokens uint32 `json:"prompt_tokens"`
	TotalTokens  uint32 `json:"total_tokens"`
}

// embeddings serves POST /v1/embeddings.
func (g *Gateway) embeddings(w http.ResponseWriter, r *http.Request) {
	q, p := g.readEmbedding(w, r)
	ctx, req, leave, ok := g.enter(w, r, "openai", q.generation, p)
	defer leave()
	if !ok {
		return
	}
	done, p := g.embed(ctx, req, q.generation, q.inputs)
	if p != nil {
		p.about("input").write(w)
		return
	}
	list := embeddingList{Object: "list", Data: []embeddingItem{}, Model: done.model}
	for i, v := range done.vectors {
		item := embeddingItem{Object: "embedding", Index: i, Embedding: v}
		if q.base64 {
			item.Embedding = packed(v)
		}
		list.Data = append(list.Data, item)
	}
	list.Usage = embeddingUsage{done.tokens, done.tokens}
	writeJSON(w, http.StatusOK, list)
}

func (g *Gateway) readEmbedding(w http.ResponseWriter, r *http.Request) (*embeddingRequest, *problem) {
	data, p := g.readBody(w, r)
	if p != nil {
		return &embeddingRequest{}, p
	}
	q, err := parseEmbedding(data)
	if err != nil {
		return &embeddingRequest{}, problemOf(err)
	}
	return q, nil
}

// packed is a vector as base64 of little-endian float32.
func packed(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// embedded are the vectors of inputs, in their order.
type embedded struct {
	model   string
	vectors [][]float32
	tokens  uint32 // of all inputs
}

// embed asks for the embedding of each input, a few at a time.
func (g *Gateway) embed(ctx context.Context, req *request, base *pb.Generation, inputs []promptInput) (*embedded, *problem) {
	models, tokens := make([]string, len(inputs)), make([]uint32, len(inputs))
	done := &embedded{vectors: make([][]float32, len(inputs))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(embeddingWidth)
	for i, in := range inputs {
		group.Go(func() error {
			gen := proto.CloneOf(base)
			in.give(gen)
			for e := range g.run(ctx, req, gen) {
				switch ev := e.GetEvent().(type) {
				case *pb.Event_Accepted:
					models[i] = ev.Accepted.GetModel()
				case *pb.Event_Complete:
					done.vectors[i], tokens[i] = ev.Complete.GetEmbedding(), ev.Complete.GetUsage().GetPromptTokens()
				default:
					if p := endedEarly(e); p != nil {
						return p
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, problemOf(err)
	}
	for _, n := range tokens {
		done.tokens += n
	}
	done.model = models[0]
	return done, nil
}
