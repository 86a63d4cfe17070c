package coordinator

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
	"github.com/shoal-llm/shoal/services/coordinator/plan/place"
)

// Times of the survey: what shards are asked to measure, and when.
const (
	joinWait       = 1500 * time.Millisecond // that a node may take to be measured before it counts as joined
	measureTimeout = 10 * time.Second
	linksTimeout   = 30 * time.Second
	linksEvery     = 10 * time.Minute
	idleFor        = 2 * time.Second // without a session, before devices in use are measured
)

// survey is what the owner knows of how fast devices and links are. Devices are
// measured when they join a cluster that has a choice, or else when nobody uses
// them; links once per pair and then seldom. Nodes of one machine are measured
// one at a time.
type survey struct {
	nodes  map[string]*surveyed
	hosts  map[string]bool // machines on which something is being measured
	active time.Time       // when a session was last there
}

// surveyed is what is known of a node.
type surveyed struct {
	speeds  []*pb.DeviceSpeed
	done    bool // there is nothing more to measure of its devices
	waiting bool // it joins once it is measured, or joinBy
	joinBy  time.Time
	links   []*pb.LinkSpeed
	peers   string // whom links were measured to
	linked  time.Time
	slow    map[int]*slowness // by device
	used    map[int]deviceUse // what a device held when a stage was loaded
}

// taught is the answer of a shard that was told a turn; speeds is nil when there
// is none.
type taught struct {
	conn   *shardConn
	speeds []*pb.DeviceSpeed
}

func (e taught) apply(o *owner) {
	n := o.nodes[e.conn.link.node]
	if n == nil || n.conn != e.conn {
		return
	}
	if s := o.survey.of(n.link.node); e.speeds != nil {
		s.speeds = e.speeds
		o.learn(n)
	}
}

// teach has a shard keep what real steps have shown.
func (o *owner) teach(n *node, turn float64) {
	conn := n.conn
	o.outside.measure(conn, true, turn, func(speeds []*pb.DeviceSpeed) event { return taught{conn, speeds} })
}

// measured is a shard's answer; speeds is nil when there is none.
type measured struct {
	conn   *shardConn
	host   string // that it was asked on
	speeds []*pb.DeviceSpeed
}

// linksMeasured is a shard's answer; links is nil when there is none.
type linksMeasured struct {
	conn  *shardConn
	host  string // that it was asked on
	peers string
	links []*pb.LinkSpeed
}

// deviceUse is bytes of memory by the backend's account; the rest is buffers.
type deviceUse struct{ total, weights, caches uint64 }

func newSurvey() survey {
	return survey{nodes: map[string]*surveyed{}, hosts: map[string]bool{}}
}

// of returns what is known of a node, to be filled in.
func (s *survey) of(node string) *surveyed {
	if s.nodes[node] == nil {
		s.nodes[node] = newSurveyed(nil)
	}
	return s.nodes[node]
}

func newSurveyed(speeds []*pb.DeviceSpeed) *surveyed {
	return &surveyed{speeds: speeds, slow: map[int]*slowness{}, used: map[int]deviceUse{}}
}

// complete reports whether every device of a node is known for every part.
func complete(hello *pb.HelloResponse, speeds []*pb.DeviceSpeed, parts int) bool {
	if len(speeds) < len(hello.GetDevices()) {
		return false
	}
	return !slices.ContainsFunc(speeds, func(s *pb.DeviceSpeed) bool { return len(s.GetShapes()) < parts })
}

// shapes counts what is known of devices.
func shapes(speeds []*pb.DeviceSpeed) (n int) {
	for _, s := range speeds {
		n += len(s.GetShapes())
	}
	return n
}

// measure asks a shard how fast its devices are at the model; cached asks for what
// it knows. A turn that real steps have shown is kept there; 0 is none.
func (c *Coordinator) measure(ctx context.Context, conn *shardConn, cached bool, turn float64) []*pb.DeviceSpeed {
	timeout := measureTimeout
	if cached {
		timeout = helloTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := pb.NewShardServiceClient(conn.conn).Measure(ctx, &pb.MeasureRequest{
		Model: c.deps.Model.proto(), Parts: c.parts, Cached: cached, TurnSeconds: turn, Holder: c.holder(),
	})
	if err != nil {
		c.deps.Log.Debug("cannot measure", "shard", conn.link.node, "err", err)
		return nil
	}
	return r.GetDevices()
}

// measureLinks asks a shard how fast its links are.
func (c *Coordinator) measureLinks(ctx context.Context, conn *shardConn, req *pb.MeasureLinksRequest) []*pb.LinkSpeed {
	ctx, cancel := context.WithTimeout(ctx, linksTimeout)
	defer cancel()
	r, err := pb.NewShardServiceClient(conn.conn).MeasureLinks(ctx, req)
	if err != nil {
		c.deps.Log.Debug("cannot measure links", "shard", conn.link.node, "err", err)
	}
	return r.GetLinks()
}

// join takes a node whose handshake succeeded. Where there is a choice of
// devices, it counts as joined once it has been measured, or after joinWait.
func (o *owner) join(n *node, speeds []*pb.DeviceSpeed) {
	s := o.survey.of(n.link.node)
	*s = *newSurveyed(speeds)
	s.done = complete(n.hello, speeds, len(o.c.parts))
	if s.done || !o.choice() {
		o.step(plan.Joined{Node: o.planNode(n), Epoch: n.hello.GetEpoch()})
		o.learn(o.kin(n)...)
		return
	}
	s.waiting, s.joinBy = true, o.now().Add(joinWait)
	o.surveyNodes(o.now())
}

// choice reports whether there is more than one device, or will be.
func (o *owner) choice() bool {
	devices := 0
	for _, n := range o.nodes {
		if n.conn != nil {
			devices += len(n.hello.GetDevices())
		}
	}
	return devices > 1 || o.c.cfg.Wishes.MinShards > 1
}

// planNode is a node as the planner sees it.
func (o *owner) planNode(n *node) plan.Node {
	s := o.survey.of(n.link.node)
	out := plan.Node{ID: n.link.node, Address: *n.link.addr.Load(), Links: map[string]place.Link{}}
	speeds := o.speedsOf(n)
	for _, d := range n.hello.GetDevices() {
		device := plan.Device{
			Index: int(d.GetIndex()), Memory: d.GetMemoryBytes(), Class: d.GetNumericsClass(), Fingerprint: d.GetFingerprint(),
		}
		for _, v := range speeds {
			if v.GetDevice() == d.GetIndex() {
				device.Speed = speedOf(v)
			}
		}
		if slow := s.slow[device.Index]; slow != nil {
			device.Speed.Slow = slow.told
		}
		out.Devices = append(out.Devices, device)
	}
	for _, l := range s.links {
		out.Links[l.GetTo()] = linkOf(l)
	}
	return out
}

func speedOf(v *pb.DeviceSpeed) plan.Speed {
	var d place.Device
	setSpeed(&d, v)
	return plan.Speed{Pass: d.Pass, Turn: d.Turn, Bandwidth: d.Bandwidth, Shapes: d.Speeds}
}

// learn tells the planner what is new of nodes that have joined.
func (o *owner) learn(nodes ...*node) {
	nodes = slices.DeleteFunc(nodes, func(n *node) bool { return o.survey.of(n.link.node).waiting })
	if len(nodes) == 0 {
		return
	}
	for _, n := range nodes {
		o.step(plan.Learned{Node: o.planNode(n)})
	}
	for _, p := range o.sortedPipes() {
		p.tempo.predict(o, p.plan)
	}
}

// surveyNodes has measured what is due.
func (o *owner) surveyNodes(now time.Time) {
	if len(o.running) > 0 || o.survey.active.IsZero() {
		o.survey.active = now
	}
	idle := now.Sub(o.survey.active) >= idleFor && o.machine.Phase() == plan.Ready
	for _, id := range sortedKeys(o.nodes) {
		n := o.nodes[id]
		if n.conn == nil || len(n.hello.GetDevices()) == 0 {
			continue
		}
		s := o.survey.of(id)
		if s.waiting && !now.Before(s.joinBy) {
			o.joinNow(n, s)
		}
		host, _, _ := net.SplitHostPort(*n.link.addr.Load())
		if o.survey.hosts[host] {
			continue
		}
		switch peers := o.peers(); {
		case !s.done && (idle || o.choice() && !o.holdsStage(id)):
			o.askSpeeds(n, host)
		case s.waiting:
		case peers != s.peers && (idle || o.choice()), idle && now.Sub(s.linked) >= linksEvery:
			o.askLinks(n, host, peers)
		}
	}
}

func (o *owner) joinNow(n *node, s *surveyed) {
	s.waiting = false
	o.step(plan.Joined{Node: o.planNode(n), Epoch: n.hello.GetEpoch()})
}

// holdsStage reports whether a node has a stage of the plan in force.
func (o *owner) holdsStage(node string) bool {
	p := o.machine.Plan()
	return p != nil && slices.ContainsFunc(p.Pipelines, func(p *plan.Pipeline) bool { return p.OfNode(node) >= 0 })
}

func (o *owner) askSpeeds(n *node, host string) {
	conn := n.conn
	o.survey.hosts[host] = true
	o.outside.measure(conn, false, 0, func(speeds []*pb.DeviceSpeed) event { return measured{conn, host, speeds} })
}

// surveyed frees a host for the next measurement, and returns the node that was
// asked; nil if its connection is another by now.
func (o *owner) surveyed(conn *shardConn, host string) *node {
	delete(o.survey.hosts, host)
	if n := o.nodes[conn.link.node]; n != nil && n.conn == conn {
		return n
	}
	return nil
}

func (e measured) apply(o *owner) {
	n := o.surveyed(e.conn, e.host)
	if n == nil {
		return
	}
	s := o.survey.of(n.link.node)
	// It leaves out what it had no time for; what it leaves out twice cannot be
	// measured.
	s.done = complete(n.hello, e.speeds, len(o.c.parts)) || shapes(e.speeds) <= shapes(s.speeds)
	if e.speeds != nil {
		s.speeds = e.speeds
	}
	if e.speeds != nil {
		o.learn(append(o.kin(n), n)...)
	}
	if s.waiting {
		o.joinNow(n, s)
	}
	o.surveyNodes(o.now())
}

// peers names the nodes that links lead to.
func (o *owner) peers() string {
	var out []string
	for _, id := range sortedKeys(o.nodes) {
		if n := o.nodes[id]; n.conn != nil && len(n.hello.GetDevices()) > 0 {
			out = append(out, id+" "+*n.link.addr.Load())
		}
	}
	return strings.Join(out, "\n")
}

func (o *owner) askLinks(n *node, host, peers string) {
	req := &pb.MeasureLinksRequest{}
	for line := range strings.SplitSeq(peers, "\n") {
		id, addr, _ := strings.Cut(line, " ")
		req.Peers = append(req.Peers, &pb.Peer{Node: id, Address: addr})
	}
	conn := n.conn
	o.survey.hosts[host] = true
	o.outside.measureLinks(conn, req, func(links []*pb.LinkSpeed) event { return linksMeasured{conn, host, peers, links} })
}

func (e linksMeasured) apply(o *owner) {
	n := o.surveyed(e.conn, e.host)
	if n == nil {
		return
	}
	s := o.survey.of(n.link.node)
	s.peers, s.linked = e.peers, o.now()
	if e.links != nil {
		s.links = e.links
		o.learn(n)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// held is the bytes that the stages of a pipeline hold by their backends'
// accounts; 0 where a device has others too, or nothing was said.
func (o *owner) held(p *plan.Pipeline) []deviceUse {
	out := make([]deviceUse, len(p.Stages))
	for i, st := range p.Stages {
		stages := 0
		for _, other := range o.machine.Plan().Pipelines {
			for _, s := range other.Stages {
				if s.Node == st.Node && s.Device == st.Device {
					stages++
				}
			}
		}
		if stages == 1 {
			out[i] = o.survey.of(st.Node).used[st.Device]
		}
	}
	return out
}

// reportSpeeds adds what was measured to a report.
func (o *owner) reportSpeeds(r *pb.ClusterResponse) {
	for _, n := range r.Nodes {
		s := o.survey.nodes[n.GetNode()]
		if s == nil || o.nodes[n.GetNode()] == nil {
			continue
		}
		n.Speeds = o.speedsOf(o.nodes[n.GetNode()])
		r.Links = append(r.Links, s.links...)
	}
	r.Explanation = o.machine.Explanation()
}

// facts is what the planner goes by now, beside the plan in force.
func (o *owner) facts() plan.Facts {
	f := plan.Facts{Model: o.c.deps.Model.Facts, Wishes: o.c.cfg.Wishes}
	for _, id := range sortedKeys(o.nodes) {
		if n := o.nodes[id]; n.conn != nil {
			f.Nodes = append(f.Nodes, o.planNode(n))
		}
	}
	return f
}
