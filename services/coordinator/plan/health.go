package plan

import (
	"fmt"
	"slices"
	"time"
)

// How nodes are left out, and for how long.
const (
	refusedFor = 10 * time.Second // a node that could not load its stage, or refused a plan
	blameSpan  = 5 * time.Minute  // over which losses are counted
	asideLeast = 30 * time.Second // doubled with every loss beyond
	asideMost  = 10 * time.Minute
	faultSpan  = 10 * time.Second // two faults in it are the links': the node is left out
)

// health remembers which nodes failed. Only the node that failed is blamed:
// others of its pipelines were its victims.
type health struct {
	most  int // losses in blameSpan that put a node aside; 0 is never
	nodes map[string]*record
}

// record is what a node did wrong.
type record struct {
	reason  string
	until   time.Time   // it is left out until then
	refused bool        // it said itself that it cannot: it is not even a last resort
	losses  []time.Time // of the last blameSpan
	fault   time.Time   // when a pipeline last failed at it though nobody was lost
}

func newHealth(most int) health { return health{most, map[string]*record{}} }

func (h *health) of(node string) *record {
	if h.nodes[node] == nil {
		h.nodes[node] = &record{}
	}
	return h.nodes[node]
}

// refuse leaves out a node that cannot do what it was asked.
func (h *health) refuse(node, reason string, now time.Time) {
	r := h.of(node)
	r.reason, r.until, r.refused = reason, now.Add(refusedFor), true
}

// died notes that a node was lost while it held a stage.
func (h *health) died(node string, now time.Time) {
	r := h.of(node)
	r.losses = append(r.losses, now)
	h.count(node, r, now)
}

// faulted notes that a pipeline failed at a node that is still there. Once is
// nothing; twice in a row the way to the node is taken to be broken.
func (h *health) faulted(node string, now time.Time) {
	r := h.of(node)
	again := !r.fault.IsZero() && now.Sub(r.fault) < faultSpan
	r.fault = now
	if again {
		r.until, r.refused = now.Add(asideLeast), false
		r.reason = fmt.Sprintf("pipelines failed at node %s twice and it is left out for %v", node, asideLeast)
	}
}

func (h *health) count(node string, r *record, now time.Time) {
	r.losses = slices.DeleteFunc(r.losses, func(t time.Time) bool { return now.Sub(t) > blameSpan })
	over := len(r.losses) - h.most
	if h.most == 0 || over < 0 {
		return
	}
	pause := asideMost
	if over < 5 {
		pause = min(asideLeast<<over, asideMost)
	}
	r.until, r.refused = now.Add(pause), false
	r.reason = fmt.Sprintf("node %s failed %d times in %v and is left out for %v", node, len(r.losses), blameSpan, pause)
}

// expire forgets what is over and reports whether a node may be used again.
func (h *health) expire(now time.Time) (again bool) {
	for id, r := range h.nodes {
		if !r.until.IsZero() && !now.Before(r.until) {
			r.until, r.reason, r.refused, again = time.Time{}, "", false, true
		}
		n := len(r.losses)
		if r.until.IsZero() && now.Sub(r.fault) > faultSpan && (n == 0 || now.Sub(r.losses[n-1]) > blameSpan) {
			delete(h.nodes, id)
		}
	}
	return again
}

// usable reports whether a node may hold stages. Without caution one that was
// only lost too often may: it is better than none.
func (h *health) usable(node string, cautious bool) bool {
	r := h.nodes[node]
	return r == nil || r.until.IsZero() || !cautious && !r.refused
}

// aside says why a node is left out; empty when it is not.
func (h *health) aside(node string) string {
	if r := h.nodes[node]; r != nil {
		return r.reason
	}
	return ""
}
