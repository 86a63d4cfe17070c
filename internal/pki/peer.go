package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Role is what a node may do in a cluster. A node can hold several.
type Role string

// The roles of a cluster.
const (
	Coordinator Role = "coordinator" // plans, admits, commits
	Shard       Role = "shard"       // computes stages
	Gateway     Role = "gateway"     // serves users
	Operator    Role = "operator"    // a person's command line
)

// AnyRole returns all roles, for methods that every node of the cluster may
// call.
func AnyRole() []Role { return []Role{Coordinator, Shard, Gateway, Operator} }

// ErrPeer is wrapped by every refusal of a peer's certificate.
var ErrPeer = errors.New("peer refused")

// Peer is the verified other end of a connection.
type Peer struct {
	Cluster     string // the cluster id
	NodeID      string // unique in the cluster
	Roles       []Role // at least one, sorted
	Fingerprint string // of its key: see Identity.Fingerprint
}

// Has reports whether the peer holds one of the roles.
func (p Peer) Has(roles ...Role) bool {
	return slices.ContainsFunc(p.Roles, func(r Role) bool { return slices.Contains(roles, r) })
}

// nodeIDs are one segment of a SPIFFE path.
var nodeIDs = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckNodeID reports why id cannot name a node: it is 1 to 63 letters, digits,
// dots, dashes and underscores, and begins with a letter or digit.
func CheckNodeID(id string) error {
	if !nodeIDs.MatchString(id) {
		return fmt.Errorf("node id %q: want 1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first", id)
	}
	return nil
}

func checkRoles(roles []Role) error {
	if len(roles) == 0 {
		return errors.New("a node needs a role")
	}
	for _, r := range roles {
		if !slices.Contains(AnyRole(), r) {
			return fmt.Errorf("unknown role %q", r)
		}
	}
	return nil
}

// spiffeID is the name of a node in one role.
// See the SPIFFE ID specification, https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/.
func spiffeID(clusterID string, role Role, nodeID string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: clusterID, Path: "/" + string(role) + "/" + nodeID}
}

// PeerFromTLS returns who is at the other end of a connection. It reads the
// certificate only: the connection must come from a configuration of this
// package, which has verified it during the handshake.
func PeerFromTLS(state tls.ConnectionState) (Peer, error) {
	if len(state.PeerCertificates) == 0 {
		return Peer{}, fmt.Errorf("%w: it shows no certificate", ErrPeer)
	}
	return peerFromCertificate(state.PeerCertificates[0])
}

func peerFromCertificate(cert *x509.Certificate) (Peer, error) {
	p := Peer{Fingerprint: fingerprint(cert)}
	for _, u := range cert.URIs {
		cluster, role, node, err := splitID(u)
		if err != nil {
			return Peer{}, fmt.Errorf("%w: %w", ErrPeer, err)
		}
		if p.Cluster == "" {
			p.Cluster, p.NodeID = cluster, node
		}
		if cluster != p.Cluster || node != p.NodeID {
			return Peer{}, fmt.Errorf("%w: its certificate names two nodes", ErrPeer)
		}
		p.Roles = append(p.Roles, role)
	}
	if len(p.Roles) == 0 {
		return Peer{}, fmt.Errorf("%w: its certificate names no node", ErrPeer)
	}
	slices.Sort(p.Roles)
	p.Roles = slices.Compact(p.Roles)
	return p, nil
}

func splitID(u *url.URL) (cluster string, role Role, node string, err error) {
	first, node, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	role = Role(first)
	if !ok || CheckNodeID(node) != nil || *u != *spiffeID(u.Host, role, node) {
		return "", "", "", fmt.Errorf("%q is not a node's SPIFFE id", u)
	}
	return u.Host, role, node, nil
}

// fingerprint is the SHA-256 of the certificate's public key: it survives the
// renewal of a certificate.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
