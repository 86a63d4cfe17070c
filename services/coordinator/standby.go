package coordinator

import (
	"hash/fnv"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Of several coordinators one serves: the one that the shards obey. Each shard
// obeys one at a time, under a lease. The others stand by: they ask the shards
// again and again until a lease has run out, and meanwhile are not healthy, so
// that gateways go to the one that serves.

// HealthService is the name under which health says whether a coordinator serves
// or stands by.
const HealthService = "shoal.v1.CoordinatorService"

// standBy holds what this coordinator says of itself against what shards say: it
// stands by while all that are known obey another one.
func (o *owner) standBy() {
	held := 0
	for _, n := range o.nodes {
		if n.held {
			held++
		}
	}
	standing := held > 0 && held == len(o.nodes)
	if standing == o.standing {
		return
	}
	o.standing = standing
	if !standing {
		o.log.Info("serving")
		o.c.health.SetServingStatus(HealthService, healthpb.HealthCheckResponse_SERVING)
		return
	}
	o.log.Info("standing by: another coordinator commands the shards")
	o.c.health.SetServingStatus(HealthService, healthpb.HealthCheckResponse_NOT_SERVING)
	for _, r := range o.sortedRelays() { // their gateways find the other one
		r.stop()
	}
}

// Number draws the low bits of a coordinator's epochs from its node's name: those
// of two coordinators are hardly ever equal, and never matter to shards, which
// obey one at a time.
func Number(node string) uint8 {
	h := fnv.New32a()
	h.Write([]byte(node))
	return uint8(h.Sum32())
}
