package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/pki"
)

// identityOptions are the flags that say who this process is in its cluster: by a
// secret that all nodes share, by what it got when it joined, or by certificate
// files that somebody else keeps fresh.
type identityOptions struct {
	secretFile string
	dir        string
	files      pki.Files
	gossipKey  string // file

	secret *pki.Secret // of a cluster within this process
}

func (o *identityOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.secretFile, "cluster-secret-file", "", "file that holds a cluster secret, the same for every node (make one with 'shoal secret'); without it the node has the identity it got by 'shoal join'")
	o.dirFlag(f)
	f.StringVar(&o.files.Certificate, "cert-file", "", "certificate of this node from outside, like cert-manager's or SPIRE's, with a URI spiffe://CLUSTER/ROLE/NODE; read again when it changes")
	f.StringVar(&o.files.Key, "key-file", "", "private key of --cert-file")
	f.StringVar(&o.files.Authorities, "ca-file", "", "certificates of the authorities that sign for all nodes, beside --cert-file")
	f.StringVar(&o.gossipKey, "gossip-key-file", "", "key of the gossip beside --cert-file, the same for every node, written like a cluster secret")
}

func (o *identityOptions) dirFlag(f *pflag.FlagSet) {
	f.StringVar(&o.dir, "identity-dir", identityDir(), "folder of this machine's identities, and of a coordinator's authority: keep it private, and never copy it to another machine")
}

// identityDir is where identities are kept.
func identityDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "shoal")
	}
	if runtime.GOOS != "windows" && runtime.GOOS != "darwin" {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, ".local", "state", "shoal")
		}
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "shoal", "identity")
}

// belonging is how a process belongs to its cluster.
type belonging struct {
	identity *pki.Identity
	keys     [][32]byte // of the gossip; none for operators and where a registry has them
	secret   *pki.Secret
	member   *enrol.Membership // of a node that joined
	files    *pki.FileIdentity
}

// outside reports whether the flags name certificate files, and whether they name
// all that are needed.
func (o *identityOptions) outside() (bool, error) {
	given := 0
	for _, path := range []string{o.files.Certificate, o.files.Key, o.files.Authorities, o.gossipKey} {
		if path != "" {
			given++
		}
	}
	switch {
	case given == 0:
		return false, nil
	case given < 4:
		return true, errors.New("--cert-file, --key-file, --ca-file and --gossip-key-file belong together: give all four or none")
	case o.secretFile != "":
		return true, errors.New("--cluster-secret-file and --cert-file exclude each other: a node's certificate is made from the secret or comes from outside")
	}
	return true, nil
}

// open finds the identity of a role. nodeID is the name that a person gave, or
// empty; usual is what a node is called otherwise, if it may choose.
func (o *identityOptions) open(role pki.Role, nodeID, usual string) (*belonging, error) {
	outside, err := o.outside()
	if err != nil {
		return nil, err
	}
	chosen := nodeID
	if chosen == "" {
		chosen = usual
	}
	switch {
	case o.secret != nil:
		return bySecret(*o.secret, role, chosen)
	case o.secretFile != "":
		s, err := loadSecret(o.secretFile)
		if err != nil {
			return nil, err
		}
		return bySecret(s, role, chosen)
	case outside:
		return o.byFiles(role, nodeID)
	case o.dir == "":
		return nil, errors.New("--identity-dir is needed: this system names no place for it")
	case role == pki.Coordinator && (pki.HasAuthority(o.dir) || len(o.stored(role)) == 0):
		return o.byAuthority(role, chosen, true)
	case role == pki.Operator && pki.HasAuthority(o.dir):
		return o.byAuthority(role, chosen, false)
	}
	return o.byJoining(role, nodeID)
}

// stored lists role if the folder has an identity of it.
func (o *identityOptions) stored(role pki.Role) (out []pki.Role) {
	for _, r := range enrol.Roles(o.dir) {
		if r == role {
			out = append(out, r)
		}
	}
	return out
}

func bySecret(s pki.Secret, role pki.Role, nodeID string) (*belonging, error) {
	id, err := pki.New(s, pki.Node{ID: nodeID, Roles: []pki.Role{role}})
	if err != nil {
		return nil, fmt.Errorf("--node-id: %w", err)
	}
	return &belonging{identity: id, secret: &s, keys: [][32]byte{id.Authority().GossipKey()}}, nil
}

// byAuthority is the identity of one who holds the authority: the coordinator that
// made it, and whoever runs commands beside it.
func (o *identityOptions) byAuthority(role pki.Role, nodeID string, create bool) (*belonging, error) {
	a, err := pki.OpenAuthority(o.dir, create)
	if err != nil {
		return nil, err
	}
	id, err := a.Identity(pki.Node{ID: nodeID, Roles: []pki.Role{role}})
	if err != nil {
		return nil, fmt.Errorf("--node-id: %w", err)
	}
	return &belonging{identity: id}, nil
}

func (o *identityOptions) byJoining(role pki.Role, nodeID string) (*belonging, error) {
	m, err := enrol.Load(o.dir, role, nil)
	if errors.Is(err, enrol.ErrNone) {
		return nil, fmt.Errorf("this machine is in no cluster as a %s: take a token from the coordinator (`shoal token --role %s` there) and run `shoal join TOKEN@COORDINATOR`, or give the cluster's secret with --cluster-secret-file", role, role)
	}
	if err != nil {
		return nil, err
	}
	return byMembership(m, nodeID)
}

func byMembership(m *enrol.Membership, nodeID string) (*belonging, error) {
	if nodeID != "" && nodeID != m.NodeID() {
		return nil, fmt.Errorf("--node-id %s: this machine joined as %s; another name needs another token", nodeID, m.NodeID())
	}
	return &belonging{identity: m.Identity, member: m, keys: m.GossipKeys()}, nil
}

func (o *identityOptions) byFiles(role pki.Role, nodeID string) (*belonging, error) {
	id, err := pki.FromFiles(o.files)
	if err != nil {
		return nil, err
	}
	if nodeID != "" && nodeID != id.NodeID() {
		return nil, fmt.Errorf("--node-id %s: the certificate names node %s", nodeID, id.NodeID())
	}
	has := false
	for _, r := range id.Roles() {
		has = has || r == role
	}
	if !has {
		return nil, fmt.Errorf("--cert-file %s: it is for roles %v, not for a %s", o.files.Certificate, id.Roles(), role)
	}
	key, err := pki.LoadSecret(o.gossipKey)
	if err != nil {
		return nil, fmt.Errorf("--gossip-key-file: %w", err)
	}
	return &belonging{identity: id.Identity, files: id, keys: [][32]byte{key}}, nil
}

// loadSecret reads a cluster secret.
func loadSecret(path string) (pki.Secret, error) {
	s, err := pki.LoadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("%w; make it with `shoal secret %s`", err, path)
	}
	return s, err
}

// known reports whether there is an identity to ask a running cluster with.
func (o *identityOptions) known() bool {
	outside, _ := o.outside()
	return o.secretFile != "" || outside || o.dir != "" && (pki.HasAuthority(o.dir) || len(o.stored(pki.Operator)) > 0)
}
