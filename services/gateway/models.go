package gateway

import (
	"net/http"
	"slices"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// modelList is the answer of GET /v1/models.
type modelList struct {
	Object string      `json:"object"`
	Data   []modelCard `json:"data"`
}

// modelCard is a model in OpenAI's shape, with our own facts beside it.
type modelCard struct {
	ID      string     `json:"id"`
	Object  string     `json:"object"`
	Created int64      `json:"created"`
	OwnedBy string     `json:"owned_by"`
	Parent  string     `json:"parent,omitempty"` // of a name that stands for a model with an adapter: the model's
	Shoal   modelFacts `json:"shoal"`
}

type modelFacts struct {
	State        string            `json:"state"` // loading, ready, failed
	Reason       string            `json:"reason,omitempty"`
	Precision    string            `json:"precision"`
	Context      uint32            `json:"context"`
	Layers       uint32            `json:"layers"`
	Stages       []string          `json:"stages"` // "node [first..end)"
	Fingerprint  string            `json:"fingerprint"`
	Architecture string            `json:"architecture"`
	TensorTypes  map[string]uint32 `json:"tensor_types"`
	Parameters   uint64            `json:"parameters"`
	Aliases      []string          `json:"aliases"`
	PictureRows  uint32            `json:"picture_rows"` // positions that a picture takes; 0: the model reads text alone
}

func cardOf(m *pb.ModelInfo) modelCard {
	types := m.GetTensorTypes()
	if types == nil {
		types = map[string]uint32{}
	}
	return modelCard{
		ID: m.GetName(), Object: "model", Created: m.GetCreated(), OwnedBy: "shoal",
		Shoal: modelFacts{
			State: m.GetState(), Reason: m.GetReason(), Precision: m.GetPrecision(),
			Context: m.GetContext(), Layers: m.GetLayers(), Stages: append([]string{}, m.GetStages()...),
			Fingerprint: m.GetFingerprint(), Architecture: m.GetArchitecture(),
			TensorTypes: types, Parameters: m.GetParameters(), Aliases: append([]string{}, m.GetAliases()...),
			PictureRows: m.GetPictureRows(),
		},
	}
}

// adapterCard is a model with an adapter, which clients call by a name of its own.
func adapterCard(m *pb.ModelInfo, name string) modelCard {
	c := cardOf(m)
	c.ID, c.Parent, c.Shoal.Aliases = name, m.GetName(), []string{}
	return c
}

// cardsOf is a model and, behind it, what its adapters make of it.
func cardsOf(m *pb.ModelInfo) []modelCard {
	out := []modelCard{cardOf(m)}
	for _, name := range m.GetAdapters() {
		out = append(out, adapterCard(m, name))
	}
	return out
}

// models serves GET /v1/models.
func (g *Gateway) models(w http.ResponseWriter, r *http.Request) {
	state, err := g.cluster.state(r.Context())
	if err != nil {
		errNoCoordinator.write(w)
		return
	}
	list := modelList{Object: "list", Data: []modelCard{}}
	for _, m := range visible(callerOf(r.Context()), state.GetModels()) {
		list.Data = append(list.Data, cardsOf(m)...)
	}
	writeJSON(w, http.StatusOK, list)
}

// model serves GET /v1/models/{id}; an alias finds its model.
func (g *Gateway) model(w http.ResponseWriter, r *http.Request) {
	state, err := g.cluster.state(r.Context())
	if err != nil {
		errNoCoordinator.write(w)
		return
	}
	id := r.PathValue("id")
	for _, m := range visible(callerOf(r.Context()), state.GetModels()) {
		if m.GetName() == id || slices.Contains(m.GetAliases(), id) {
			writeJSON(w, http.StatusOK, cardOf(m))
			return
		}
		if slices.Contains(m.GetAdapters(), id) {
			writeJSON(w, http.StatusOK, adapterCard(m, id))
			return
		}
	}
	noSuchModel(id, "model").write(w)
}
