// Package registry is a cluster's book of identities, kept by the coordinator that
// holds the authority: the join tokens that are open, the nodes that got a
// certificate, who was shut out, and the keys of the gossip. Nodes follow it
// (TrustService), and machines join by it (JoinService, on a listener of its own).
//
// All of it is one file, which is written before anything is answered: a token
// that was redeemed stays redeemed whatever happens then.
package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shoal-llm/shoal/internal/pki"
)

// Limits of what is kept.
const (
	maxTokens = 256
	maxNodes  = 4096

	maxChildren  = 64  // processes of a shard
	maxChildKeys = 512 // their keys that are valid at once: each start makes one

	// MaxTokenLife is the longest life of a token, DefaultTokenLife the usual one.
	MaxTokenLife     = 30 * 24 * time.Hour
	DefaultTokenLife = 24 * time.Hour

	// operatorLife is the life of an operator's certificate: people do not come by
	// every day to renew it.
	operatorLife = 30 * 24 * time.Hour
)

const bookFile = "registry.json"

// Times of a rotation of the gossip key, for tests to shorten.
type Times struct {
	Every    time.Duration // between rotations by themselves
	Settle   time.Duration // that a new key is held before it is used
	Patience time.Duration // with nodes that do not say that they hold it
	Overlap  time.Duration // that the old key is understood afterwards: gossip syncs fully every 30 s
}

// DefaultTimes suit memberlist's intervals on a LAN.
func DefaultTimes() Times {
	return Times{Every: 24 * time.Hour, Settle: time.Second, Patience: 15 * time.Second, Overlap: time.Minute}
}

// Options are what a registry works with.
type Options struct {
	Dir       string // of the authority; the book is there too
	Authority *pki.Authority
	Identity  *pki.Identity // of the coordinator itself
	Address   string        // host:port of the coordinator's gRPC
	Join      string        // host:port of the JoinService
	Log       *slog.Logger

	Now   func() time.Time // nil means time.Now
	Life  time.Duration    // of certificates; zero means pki.LeafLife
	Times Times            // zero means DefaultTimes
}

// Gossip is the coordinator's own part in the gossip.
type Gossip interface {
	SetKeys(keys [][32]byte) error
	Seeds() []string // host:port by which others join
}

// Registry is the book. It is safe for concurrent use.
type Registry struct {
	opts Options
	path string

	mu        sync.Mutex // guards following
	book      book
	followers map[string]*follower // by node
	gossip    Gossip               // nil until Attach
}

// book is what the file holds.
type book struct {
	Version uint64   `json:"version"` // grows with denials and gossip keys
	Tokens  []token  `json:"tokens"`
	Nodes   []member `json:"nodes"`
	Gossip  rotation `json:"gossip"`
}

// token is an open or redeemed token. Its secret is not kept.
type token struct {
	ID      string    `json:"id"`
	Role    pki.Role  `json:"role"`
	Hash    string    `json:"hash"` // SHA-256 of the secret
	Expires time.Time `json:"expires"`
	Used    string    `json:"used,omitempty"`     // by this node
	UsedKey string    `json:"used_key,omitempty"` // which has a key of this fingerprint
}

// member is a node that got a certificate.
type member struct {
	Node        string    `json:"node"`
	Role        pki.Role  `json:"role"`
	Fingerprint string    `json:"fingerprint"`
	Joined      time.Time `json:"joined"`
	Expires     time.Time `json:"expires"` // the last certificate
	Revoked     time.Time `json:"revoked,omitzero"`
	Children    []child   `json:"children,omitempty"` // processes that it supervises
}

// child is a process that a shard supervises.
type child struct {
	Node        string    `json:"node"`
	Fingerprint string    `json:"fingerprint"`
	Expires     time.Time `json:"expires"`
}

// Open reads the book, or begins one.
func Open(o Options) (*Registry, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Life == 0 {
		o.Life = pki.LeafLife
	}
	if o.Times == (Times{}) {
		o.Times = DefaultTimes()
	}
	r := &Registry{opts: o, path: filepath.Join(o.Dir, bookFile), followers: map[string]*follower{}}
	text, err := pki.ReadPrivate(r.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.book.Version = 1
		r.book.Gossip = newRotation(o.Now())
		err = r.save()
	case err == nil:
		err = json.Unmarshal(text, &r.book)
	}
	if err == nil {
		err = r.book.Gossip.check()
	}
	if err != nil {
		return nil, fmt.Errorf("read the cluster's book of identities %s: %w", r.path, err)
	}
	o.Identity.Deny(r.denied())
	return r, nil
}

// Attach has the coordinator's own gossip follow the keys from now on.
func (r *Registry) Attach(g Gossip) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gossip = g
	return g.SetKeys(r.book.Gossip.keys())
}

// GossipKeys are the keys in force, the one that encrypts first.
func (r *Registry) GossipKeys() [][32]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.book.Gossip.keys()
}

// save writes the book. The lock is held.
func (r *Registry) save() error {
	text, err := json.MarshalIndent(&r.book, "", " ")
	if err != nil {
		return err
	}
	if err := pki.WritePrivate(r.path, append(text, '\n')); err != nil {
		return fmt.Errorf("write the cluster's book of identities: %w", err)
	}
	return nil
}

// denied lists the keys that are shut out: a certificate that has run out opens
// nothing, so its key need not be in the list. The lock is held.
func (r *Registry) denied() []string {
	var out []string
	now := r.opts.Now()
	for i := range r.book.Nodes {
		if m := &r.book.Nodes[i]; !m.Revoked.IsZero() && now.Before(m.Expires.Add(time.Hour)) {
			out = append(out, m.Fingerprint)
			for _, c := range m.Children {
				out = append(out, c.Fingerprint)
			}
		}
	}
	return out
}

// forget drops what is no longer of use. The lock is held.
func (r *Registry) forget(now time.Time) {
	r.book.Tokens = slices.DeleteFunc(r.book.Tokens, func(t token) bool { return now.After(t.Expires.Add(24 * time.Hour)) })
	r.book.Nodes = slices.DeleteFunc(r.book.Nodes, func(m member) bool { return now.After(m.Expires.Add(30 * 24 * time.Hour)) })
}

// CreateToken makes a token for one machine.
func (r *Registry) CreateToken(role pki.Role, life time.Duration) (pki.Token, time.Time, error) {
	if life < time.Minute || life > MaxTokenLife {
		return pki.Token{}, time.Time{}, fmt.Errorf("a life of %v: want a minute to %v", life, MaxTokenLife)
	}
	t, err := pki.NewToken(r.opts.Authority.Pin(), role)
	if err != nil {
		return t, time.Time{}, err
	}
	hash := t.Hash()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Now()
	r.forget(now)
	if len(r.book.Tokens) >= maxTokens {
		return t, time.Time{}, fmt.Errorf("there are %d tokens already: wait until some have expired", maxTokens)
	}
	expires := now.Add(life)
	r.book.Tokens = append(r.book.Tokens, token{ID: t.ID, Role: role, Hash: hex.EncodeToString(hash[:]), Expires: expires})
	if err := r.save(); err != nil {
		r.book.Tokens = r.book.Tokens[:len(r.book.Tokens)-1]
		return t, expires, err
	}
	r.opts.Log.Info("token made", "token", t.ID, "role", role, "expires", expires)
	return t, expires, nil
}

// Reasons why a machine may not join. Each is wrapped with the particulars.
var (
	ErrTokenUnknown = errors.New("the cluster does not know this token")
	ErrTokenExpired = errors.New("the token has expired")
	ErrTokenUsed    = errors.New("the token has been used")
	ErrNameTaken    = errors.New("the name is taken")
)

// redeemable finds the token and says why it cannot be redeemed for a key. Only who
// knows the secret learns more than that. The lock is held.
func (r *Registry) redeemable(id string, secret []byte, key string) (*token, error) {
	sum := sha256.Sum256(secret)
	var found *token
	for i := range r.book.Tokens {
		t := &r.book.Tokens[i]
		same := subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hex.EncodeToString(sum[:])))
		if same&subtle.ConstantTimeCompare([]byte(t.ID), []byte(id)) == 1 {
			found = t
		}
	}
	switch {
	case found == nil:
		return nil, fmt.Errorf("%w; make one with `shoal token`", ErrTokenUnknown)
	case found.Used != "" && found.UsedKey != key:
		return nil, fmt.Errorf("%w, by node %s: each lets one machine in; make another with `shoal token`", ErrTokenUsed, found.Used)
	case !r.opts.Now().Before(found.Expires):
		return nil, fmt.Errorf("%w, at %s; make another with `shoal token`", ErrTokenExpired, found.Expires.UTC().Format(time.RFC3339))
	}
	return found, nil
}

// free says why a node cannot be called that, if another key has the name. The lock
// is held.
func (r *Registry) free(node, key string) error {
	if node == r.opts.Identity.NodeID() {
		return fmt.Errorf("%w: the coordinator itself is called %s; choose another with --node-id", ErrNameTaken, node)
	}
	now := r.opts.Now()
	for i := range r.book.Nodes {
		m := &r.book.Nodes[i]
		if m.Fingerprint == key && !m.Revoked.IsZero() {
			return fmt.Errorf("%w: this key was shut out (revoked); a machine that is let in again makes a new one", ErrNameTaken)
		}
		if m.Revoked.IsZero() && slices.ContainsFunc(m.Children, func(c child) bool { return c.Node == node }) {
			return fmt.Errorf("%w: a process of node %s is called %s; choose another with --node-id", ErrNameTaken, m.Node, node)
		}
		if m.Node == node && m.Fingerprint != key && m.Revoked.IsZero() && now.Before(m.Expires) {
			return fmt.Errorf("%w: another machine is called %s; choose another with --node-id, or shut that one out with `shoal node revoke %s`", ErrNameTaken, node, node)
		}
	}
	return nil
}

// candidate is a machine that wants to join.
type candidate struct {
	token   string
	secret  []byte
	node    string
	request pki.Request
}

// check says whether a candidate could be admitted, and in which role.
func (r *Registry) check(c *candidate) (pki.Role, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, err := r.redeemable(c.token, c.secret, c.request.Fingerprint)
	if err != nil {
		return "", err
	}
	return t.Role, r.free(c.node, c.request.Fingerprint)
}

// admit redeems the token and signs. The same key may ask again, so that an answer
// that got lost costs no token.
func (r *Registry) admit(c *candidate) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Now()
	r.forget(now)
	t, err := r.redeemable(c.token, c.secret, c.request.Fingerprint)
	if err == nil {
		err = r.free(c.node, c.request.Fingerprint)
	}
	if err != nil {
		return nil, err
	}
	life := r.lifeOf(t.Role)
	der, err := r.opts.Authority.Sign(c.request, pki.Node{ID: c.node, Roles: []pki.Role{t.Role}, Life: life, Now: r.opts.Now})
	if err != nil {
		return nil, err
	}
	before := r.book
	r.book.Tokens, r.book.Nodes = slices.Clone(before.Tokens), slices.DeleteFunc(slices.Clone(before.Nodes), func(m member) bool {
		return m.Node == c.node && m.Revoked.IsZero()
	})
	if len(r.book.Nodes) >= maxNodes {
		r.book = before
		return nil, fmt.Errorf("the cluster has %d nodes already", maxNodes)
	}
	i := slices.IndexFunc(r.book.Tokens, func(x token) bool { return x.ID == t.ID })
	r.book.Tokens[i].Used, r.book.Tokens[i].UsedKey = c.node, c.request.Fingerprint
	r.book.Nodes = append(r.book.Nodes, member{Node: c.node, Role: t.Role, Fingerprint: c.request.Fingerprint, Joined: now, Expires: now.Add(life)})
	if err := r.save(); err != nil {
		r.book = before
		return nil, err
	}
	r.opts.Log.Info("node joined the cluster", "peer", c.node, "role", t.Role, "token", t.ID)
	return der, nil
}

func (r *Registry) lifeOf(role pki.Role) time.Duration {
	if role == pki.Operator {
		return max(operatorLife, r.opts.Life)
	}
	return r.opts.Life
}

// renew signs anew for a node that is in the book.
func (r *Registry) renew(peer pki.Peer, request pki.Request) ([]byte, pki.Role, error) {
	if request.Fingerprint != peer.Fingerprint {
		return nil, "", errors.New("the request is for another key than the node's")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.book.Nodes, func(m member) bool { return m.Node == peer.NodeID && m.Fingerprint == peer.Fingerprint })
	if i < 0 || !r.book.Nodes[i].Revoked.IsZero() {
		return nil, "", fmt.Errorf("node %s is not in the cluster's book: have it join with a new token", peer.NodeID)
	}
	m := &r.book.Nodes[i]
	now := r.opts.Now()
	life := r.lifeOf(m.Role)
	der, err := r.opts.Authority.Sign(request, pki.Node{ID: m.Node, Roles: []pki.Role{m.Role}, Life: life, Now: r.opts.Now})
	if err != nil {
		return nil, "", err
	}
	old := m.Expires
	m.Expires = now.Add(life)
	if err := r.save(); err != nil {
		m.Expires = old
		return nil, "", err
	}
	return der, m.Role, nil
}

// vouch signs for a process that a shard supervises.
func (r *Registry) vouch(peer pki.Peer, node string, request pki.Request) ([]byte, error) {
	number, ok := strings.CutPrefix(node, peer.NodeID+".gpu")
	if n, err := strconv.Atoi(number); !ok || err != nil || n < 0 || n >= maxChildren || strconv.Itoa(n) != number {
		return nil, fmt.Errorf("node %s does not vouch for %q: want %s.gpu0 to %s.gpu%d", peer.NodeID, node, peer.NodeID, peer.NodeID, maxChildren-1)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Now()
	i := slices.IndexFunc(r.book.Nodes, func(m member) bool { return m.Node == peer.NodeID && m.Fingerprint == peer.Fingerprint })
	switch {
	case i < 0 || !r.book.Nodes[i].Revoked.IsZero():
		return nil, fmt.Errorf("node %s is not in the cluster's book: have it join with a new token", peer.NodeID)
	case slices.ContainsFunc(r.book.Nodes, func(m member) bool { return m.Node == node && m.Revoked.IsZero() && now.Before(m.Expires) }):
		return nil, fmt.Errorf("%w: a machine of the cluster is called %s", ErrNameTaken, node)
	}
	der, err := r.opts.Authority.Sign(request, pki.Node{ID: node, Roles: []pki.Role{pki.Shard}, Life: r.opts.Life, Now: r.opts.Now})
	if err != nil {
		return nil, err
	}
	before := r.book
	r.book.Nodes = slices.Clone(before.Nodes)
	m := &r.book.Nodes[i]
	// Keys of earlier processes stay in the book until their certificates run out.
	m.Children = slices.DeleteFunc(slices.Clone(m.Children), func(c child) bool {
		return c.Fingerprint == request.Fingerprint || now.After(c.Expires)
	})
	if len(m.Children) >= maxChildKeys {
		r.book = before
		return nil, fmt.Errorf("node %s has asked for %d processes within %v", peer.NodeID, maxChildKeys, r.opts.Life)
	}
	m.Children = append(m.Children, child{node, request.Fingerprint, now.Add(r.opts.Life)})
	if err := r.save(); err != nil {
		r.book = before
		return nil, err
	}
	return der, nil
}

// Revoke shuts a node out: its certificate is refused by every node that follows,
// its connections end, and the gossip key is replaced. It returns the node's role
// and how many nodes were told.
func (r *Registry) Revoke(node string) (role pki.Role, told int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Now()
	i := slices.IndexFunc(r.book.Nodes, func(m member) bool { return m.Node == node && m.Revoked.IsZero() })
	if i < 0 {
		return "", 0, fmt.Errorf("no node %q has joined by a token", node)
	}
	before := r.book
	r.book.Nodes = slices.Clone(before.Nodes)
	r.book.Nodes[i].Revoked = now
	r.book.Version++
	r.book.Gossip.begin(now)
	if err := r.save(); err != nil {
		r.book = before
		return "", 0, err
	}
	r.opts.Log.Warn("node shut out", "peer", node, "role", r.book.Nodes[i].Role)
	if f := r.followers[node]; f != nil {
		f.revoked = true
		f.ring()
		delete(r.followers, node) // nobody waits for it
	}
	r.spread()
	return r.book.Nodes[i].Role, len(r.followers), nil
}

// Rotate begins to replace the gossip key.
func (r *Registry) Rotate() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.book
	r.book.Gossip.begin(r.opts.Now())
	r.book.Version++
	if err := r.save(); err != nil {
		r.book = before
		return "", err
	}
	r.spread()
	return r.book.Gossip.String(), nil
}

// lastWord is how long a node that was shut out may be told so by the coordinator
// before its connections are cut here too.
const lastWord = 500 * time.Millisecond

// spread puts the book in force here and wakes the followers. The lock is held.
func (r *Registry) spread() {
	r.opts.Identity.Refuse(r.denied())
	time.AfterFunc(lastWord, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.opts.Identity.Deny(r.denied())
	})
	if r.gossip != nil {
		if err := r.gossip.SetKeys(r.book.Gossip.keys()); err != nil {
			r.opts.Log.Error("gossip keys", "err", err)
		}
	}
	for _, f := range r.followers {
		f.ring()
	}
}

// tick lets time pass: a rotation goes on, or begins.
func (r *Registry) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.book
	if !r.book.Gossip.step(r.opts.Now(), r.opts.Times, r.allHold()) {
		return
	}
	r.book.Version++
	if err := r.save(); err != nil {
		r.book = before
		r.opts.Log.Error("the gossip key cannot be rotated", "err", err)
		return
	}
	r.opts.Log.Info("gossip key", "state", r.book.Gossip.String())
	r.spread()
}

// allHold reports whether all that follow have the current version in force. The
// lock is held.
func (r *Registry) allHold() bool {
	for _, f := range r.followers {
		if f.holds < r.book.Version {
			return false
		}
	}
	return true
}

// newKey makes a gossip key.
func newKey() (k [32]byte) {
	rand.Read(k[:]) // never fails, by its contract
	return k
}

// hostPort reports what is wrong with an address to be dialled.
func hostPort(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || net.ParseIP(host) == nil || port == "" || port == "0" {
		return fmt.Errorf("address %q: want IP:PORT", addr)
	}
	return nil
}
