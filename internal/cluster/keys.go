package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

func newKeyring(first [32]byte, more [][32]byte) (*memberlist.Keyring, error) {
	var all [][]byte
	for _, k := range more {
		all = append(all, slices.Clone(k[:]))
	}
	ring, err := memberlist.NewKeyring(all, slices.Clone(first[:]))
	if err != nil {
		return nil, fmt.Errorf("gossip: keys: %w", err)
	}
	return ring, nil
}

// SetKeys puts keys in force: the first encrypts what this node says, all decrypt
// what it hears, and those that are not among them are dropped. Nodes understand
// each other as long as each has the key that the other encrypts with.
func (c *Cluster) SetKeys(keys [][32]byte) error {
	if len(keys) == 0 {
		return errors.New("gossip: the keys are missing: gossip is always encrypted")
	}
	for _, k := range keys {
		if k == ([32]byte{}) {
			return errors.New("gossip: a key of zeros")
		}
		if err := c.keys.AddKey(slices.Clone(k[:])); err != nil {
			return fmt.Errorf("gossip: add a key: %w", err)
		}
	}
	if err := c.keys.UseKey(keys[0][:]); err != nil {
		return fmt.Errorf("gossip: use a key: %w", err)
	}
	for _, old := range slices.Clone(c.keys.GetKeys()) {
		if !slices.ContainsFunc(keys, func(k [32]byte) bool { return slices.Equal(k[:], old) }) {
			if err := c.keys.RemoveKey(old); err != nil {
				return fmt.Errorf("gossip: drop a key: %w", err)
			}
		}
	}
	return nil
}

// Keys is how many keys are in force.
func (c *Cluster) Keys() int { return len(c.keys.GetKeys()) }

// Seeds are addresses by which others can join: this node's and those of some
// members.
func (c *Cluster) Seeds() []string {
	const most = 8
	out := []string{c.addr}
	for _, m := range c.Members() {
		if m.Addr != c.addr && len(out) < most {
			out = append(out, m.Addr)
		}
	}
	return out
}

// maxSought bounds the seeds that become known later.
const maxSought = 32

// seeds are those that became known while the node runs.
type seeds struct {
	once  sync.Once
	first chan struct{} // closed once there is one

	mu    sync.Mutex
	addrs []string // guarded by mu; the newest last
}

func (s *seeds) add(addrs []string) {
	if len(addrs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addrs {
		s.addrs = append(slices.DeleteFunc(s.addrs, func(b string) bool { return a == b }), a)
	}
	if over := len(s.addrs) - maxSought; over > 0 {
		s.addrs = slices.Delete(s.addrs, 0, over)
	}
	s.once.Do(func() { close(s.first) })
}

// seeds are all that are known.
func (c *Cluster) seeds() []string {
	c.sought.mu.Lock()
	defer c.sought.mu.Unlock()
	return slices.Concat(c.config.Seeds, c.sought.addrs)
}
