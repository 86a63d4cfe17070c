package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/memberlist"
)

// Limits on what others can make this node remember.
const (
	maxMembers  = 512
	maxRefusals = 256
)

// Member is a node that gossip believes to be there.
type Member struct {
	NodeID string
	Addr   string // host:port of its gossip
	Meta   Meta
}

// Refusal is a node that asked to take part and was not admitted.
type Refusal struct {
	NodeID string // as it calls itself; not to be trusted
	Addr   string // host:port of its gossip
	Reason string
}

// membership is what the callbacks of the gossip library write and the owner
// reads. The callbacks run under the library's own lock, on its receive path:
// they copy, set a flag and return. (The library's Members returns pointers
// into its live state, which cannot be read without a race.)
type membership struct {
	changed chan struct{} // capacity 1
	news    chan struct{} // capacity 1: a refusal to report

	mu       sync.Mutex
	self     string
	meta     []byte             // ours, encoded; guarded by mu
	members  map[string]Member  // guarded by mu
	refused  map[string]Refusal // guarded by mu
	reported map[Refusal]bool   // guarded by mu
}

func newMembership(self string, meta []byte) *membership {
	return &membership{
		changed:  make(chan struct{}, 1),
		news:     make(chan struct{}, 1),
		self:     self,
		meta:     meta,
		members:  map[string]Member{},
		refused:  map[string]Refusal{},
		reported: map[Refusal]bool{},
	}
}

// set raises a flag of capacity 1 without waiting.
func set(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

func (m *membership) setMeta(raw []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meta = raw
}

// list returns the members, sorted by node id.
func (m *membership) list() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.members), func(a, b Member) int { return cmp.Compare(a.NodeID, b.NodeID) })
}

// refusals returns the nodes that are not admitted, sorted.
func (m *membership) refusals() []Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.refused), func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.Addr, b.Addr))
	})
}

// unreported returns the refusals that were not returned before.
func (m *membership) unreported() []Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	var fresh []Refusal
	for _, r := range m.refused {
		if !m.reported[r] && len(m.reported) < maxRefusals {
			m.reported[r] = true
			fresh = append(fresh, r)
		}
	}
	return fresh
}

// refuse notes why a node is not admitted. A node is known here by name and
// address, so that an impostor does not hide the node whose name it took.
func (m *membership) refuse(n *memberlist.Node, reason string) {
	r := Refusal{NodeID: n.Name, Addr: address(n), Reason: reason}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := r.NodeID + "@" + r.Addr
	if m.refused[key] == r || len(m.refused) >= maxRefusals {
		return
	}
	m.refused[key] = r
	set(m.news)
}

// NotifyAlive admits a node or says why not. The library cannot work without
// its own node; New looks at that one.
func (m *membership) NotifyAlive(n *memberlist.Node) error {
	if n.Name == m.self {
		return nil
	}
	_, err := decodeMeta(n.Name, nodeIP(n), n.Meta)
	if err == nil {
		err = m.room(n.Name)
	}
	if err != nil {
		m.refuse(n, err.Error())
		return err
	}
	return nil
}

func (m *membership) room(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.members[name]; !known && len(m.members) >= maxMembers {
		return fmt.Errorf("the cluster is full: %d nodes", maxMembers)
	}
	return nil
}

// NotifyJoin and its brothers take over the library's view of a node.
func (m *membership) NotifyJoin(n *memberlist.Node) {
	meta, err := decodeMeta(n.Name, nodeIP(n), n.Meta)
	if err != nil {
		m.refuse(n, err.Error())
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	addr := address(n)
	m.members[n.Name] = Member{NodeID: n.Name, Addr: addr, Meta: meta}
	delete(m.refused, n.Name+"@"+addr)
	set(m.changed)
}

// NotifyUpdate is called when a node's meta has changed.
func (m *membership) NotifyUpdate(n *memberlist.Node) { m.NotifyJoin(n) }

// NotifyLeave is called when a node left or is believed dead.
func (m *membership) NotifyLeave(n *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.members, n.Name)
	set(m.changed)
}

// NotifyConflict is called when a node takes the name of another that is not
// known to be dead. The library keeps the first.
func (m *membership) NotifyConflict(existing, other *memberlist.Node) {
	if other.Name == m.self {
		reason := "it has the name of this node"
		if sameKey(existing, other) {
			reason = "it has the identity of this node: was a state directory copied? Have one of the two join with a token of its own"
		}
		m.refuse(other, reason)
		return
	}
	if sameKey(existing, other) {
		m.refuse(other, "it has the identity of the node at "+address(existing)+": was its state directory copied? Have it join with a token of its own")
		return
	}
	m.refuse(other, "its name belongs to the node at "+address(existing))
}

// sameKey reports whether two nodes of one name say that they have the same key.
func sameKey(a, b *memberlist.Node) bool {
	x, errX := decodeMeta(a.Name, nodeIP(a), a.Meta)
	y, errY := decodeMeta(b.Name, nodeIP(b), b.Meta)
	return errX == nil && errY == nil && x.Fingerprint == y.Fingerprint
}

// NodeMeta returns what the library tells others of this node.
func (m *membership) NodeMeta(int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta
}

// The cluster sends no messages of its own by gossip.

// NotifyMsg drops a message: no node of this version sends any.
func (m *membership) NotifyMsg([]byte) {}

// GetBroadcasts returns nothing to send.
func (m *membership) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns no state.
func (m *membership) LocalState(bool) []byte { return nil }

// MergeRemoteState drops state: no node of this version sends any.
func (m *membership) MergeRemoteState([]byte, bool) {}

func address(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

func nodeIP(n *memberlist.Node) netip.Addr {
	ip, _ := netip.AddrFromSlice(n.Addr)
	return ip.Unmap()
}
