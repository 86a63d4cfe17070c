package coordinator

import (
	"hash/fnv"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Of several coordinators one serves: the one that the shards obey. Each shard
// obeys one at a time, under a lease. The others stand by: they ask the shards
// again and again until no lease of another is left, and meanwhile take none and are
// not healthy, so that gateways go to the one that serves.
//
// Coordinators know of each other by what shards say. Two that came at the same
// time, or were apart, may each hold some of the leases: then the one that holds
// fewer gives up its own, of equals the one whose name comes later. Both go by the
// same numbers, so one of them stays.

// HealthService is the name under which health says whether a coordinator serves
// or stands by.
const HealthService = "shoal.v1.CoordinatorService"

// standBy holds what this coordinator says of itself against what shards say.
func (o *owner) standBy() {
	to := o.yields()
	if (to != "") == o.standing {
		return
	}
	o.standing = to != ""
	o.c.standing.Store(o.standing)
	if !o.standing {
		o.log.Info("serving")
		o.c.health.SetServingStatus(HealthService, healthpb.HealthCheckResponse_SERVING)
		for _, id := range sortedKeys(o.nodes) {
			o.nodes[id].link.hurry()
		}
		return
	}
	o.log.Info("standing by: another coordinator commands the shards", "coordinator", to)
	o.c.health.SetServingStatus(HealthService, healthpb.HealthCheckResponse_NOT_SERVING)
	for _, r := range o.sortedRelays() { // their gateways find the other one
		r.stop()
	}
	o.giveUp()
}

// yields returns the coordinator for which this one stands by; "" when it serves.
func (o *owner) yields() string {
	own, others := 0, map[string]int{}
	for _, n := range o.nodes {
		switch {
		case n.conn != nil:
			own++
		case n.holder != "":
			others[n.holder]++
		}
	}
	for _, other := range sortedKeys(others) {
		if n := others[other]; n > own || n == own && other < o.c.deps.Identity.NodeID() {
			return other
		}
	}
	return ""
}

// giveUp lets go of all shards and of what runs on them. Their leases run out.
func (o *owner) giveUp() {
	for _, p := range o.sortedPipes() {
		p.stop()
		delete(o.pipes, p.plan.Key)
		for _, s := range o.on(p) {
			o.requeue(s)
		}
	}
	for _, id := range sortedKeys(o.nodes) {
		if n := o.nodes[id]; n.conn != nil {
			n.conn.hangUp()
			n.conn = nil
		}
	}
	o.forget()
}

// Number draws the low bits of a coordinator's epochs from its node's name: those
// of two coordinators are hardly ever equal, and never matter to shards, which
// obey one at a time.
func Number(node string) uint8 {
	h := fnv.New32a()
	h.Write([]byte(node))
	return uint8(h.Sum32())
}
