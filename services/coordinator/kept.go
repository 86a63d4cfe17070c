package coordinator

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Bounds of answers that outlive their gateways.
const (
	maxKept      = 1024
	maxKeptBytes = 64 << 20
	keptAhead    = 512               // tokens that are computed while no gateway has the answer
	keptRunning  = 60 * time.Second  // how long it is computed then
	keptEnded    = 120 * time.Second // how long what has ended may be claimed
)

// reasonDisconnected is why an answer ended that nobody claimed.
const reasonDisconnected = "disconnected"

// keptKey names a kept answer: the id alone would let one tenant claim another's.
type keptKey struct{ tenant, id string }

// kept is an answer that may outlive its gateway, with all that has left of it. What a
// gateway gets of it comes from here, at the pace of its credit. The owner holds it.
type kept struct {
	key      keptKey
	request  *pb.Generation
	s        *session  // nil once it has ended
	accepted *pb.Event // nil until there is one
	log      []byte    // tokens, each behind its length
	base     uint64    // tokens before the log
	last     uint64    // the newest token's number
	terminal *pb.Event
	since    time.Time // no gateway has it, or it has ended; zero is neither

	relay  *relay // nil: no gateway has it
	number uint64 // the gateway's
	sent   uint64 // the last token that it got
	credit uint64
	next   int // where in the log the token after that is
}

// keep notes an answer that is to outlive its gateway. One of the same name is given up
// for it; if it is the same answer, submitted again, what it said stays.
func (o *owner) keep(s *session) {
	id := s.request.GetKeep().GetId()
	if id == "" {
		return
	}
	said := s.request.GetResumption()
	base := uint64(len(said.GetCommittedIds()))
	k := &kept{key: keptKey{s.request.GetTenant(), id}, request: s.request, s: s, base: base, last: base, sent: base, relay: s.relay, number: s.number}
	if old := o.kept[k.key]; old != nil {
		if said != nil && said.GetId() == old.accepted.GetAccepted().GetId() && base >= old.base && base <= old.last {
			k.log, k.base = slices.Clone(old.log[:old.place(base)]), old.base
			k.next = len(k.log)
		}
		o.supersede(old)
	}
	if !o.roomToKeep() {
		return
	}
	o.kept[k.key], s.kept = k, k
	o.keptBytes += len(k.log) + proto.Size(k.request)
	if s.relay.kept == nil {
		s.relay.kept = map[uint64]*kept{}
	}
	s.relay.kept[s.number] = k
}

// roomToKeep forgets the answer that ended first, if there are too many.
func (o *owner) roomToKeep() bool {
	for len(o.kept) >= maxKept || o.keptBytes >= maxKeptBytes {
		var first *kept
		for _, k := range o.kept {
			if k.s == nil && (first == nil || k.since.Before(first.since)) {
				first = k
			}
		}
		if first == nil {
			return false
		}
		o.forgetKept(first)
	}
	return true
}

// forgetKept drops an answer that has ended or whose session goes on without it.
func (o *owner) forgetKept(k *kept) {
	if o.kept[k.key] != k {
		return
	}
	delete(o.kept, k.key)
	o.keptBytes -= len(k.log) + proto.Size(k.request)
	if k.relay != nil {
		delete(k.relay.kept, k.number)
		k.relay = nil
	}
	if k.s != nil {
		k.s.kept = nil
	}
}

// supersede ends an answer whose name another one takes.
func (o *owner) supersede(k *kept) {
	s := k.s
	o.tellElsewhere(k)
	o.forgetKept(k)
	if s != nil {
		o.stop(s, "client")
	}
}

// tellElsewhere takes an answer from the gateway that has it, if one does.
func (o *owner) tellElsewhere(k *kept) {
	if k.relay == nil {
		return
	}
	p := problem{Code: codeElsewhere, Param: "id", Message: "The generation was resumed at another gateway."}
	o.post(k.relay, k.number, p.event())
	o.release(k)
}

// release takes an answer from its gateway.
func (o *owner) release(k *kept) {
	delete(k.relay.kept, k.number)
	if k.s != nil {
		delete(k.relay.sessions, k.number)
		k.s.relay = o.nobody
	}
	k.relay = nil
}

// detach lets an answer go on without a gateway for a while.
func (o *owner) detach(k *kept) {
	o.release(k)
	if k.s == nil {
		return
	}
	k.since = o.now()
	o.grant(k.s, k.last+keptAhead)
}

// claim gives an answer to a gateway, from the token after one on.
func (o *owner) claim(r *relay, number uint64, c *pb.Claim) {
	k := o.kept[keptKey{c.GetTenant(), c.GetId()}]
	p := problem{Code: codeUnknownGeneration, Param: "id", Message: "There is no generation of that id to go on with."}
	switch {
	case k == nil:
	case c.GetAfter() > k.last:
		p = problem{Code: codeInvalid, Param: "after_seq", Message: "The generation has not come as far as after_seq."}
	case c.GetAfter() < k.base:
		p = problem{Code: codeResumeExpired, Param: "after_seq", Message: "The tokens after after_seq are not kept any more."}
	default:
		o.attach(k, r, number, c.GetAfter())
		return
	}
	o.post(r, number, p.event())
}

func (o *owner) attach(k *kept, r *relay, number, after uint64) {
	o.tellElsewhere(k)
	k.relay, k.number, k.sent, k.credit, k.next = r, number, after, after, k.place(after)
	if r.kept == nil {
		r.kept = map[uint64]*kept{}
	}
	r.kept[number] = k
	if k.s != nil {
		k.since = time.Time{}
		k.s.relay, k.s.number = r, number
		r.sessions[number] = k.s
	}
	o.log.Info("an answer goes on at another gateway", "gateway", r.node, "session", k.accepted.GetAccepted().GetId(), "after", after)
	o.post(r, number, &pb.Event{Event: &pb.Event_Claimed{Claimed: &pb.Claimed{Request: k.request, CommittedIds: k.ids(after)}}})
	if k.accepted != nil {
		o.post(r, number, k.accepted)
	}
	o.replay(k)
}

// record keeps an event and passes it on.
func (o *owner) record(k *kept, e *pb.Event) {
	switch ev := e.GetEvent().(type) {
	case *pb.Event_Accepted:
		k.accepted = e
	case *pb.Event_Token:
		before := len(k.log)
		k.log = binary.AppendUvarint(k.log, uint64(proto.Size(ev.Token)))
		k.log, _ = proto.MarshalOptions{}.MarshalAppend(k.log, ev.Token) // our own message: it has only valid strings
		o.keptBytes += len(k.log) - before
		k.last = ev.Token.GetSeq()
		if k.relay != nil && k.sent+1 == k.last && k.last <= k.credit {
			k.sent, k.next = k.last, len(k.log)
			o.post(k.relay, k.number, e)
		}
		return
	case *pb.Event_Complete, *pb.Event_Stopped, *pb.Event_Error:
		k.terminal, k.s, k.since = e, nil, o.now()
		o.replay(k)
		return
	}
	if k.relay != nil {
		o.post(k.relay, k.number, e)
	}
}

// replay sends what the gateway has credit for, and the terminal behind the last token.
func (o *owner) replay(k *kept) {
	if k.relay == nil {
		return
	}
	for k.sent < k.last && k.sent < k.credit {
		t, next := k.token(k.next)
		k.sent, k.next = t.GetSeq(), next
		o.post(k.relay, k.number, &pb.Event{Event: &pb.Event_Token{Token: t}})
	}
	if k.sent == k.last && k.terminal != nil {
		o.post(k.relay, k.number, k.terminal)
		o.release(k)
	}
}

// token reads the token that the log has at a place, and returns the place behind it.
func (k *kept) token(at int) (*pb.Token, int) {
	size, n := binary.Uvarint(k.log[at:])
	from := at + n
	t := &pb.Token{}
	if err := proto.Unmarshal(k.log[from:from+int(size)], t); err != nil {
		panic("coordinator: a kept token cannot be read: " + err.Error()) // we wrote it
	}
	return t, from + int(size)
}

// place returns where in the log the token after seq is.
func (k *kept) place(seq uint64) int {
	at := 0
	for range seq - k.base {
		size, n := binary.Uvarint(k.log[at:])
		at += n + int(size)
	}
	return at
}

// ids returns those of the tokens up to seq.
func (k *kept) ids(seq uint64) []int32 {
	said := k.request.GetResumption().GetCommittedIds()
	ids := slices.Clone(said[:min(k.base, seq, uint64(len(said)))])
	for at := 0; uint64(len(ids)) < seq; {
		t, next := k.token(at)
		ids, at = append(ids, t.GetId()), next
	}
	return ids
}

// expireKept ends answers that nobody claimed, and forgets those that have ended.
func (o *owner) expireKept(now time.Time) {
	var due []*kept
	for k := range maps.Values(o.kept) {
		switch {
		case k.since.IsZero():
		case k.s != nil && now.Sub(k.since) >= keptRunning, k.s == nil && now.Sub(k.since) >= keptEnded:
			due = append(due, k)
		}
	}
	slices.SortFunc(due, func(a, b *kept) int {
		return cmp.Or(cmp.Compare(a.key.tenant, b.key.tenant), cmp.Compare(a.key.id, b.key.id))
	})
	for _, k := range due {
		if k.s != nil {
			o.stop(k.s, reasonDisconnected)
		} else {
			o.forgetKept(k)
		}
	}
}
