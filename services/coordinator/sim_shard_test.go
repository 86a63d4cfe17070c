package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/pkg/frame"
	"github.com/shoal-llm/shoal/pkg/kv"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard/command"
	"github.com/shoal-llm/shoal/services/shard/driver"
)

// simShard is a shard. Whom it obeys (command), how steps are formed (driver) and
// where keys and values lie (kv) are decided by the machines of the program. What
// services/shard does around them with goroutines is done here with events: the
// streams of Control, Drive, Push and Results, the one fuse of a pipeline, the
// loader, the queue of a device. Reserves and the measuring of speeds are left out.
type simShard struct {
	*simProc
	s    *simulation
	addr string
	full bool // no space is left for weights

	cmd     simCommand
	parts   map[command.Key]*simPart
	control *simEnd
	sent    map[*pb.StageState]bool // on that stream
	states  []*pb.StageState
	loading bool
	news    bool // a plan came while it was loading
	queue   []simWork
	busy    *simPart // what is computed is of it
}

// simCommand is command.Machine.
type simCommand interface {
	Epoch() uint64
	Held(coordinator string, now time.Time) bool
	Holder(now time.Time) string
	Grant(coordinator string, l *pb.Lease, now time.Time) *pb.Refused
	Check(coordinator string, plan *pb.Plan) *pb.Refused
	Install(coordinator string, plan *pb.Plan, now time.Time) (bool, map[command.Key]bool, *pb.Refused)
}

// simObedient is a shard's command without fencing: whoever asks has the lease.
type simObedient struct{ command.Machine }

func (m *simObedient) Held(string, time.Time) bool { return true }

func (m *simObedient) Holder(time.Time) string { return "" }

func (m *simObedient) Grant(_ string, l *pb.Lease, now time.Time) *pb.Refused {
	return m.Machine.Grant(l.GetCoordinator(), l, now)
}

func (m *simObedient) Install(c string, plan *pb.Plan, now time.Time) (bool, map[command.Key]bool, *pb.Refused) {
	late := now.Add(time.Hour) // whatever lease there was has run out
	if r := m.Machine.Grant(c, &pb.Lease{Coordinator: c}, late); r != nil {
		return false, nil, r
	}
	return m.Machine.Install(c, plan, late)
}

// simPart is the shard's part of a pipeline.
type simPart struct {
	key    command.Key
	plan   *pb.Pipeline
	stages map[int]*simStage
	ended  error
	at     int // the stage where its end was seen
	ends   []func()

	machine *driver.Machine // until somebody drives it
	drive   *simDrive
	subs    []*simSub // of the results, where the last stage is
}

type simSub struct{ take func(*frame.Result) }

// simStage is a stage of a part.
type simStage struct {
	part   *simPart
	index  int
	begun  bool
	log    *kv.Log // nil until it is loaded, and when it was given up
	device *simDevice
	fed    bool
	next   *simEnd // nil until the stage behind it takes frames
	out    []simFrame
}

// simWork is a frame that waits for the device.
type simWork struct {
	stage *simStage
	frame simFrame
}

func (p *simPart) last() int { return len(p.plan.Stages) - 1 }

// boot starts the process, which knows nothing.
func (sh *simShard) boot(addr string) {
	sh.start()
	sh.addr = addr
	sh.w.trace(sh.simProc, "is at %s", addr)
	if sh.cmd = new(command.Machine); sh.w.bug == simFencingOff {
		sh.cmd = new(simObedient)
	}
	sh.parts, sh.control, sh.sent, sh.states = map[command.Key]*simPart{}, nil, nil, nil
	sh.loading, sh.news, sh.queue, sh.busy = false, false, nil, nil
}

// hello answers a handshake.
func (sh *simShard) hello(e *simEnd) {
	now := sh.clock()
	e.send(&pb.HelloResponse{
		Protocol: wire.ProtocolMax, Cluster: sh.s.cluster, Node: sh.name, Version: "sim", Epoch: sh.cmd.Epoch(), Holder: sh.cmd.Holder(now),
		Devices: []*pb.Device{{MemoryBytes: sh.s.memory[sh.name], NumericsClass: "sim"}},
	})
	e.close("answered")
}

// serveControl is server.Control.
func (sh *simShard) serveControl(e *simEnd, peer string) {
	leased := false
	e.got = func(m any) {
		req := m.(*pb.ControlRequest)
		var refused *pb.Refused
		switch {
		case req.GetLease() != nil:
			refused = sh.cmd.Grant(peer, req.GetLease(), sh.clock())
		case !leased:
			e.close("the first message of a Control stream is a lease")
			return
		case req.GetPlan() != nil:
			refused = sh.accept(peer, req.GetPlan())
		}
		if refused != nil {
			sh.w.trace(sh.simProc, "refuses %s: %s", peer, refused.Reason)
			e.send(&pb.ControlResponse{Message: &pb.ControlResponse_Refused{Refused: refused}})
			e.close(refused.Reason)
			return
		}
		if !leased {
			leased = true
			if sh.control != nil {
				sh.control.close("another Control stream has taken over")
			}
			sh.control, sh.sent = e, map[*pb.StageState]bool{}
			sh.tell()
		}
	}
}

// tell sends the states that the coordinator has not heard.
func (sh *simShard) tell() {
	if sh.control == nil {
		return
	}
	for _, st := range sh.states {
		if !sh.sent[st] {
			sh.sent[st] = true
			sh.control.send(&pb.ControlResponse{Message: &pb.ControlResponse_Stage{Stage: st}})
		}
	}
}

func (sh *simShard) report(st *simStage, state pb.LoadState, err string) {
	k := st.part.key
	if sh.parts[k] == nil {
		return
	}
	sh.states = slices.DeleteFunc(slices.Clone(sh.states), func(s *pb.StageState) bool {
		return s.Epoch == k.Epoch && s.Pipeline == k.ID && int(s.Stage) == st.index
	})
	sh.states = append(sh.states, &pb.StageState{Epoch: k.Epoch, Pipeline: k.ID, Stage: uint32(st.index), State: state, Error: err, NoMemory: sh.full && sh.life%2 == 0})
	sh.tell()
}

// accept is Shard.accept and control.install.
func (sh *simShard) accept(peer string, plan *pb.Plan) *pb.Refused {
	if r := sh.cmd.Check(peer, plan); r != nil {
		return r
	}
	news, stay, refused := sh.cmd.Install(peer, plan, sh.clock())
	if !news {
		return refused
	}
	sh.w.trace(sh.simProc, "plan %#x of %s is in force", plan.Epoch, peer)
	for _, k := range sh.keys() {
		if !stay[k] {
			p := sh.parts[k]
			delete(sh.parts, k)
			sh.blow(p, 0, fmt.Errorf("the plan of epoch %#x replaced it", plan.Epoch))
		}
	}
	for _, pl := range plan.Pipelines {
		k := command.KeyOf(plan, pl)
		if sh.parts[k] != nil {
			continue
		}
		if p := sh.part(k, pl); len(p.stages) > 0 {
			sh.parts[k] = p
		}
	}
	sh.states = slices.DeleteFunc(slices.Clone(sh.states), func(s *pb.StageState) bool {
		return sh.parts[command.Key{Epoch: s.Epoch, ID: s.Pipeline}] == nil
	})
	sh.load()
	return nil
}

// keys returns those of the parts, oldest first.
func (sh *simShard) keys() []command.Key {
	var out []command.Key
	for k := range sh.parts {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b command.Key) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.ID, b.ID)) })
	return out
}

func (sh *simShard) part(k command.Key, pl *pb.Pipeline) *simPart {
	p := &simPart{key: k, plan: pl, stages: map[int]*simStage{}}
	for i, st := range pl.Stages {
		if st.Node != sh.name {
			continue
		}
		p.stages[i] = &simStage{part: p, index: i}
		if i > 0 {
			continue
		}
		m, err := driver.New(driver.Config{
			Epoch: k.Epoch, Pipeline: k.ID, Slots: int(pl.Slots), Pages: int(pl.Pages), Context: int(pl.Context),
			Rows: int(pl.Rows), Chunk: int(pl.Rows), Stages: len(pl.Stages), Lanes: int(pl.Lanes), InFlight: frame.MaxPending,
			Drafts: 8, Cached: int(pl.Pages), Target: 50 * time.Millisecond, // as services/shard has them
		})
		if err != nil {
			sh.w.violate("%s: a driver for a plan that was checked: %v", sh.name, err)
		}
		p.machine = m
	}
	return p
}

// simSlowLoad is how many times as long a slow shard takes to load weights, at most.
const simSlowLoad = 3

// load is the loader: it gives up the stages of pipelines that have ended and
// loads those that are new, one by one.
func (sh *simShard) load() {
	if sh.loading {
		sh.news = true
		return
	}
	sh.loading = true
	sh.loadNext()
}

func (sh *simShard) loadNext() {
	if sh.busy != nil && sh.busy.ended != nil { // its frame finishes first
		sh.after(time.Millisecond, sh.loadNext)
		return
	}
	for _, k := range sh.keys() {
		p := sh.parts[k]
		if p.ended != nil {
			for _, st := range p.stages {
				st.log, st.device = nil, nil
			}
			continue
		}
		for i := range p.plan.Stages {
			if st := p.stages[i]; st != nil && !st.begun {
				st.begun = true
				sh.report(st, pb.LoadState_LOAD_STATE_LOADING, "")
				took := sh.w.between(5*time.Millisecond, sh.s.loads)
				sh.after(sh.takes(took, simSlowLoad), func() { sh.loaded(st) })
				return
			}
		}
	}
	if sh.loading = false; sh.news {
		sh.news = false
		sh.load()
	}
}

func (sh *simShard) loaded(st *simStage) {
	p := st.part
	switch {
	case p.ended != nil:
		sh.report(st, pb.LoadState_LOAD_STATE_FAILED, p.ended.Error())
	case sh.full:
		sh.w.trace(sh.simProc, "has no space for stage %d of %v", st.index, p.key)
		sh.report(st, pb.LoadState_LOAD_STATE_FAILED, "no space left on device")
	default:
		st.log = kv.NewLog(kv.Config{
			Epoch: p.key.Epoch, Pipeline: p.key.ID, Pages: int(p.plan.Pages), Slots: int(p.plan.Slots), Rows: int(p.plan.Rows), Context: int(p.plan.Context),
		})
		st.device = newSimDevice(int(p.plan.Pages), st.index == 0, st.index == p.last(), sh.w.bug)
		sh.report(st, pb.LoadState_LOAD_STATE_READY, "")
	}
	sh.loadNext()
}

// find is control.find.
func (sh *simShard) find(k command.Key) (*simPart, error) {
	p, seen := sh.parts[k], sh.cmd.Epoch()
	switch {
	case p == nil && k.Epoch < seen:
		return nil, fmt.Errorf("epoch %#x is over", k.Epoch)
	case k.Epoch > seen:
		return nil, fmt.Errorf("epoch %#x is unknown", k.Epoch)
	case p == nil:
		return nil, errors.New("no stage of it is here")
	case p.ended != nil:
		return nil, p.ended
	}
	return p, nil
}

// blow is the fuse of a pipeline on this node.
func (sh *simShard) blow(p *simPart, at int, err error) {
	if p.ended != nil {
		return
	}
	sh.w.trace(sh.simProc, "pipeline %v ends at stage %d: %v", p.key, at, err)
	p.ended, p.at = err, at
	sh.s.tally.pipelines++
	for _, f := range p.ends {
		f()
	}
	p.ends = nil
}

// simDrive is the host of a driver: services/shard's drive.
type simDrive struct {
	sh      *simShard
	part    *simPart
	machine *driver.Machine
	stream  *simEnd
	waiting []*pb.DriveRequest // until results are heard
	hears   bool
}

// serveDrive is server.Drive.
func (sh *simShard) serveDrive(e *simEnd, peer string) {
	var d *simDrive
	e.got = func(m any) {
		req := m.(*pb.DriveRequest)
		if d != nil {
			d.request(req)
			return
		}
		p, err := sh.find(command.Key{Epoch: req.GetAttach().GetEpoch(), ID: req.GetAttach().GetPipeline()})
		switch {
		case err != nil:
		case !sh.cmd.Held(peer, sh.clock()):
			err = errors.New("only the coordinator that holds the lease may drive")
		case p.stages[0] == nil || p.stages[0].log == nil || p.machine == nil:
			err = errors.New("it is not loaded, or has had its driver")
		}
		if err != nil {
			sh.w.trace(sh.simProc, "refuses to be driven by %s: %v", peer, err)
			e.close(err.Error())
			return
		}
		d = &simDrive{sh: sh, part: p, machine: p.machine, stream: e}
		p.machine, p.drive = nil, d
		d.begin()
	}
	e.gone = func(err error) {
		if d != nil {
			sh.blow(d.part, 0, fmt.Errorf("the coordinator detached: %w", err))
		}
	}
}

func (d *simDrive) begin() {
	p, sh := d.part, d.sh
	p.ends = append(p.ends, func() {
		d.stream.send(&pb.DriveResponse{Message: &pb.DriveResponse_Faulted{Faulted: &pb.Faulted{Reason: p.ended.Error(), Stage: uint32(max(p.at, 0))}}})
		d.stream.close(p.ended.Error())
	})
	if p.last() > 0 {
		sh.hop(p.stages[0])
	}
	if p.stages[p.last()] != nil {
		p.subs = append(p.subs, &simSub{func(r *frame.Result) {
			sh.after(0, func() { d.returned(r) })
		}})
		d.subscribed()
		return
	}
	at := p.plan.Stages[p.last()]
	lost := func(err error) { sh.blow(p, p.last(), fmt.Errorf("node %s lost: %w", at.Node, err)) }
	sh.greet(p, at, lost, func(to *simShard) {
		e := sh.w.dial(sh.simProc, to.simProc, func(e *simEnd) { to.serveResults(e, sh.name, p.key) })
		e.gone = lost
		e.got = func(m any) {
			if r, ok := m.(*frame.Result); ok {
				d.returned(r)
				return
			}
			d.subscribed()
		}
		sh.lean(p, e, to, lost)
	})
}

// lean ties a stream to another node to a pipeline, with heartbeats.
func (sh *simShard) lean(p *simPart, e *simEnd, to *simShard, lost func(error)) {
	beat := sh.w.watch(sh.simProc, to.simProc, wire.LostAfter, lost)
	p.ends = append(p.ends, func() {
		beat.done = true
		e.reset("the pipeline has ended")
	})
}

// greet shakes hands with a neighbour.
func (sh *simShard) greet(p *simPart, at *pb.Stage, lost func(error), then func(to *simShard)) {
	sh.s.hello(sh.simProc, at.Address, func(_ *pb.HelloResponse, to *simShard, err error) {
		switch {
		case p.ended != nil:
		case err != nil:
			lost(err)
		default:
			then(to)
		}
	})
}

func (d *simDrive) subscribed() {
	d.hears = true
	for len(d.waiting) > 0 && d.part.ended == nil {
		m := d.waiting[0]
		d.waiting = d.waiting[1:]
		d.obey(m)
	}
}

func (d *simDrive) request(m *pb.DriveRequest) {
	if d.waiting = append(d.waiting, m); d.hears {
		d.subscribed()
	}
}

func (d *simDrive) obey(m *pb.DriveRequest) {
	switch m := m.GetMessage().(type) {
	case *pb.DriveRequest_Submit:
		d.submit(m.Submit)
	case *pb.DriveRequest_Commit:
		d.must(d.step(driver.Commit{Slot: frame.Slot(m.Commit.Slot), Attempt: m.Commit.Attempt, Length: int(m.Commit.Length)}))
	case *pb.DriveRequest_Halt:
		d.must(d.step(driver.Halt{Slot: frame.Slot(m.Halt.Slot), Attempt: m.Halt.Attempt}))
	}
}

func (d *simDrive) submit(m *pb.Submit) {
	open, err := wire.OpenFromProto(m.GetOpen())
	if err == nil {
		if len(m.Tokens) > int(open.AnswerStart) {
			d.sh.s.tally.moved++
		}
		err = d.step(driver.Submit{Open: open, Tokens: m.Tokens, Ahead: int(m.Ahead)})
	}
	if err == nil || errors.Is(err, driver.ErrFault) {
		d.must(err)
		return
	}
	d.sh.w.violate("%s refused a session: %v", d.sh.name, err)
}

// must ends the pipeline when its driver failed, which no fault of the world
// explains: a stage lost, repeated or made up a step.
func (d *simDrive) must(err error) {
	if err != nil {
		d.sh.w.violate("the driver on %s failed: %v", d.sh.name, err)
	}
}

func (d *simDrive) returned(r *frame.Result) {
	if d.part.ended == nil {
		d.must(d.step(driver.Returned{Result: r}))
	}
}

// step is drive.step.
func (d *simDrive) step(ev driver.Event) error {
	out, err := d.machine.Step(d.sh.clock(), ev)
	if err != nil {
		return err
	}
	for _, f := range out.Send {
		d.sh.feed(d.part.stages[0], simFrame{Frame: f})
	}
	for _, p := range out.Prefilled {
		d.stream.send(&pb.DriveResponse{Message: &pb.DriveResponse_Prefilled{Prefilled: &pb.Prefilled{
			Slot: uint32(p.Slot), Attempt: p.Attempt, Done: int32(p.Done), Total: int32(p.Total), Cached: int32(p.Cached),
		}}})
	}
	for _, c := range out.Closed {
		d.stream.send(&pb.DriveResponse{Message: &pb.DriveResponse_Closed{Closed: &pb.Closed{
			Slot: uint32(c.Slot), Attempt: c.Attempt, Reason: string(c.Reason), Detail: c.Detail,
		}}})
	}
	return nil
}

// hop is Shard.hop: frames of a stage go to the next one.
func (sh *simShard) hop(st *simStage) {
	p, to := st.part, st.part.plan.Stages[st.index+1]
	lost := func(err error) { sh.blow(p, st.index+1, fmt.Errorf("node %s lost: %w", to.Node, err)) }
	sh.greet(p, to, lost, func(next *simShard) {
		e := sh.w.dial(sh.simProc, next.simProc, func(e *simEnd) { next.servePush(e, sh.name, p.key, st.index+1) })
		e.gone = lost
		st.next = e
		for _, f := range st.out {
			e.send(f)
		}
		st.out = nil
		sh.lean(p, e, next, lost)
	})
}

// servePush is server.Push.
func (sh *simShard) servePush(e *simEnd, peer string, k command.Key, index int) {
	p, err := sh.find(k)
	if err != nil {
		e.close(err.Error())
		return
	}
	st := p.stages[index]
	if st == nil || index == 0 || p.plan.Stages[index-1].Node != peer || st.fed {
		e.close("no stage here takes these frames")
		return
	}
	st.fed = true
	if index < p.last() {
		sh.hop(st)
	}
	p.ends = append(p.ends, func() { e.close(p.ended.Error()) })
	e.got = func(m any) { sh.feed(st, m.(simFrame)) }
	e.gone = func(err error) { sh.blow(p, index-1, fmt.Errorf("node %s lost: %w", peer, err)) }
}

// serveResults is server.Results.
func (sh *simShard) serveResults(e *simEnd, peer string, k command.Key) {
	p, err := sh.find(k)
	switch {
	case err != nil:
	case p.stages[p.last()] == nil:
		err = errors.New("the last stage is elsewhere")
	case !sh.cmd.Held(peer, sh.clock()) && peer != p.plan.Stages[0].Node:
		err = errors.New("results go to the coordinator that holds the lease and to the driver")
	}
	if err != nil {
		e.close(err.Error())
		return
	}
	sub := &simSub{func(r *frame.Result) { e.send(r) }}
	p.subs = append(p.subs, sub)
	e.send("subscribed")
	p.ends = append(p.ends, func() { e.close(p.ended.Error()) })
	e.gone = func(error) { p.subs = slices.DeleteFunc(p.subs, func(s *simSub) bool { return s == sub }) }
}

// feed gives a stage a frame.
func (sh *simShard) feed(st *simStage, f simFrame) {
	sh.queue = append(sh.queue, simWork{st, f})
	sh.compute()
}

// compute is the device: one frame at a time.
func (sh *simShard) compute() {
	for sh.busy == nil && len(sh.queue) > 0 {
		w := sh.queue[0]
		sh.queue = sh.queue[1:]
		p := w.stage.part
		if p.ended != nil {
			continue
		}
		if w.stage.log == nil {
			sh.w.violate("%s: a frame for stage %d of %v, which is not loaded", sh.name, w.stage.index, p.key)
			return
		}
		step, err := w.stage.log.Apply(w.frame.Frame)
		if err != nil {
			sh.w.violate("%s: stage %d of %v: %v", sh.name, w.stage.index, p.key, err)
			sh.blow(p, w.stage.index, err)
			continue
		}
		out, result := w.stage.device.compute(w.frame, step)
		sh.busy = p
		rows := time.Duration(w.frame.NumRows())
		sh.work(sh.s.step+rows*sh.s.row, func() {
			sh.busy = nil
			if p.ended == nil {
				sh.emit(w.stage, out, result)
			}
			sh.compute()
		})
	}
}

// emit passes on what a frame has become.
func (sh *simShard) emit(st *simStage, f simFrame, r *frame.Result) {
	if sh.w.say != nil {
		sh.w.trace(sh.simProc, "step %d of %v, stage %d", f.Step, st.part.key, st.index)
	}
	if st.index < st.part.last() {
		if st.next == nil {
			st.out = append(st.out, f)
			return
		}
		st.next.send(f)
		return
	}
	for i := range st.part.plan.Stages {
		r.Timings = append(r.Timings, frame.Timing{Stage: uint32(i), ComputeNS: uint64(sh.s.step), Rows: uint32(f.NumRows())})
	}
	for _, s := range slices.Clone(st.part.subs) {
		s.take(r)
		if sh.w.chance(sh.w.rude) {
			s.take(r) // who listens drops what it has heard
		}
	}
}
