package coordinator

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/weights"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/coordinator/registry"
)

const (
	maxDownward   = 1 << 16 // events waiting for one gateway
	batchDownward = 512     // events in one message
)

// server is the gRPC edge.
type server struct {
	pb.UnimplementedCoordinatorServiceServer
	c *Coordinator
}

// rules say who may call what. With a registry its methods are served too.
func (c *Coordinator) rules() pki.Rules {
	all := maps.Clone(ownRules)
	if c.deps.Registry != nil {
		maps.Copy(all, registry.Rules())
	}
	return all
}

var ownRules = pki.Rules{
	"/shoal.v1.CoordinatorService/Relay":   {pki.Gateway},
	"/shoal.v1.CoordinatorService/Cluster": pki.AnyRole(),
	"/shoal.v1.CoordinatorService/Drain":   {pki.Operator},
	"/shoal.v1.WeightService/Have":         {pki.Shard},
	"/shoal.v1.WeightService/Segments":     {pki.Shard},
	"/grpc.health.v1.Health/Check":         pki.AnyRole(),
	"/grpc.health.v1.Health/List":          pki.AnyRole(),
	"/grpc.health.v1.Health/Watch":         pki.AnyRole(),
}

func (c *Coordinator) newServer() (*grpc.Server, error) {
	rules := c.rules()
	unary, stream := pki.Authorize(rules)
	s := grpc.NewServer(append(wire.ServerOptions(),
		grpc.Creds(c.deps.Identity.ServerCredentials()),
		grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))...)
	pb.RegisterCoordinatorServiceServer(s, &server{c: c})
	pb.RegisterWeightServiceServer(s, weights.NewService(c.deps.Weights))
	healthpb.RegisterHealthServer(s, c.health)
	if c.deps.Registry != nil {
		c.deps.Registry.Register(s)
	}
	if err := rules.Check(s.GetServiceInfo()); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	return s, nil
}

// relay is one gateway's stream, which carries all its generations. All but out
// and stop belong to the owner.
type relay struct {
	node   string
	number uint64 // relays are numbered as they come
	out    *mailbox[*pb.Downward]
	stop   context.CancelFunc // ends the stream; its generations with it

	sessions map[uint64]*session // by the gateway's number
	kept     map[uint64]*kept    // likewise: answers that outlive the stream; nil before the first
	batch    []*pb.Downward      // of this step
	closed   bool
	beats    uint64 // heartbeats heard
	silence  wire.Silence
}

// relaySilence is how long a gateway that has sent heartbeats may send none. It knows
// long before that the link is cut, and submits its answers again.
const relaySilence = 4 * wire.LostAfter

// cutSilent ends the streams of gateways that are silent, so that nothing is computed
// for them.
func (o *owner) cutSilent(now time.Time) {
	for _, r := range o.sortedRelays() {
		if silent := r.silence.Look(now, r.beats); r.beats > 0 && silent > relaySilence {
			o.log.Warn("gateway is silent", "gateway", r.node, "for", silent)
			r.beats = 0
			r.stop()
		}
	}
}

// inOrder returns the stream's generations in the order in which they began.
func (r *relay) inOrder() []*session {
	return slices.SortedFunc(maps.Values(r.sessions), func(a, b *session) int { return cmp.Compare(a.number, b.number) })
}

// The events of relays.
type (
	relayOpened struct{ r *relay }
	relayClosed struct{ r *relay }
	upward      struct {
		r        *relay
		messages []*pb.Upward
	}
)

// Relay carries generations of a gateway until the stream ends: then they are
// halted, or wait for another gateway.
func (s *server) Relay(stream pb.CoordinatorService_RelayServer) error {
	peer, err := pki.PeerFromContext(stream.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	r := &relay{
		node: peer.NodeID, out: newMailbox[*pb.Downward](maxDownward),
		stop:     func() { cancel(errBadGateway) },
		sessions: map[uint64]*session{},
	}
	s.c.post(relayOpened{r})
	defer s.c.post(relayClosed{r})
	go func() { cancel(s.receive(stream, r)) }()
	for {
		events, err := r.out.take(ctx)
		if errors.Is(err, errRelayEnded) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return status.Error(codes.Unavailable, "the coordinator is shutting down")
		}
		for part := range slices.Chunk(events, batchDownward) {
			if err := stream.Send(&pb.RelayResponse{Messages: part}); err != nil {
				return err
			}
		}
	}
}

// errBadGateway says that a gateway reads too slowly or breaks the protocol.
var errBadGateway = status.Error(codes.ResourceExhausted, "the stream was cut: the gateway is silent, reads too slowly or repeats itself")

// errRelayEnded says that the gateway has ended its stream.
var errRelayEnded = errors.New("the gateway has ended its stream")

// receive gives the owner what a gateway sends. It ends with the stream.
func (s *server) receive(stream pb.CoordinatorService_RelayServer, r *relay) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errRelayEnded
		}
		if err != nil {
			return err
		}
		s.c.post(upward{r, m.GetMessages()})
	}
}

func (e relayOpened) apply(o *owner) {
	o.opened++
	e.r.number = o.opened
	o.relays[e.r] = true
	o.log.Info("gateway connected", "gateway", e.r.node)
	o.note(noteGatewayJoined, e.r.node, "")
}

func (e relayClosed) apply(o *owner) {
	e.r.closed = true
	delete(o.relays, e.r)
	o.log.Info("gateway disconnected", "gateway", e.r.node, "generations", len(e.r.sessions))
	o.note(noteGatewayLeft, e.r.node, "")
	for _, n := range slices.Sorted(maps.Keys(e.r.kept)) {
		o.detach(e.r.kept[n])
	}
	for _, s := range e.r.inOrder() {
		o.stop(s, "client")
	}
}

func (e upward) apply(o *owner) {
	if e.r.closed {
		return
	}
	for _, up := range e.messages {
		s, k := e.r.sessions[up.GetNumber()], e.r.kept[up.GetNumber()]
		switch m := up.GetMessage().(type) {
		case *pb.Upward_Start, *pb.Upward_Claim:
			if s != nil || k != nil { // numbers are unique: this gateway is confused
				e.r.stop()
				return
			}
			if c := up.GetClaim(); c != nil {
				o.claim(e.r, up.GetNumber(), c)
			} else {
				o.begin(e.r, up.GetNumber(), up.GetStart())
			}
		case *pb.Upward_Stop:
			reason := stopReason(m.Stop.GetReason())
			if k != nil && reason == "drain" { // the gateway's, not the answer's
				o.detach(k)
				continue
			}
			if s != nil {
				o.stop(s, reason)
			}
			if k != nil { // nobody wants it any more
				o.forgetKept(k)
			}
		case *pb.Upward_Credit:
			if k != nil {
				k.credit = max(k.credit, m.Credit.GetSeq())
				o.replay(k)
			}
			if s != nil {
				o.grant(s, m.Credit.GetSeq())
			}
		case *pb.Upward_Beat: // by the owner, so that one that hangs is as silent as one that is gone
			e.r.beats++
			o.postDown(e.r, &pb.Downward{Beat: m.Beat})
		}
	}
}

// stopReason keeps the reasons of the protocol.
func stopReason(reason string) string {
	if reason == "deadline" || reason == "drain" {
		return reason
	}
	return "client"
}

// grant lets tokens up to seq leave.
func (o *owner) grant(s *session, seq uint64) {
	s.credit = max(s.credit, seq)
	if s.machine != nil {
		o.act(s, s.machine.Step(generation.Credit{Seq: seq}))
	}
}

// clusterAsked asks for a report.
type clusterAsked struct{ answer chan<- *pb.ClusterResponse }

// Cluster says who is there, what is loaded and whether it can answer.
func (s *server) Cluster(ctx context.Context, _ *pb.ClusterRequest) (*pb.ClusterResponse, error) {
	answer := make(chan *pb.ClusterResponse, 1)
	s.c.post(clusterAsked{answer})
	select {
	case r := <-answer:
		return r, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-s.c.ended:
		return nil, status.Error(codes.Unavailable, "the coordinator is shutting down")
	}
}

func (e clusterAsked) apply(o *owner) { e.answer <- o.report() }

func (o *owner) modelInfo(why string) *pb.ModelInfo {
	m := &o.c.deps.Model
	info := &pb.ModelInfo{
		Name: m.Name, State: "loading", Reason: why, Precision: m.Precision, Context: uint32(m.Facts.Context),
		Layers: uint32(m.Facts.Layers()), Created: m.Created.Unix(), Architecture: m.Architecture,
		TensorTypes: map[string]uint32{}, Aliases: o.c.cfg.Aliases,
		PictureRows: uint32(m.PictureRows), Parameters: m.Parameters, Size: uint64(m.Size), Digest: hex.EncodeToString(m.Digest[:]),
	}
	for _, a := range m.Adapters {
		info.Adapters = append(info.Adapters, a.Name)
	}
	for name, n := range m.TensorTypes {
		info.TensorTypes[name] = uint32(n)
	}
	serving := o.serving()
	if len(serving) > 0 {
		info.State, info.Fingerprint = "ready", serving[0].fingerprint
	}
	if p := o.shown(serving); p != nil {
		info.Context = uint32(p.Context)
		for _, s := range p.Stages {
			info.Stages = append(info.Stages, s.String())
		}
	}
	return info
}

// shown is the pipeline that is shown as the model's: the first that serves, or
// else the first there is.
func (o *owner) shown(serving []*pipeline) *plan.Pipeline {
	if len(serving) > 0 {
		return serving[0].plan
	}
	if p := o.machine.Plan(); p != nil && len(p.Pipelines) > 0 {
		return p.Pipelines[0]
	}
	return nil
}

// drainAsked asks to have a node emptied, or used again.
type drainAsked struct {
	node   string
	undo   bool
	answer chan<- *pb.DrainResponse // nil: there is no such node
}

// Drain has a node emptied, or used again.
func (s *server) Drain(ctx context.Context, req *pb.DrainRequest) (*pb.DrainResponse, error) {
	answer := make(chan *pb.DrainResponse, 1)
	s.c.post(drainAsked{req.GetNode(), req.GetUndo(), answer})
	select {
	case r := <-answer:
		if r == nil {
			return nil, status.Errorf(codes.NotFound, "there is no shard %q", req.GetNode())
		}
		return r, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-s.c.ended:
		return nil, status.Error(codes.Unavailable, "the coordinator is shutting down")
	}
}

func (e drainAsked) apply(o *owner) {
	if o.nodes[e.node] == nil {
		e.answer <- nil
		return
	}
	o.step(plan.Drain{Node: e.node, Undo: e.undo})
	state := o.machine.Aside(e.node)
	o.log.Info("drain", "shard", e.node, "undo", e.undo, "state", state)
	o.note(noteDrain, e.node, state)
	e.answer <- &pb.DrainResponse{State: state}
}
