package cluster

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/shoal-llm/shoal/internal/pki"
	shoalv1 "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// MaxMetaBytes is the room for a node's Meta in gossip.
const MaxMetaBytes = memberlist.MetaMaxSize

// maxDeviceBytes is the largest believable memory of a device: 256 TiB.
const maxDeviceBytes = 1 << 48

// Meta is what a node says of itself in gossip. None of it is proven: dial
// GRPCAddr, and let the handshake confirm the node id, the roles and the
// fingerprint.
type Meta struct {
	Roles       []pki.Role // at least one
	GRPCAddr    string     // host:port for other nodes
	Fingerprint string     // pki.Identity.Fingerprint: 64 hexadecimal digits
	Version     string     // of the program
	Devices     []Device   // what a shard computes on
}

// Device describes a device in a few words.
type Device struct {
	Backend     string // for example "cpu"
	Name        string // for people; cut when the devices are many
	UsableBytes uint64 // memory for weights and caches
}

// encode returns the gossip form of m, at most MaxMetaBytes. The names of
// devices are cut, all alike, as far as that needs; if it cannot be done the
// error says so.
func (m Meta) encode(nodeID string) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	print, err := hex.DecodeString(m.Fingerprint)
	if err != nil {
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	msg := &shoalv1.NodeMeta{NodeId: nodeID, GrpcAddr: m.GRPCAddr, Fingerprint: print, Version: m.Version}
	for _, r := range m.Roles {
		msg.Roles = append(msg.Roles, string(r))
	}
	for _, nameBytes := range []int{64, 32, 16, 8, 0} {
		msg.Devices = nil
		for _, d := range m.Devices {
			msg.Devices = append(msg.Devices, &shoalv1.DeviceSummary{
				Backend: d.Backend, Name: cut(d.Name, nameBytes), UsableBytes: d.UsableBytes,
			})
		}
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
		if err != nil {
			return nil, err
		}
		if len(raw) <= MaxMetaBytes {
			return raw, nil
		}
	}
	return nil, fmt.Errorf("the facts of node %s do not fit into the %d bytes of gossip", nodeID, MaxMetaBytes)
}

// cut returns at most n bytes of s, and whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// decodeMeta reads and checks what a node with name and address says of itself.
func decodeMeta(name string, gossip netip.Addr, raw []byte) (Meta, error) {
	if len(raw) > MaxMetaBytes {
		return Meta{}, fmt.Errorf("%d bytes of facts, at most %d are allowed", len(raw), MaxMetaBytes)
	}
	var msg shoalv1.NodeMeta
	if err := proto.Unmarshal(raw, &msg); err != nil {
		return Meta{}, errors.New("its facts cannot be read")
	}
	if err := pki.CheckNodeID(name); err != nil {
		return Meta{}, err
	}
	if msg.NodeId != name {
		return Meta{}, fmt.Errorf("it says its node id is %q", msg.NodeId)
	}
	m := Meta{GRPCAddr: msg.GrpcAddr, Fingerprint: hex.EncodeToString(msg.Fingerprint), Version: msg.Version}
	for _, r := range msg.Roles {
		m.Roles = append(m.Roles, pki.Role(r))
	}
	for _, d := range msg.Devices {
		m.Devices = append(m.Devices, Device{Backend: d.Backend, Name: d.Name, UsableBytes: d.UsableBytes})
	}
	if err := m.check(); err != nil {
		return Meta{}, err
	}
	host, _, _ := net.SplitHostPort(m.GRPCAddr)
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() && !gossip.IsLoopback() {
		return Meta{}, fmt.Errorf("it says it is reached at %s, which is this machine", m.GRPCAddr)
	}
	return m, nil
}

// check refuses facts that cannot be true.
func (m Meta) check() error {
	if len(m.Roles) == 0 {
		return errors.New("it has no role")
	}
	if len(m.Fingerprint) != 64 {
		return fmt.Errorf("a fingerprint of %d digits, want 64", len(m.Fingerprint))
	}
	host, port, err := net.SplitHostPort(m.GRPCAddr)
	if err != nil {
		return fmt.Errorf("gRPC address %q: want host:port", m.GRPCAddr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("gRPC address %q has no port", m.GRPCAddr)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return fmt.Errorf("gRPC address %q reaches nobody", m.GRPCAddr)
	}
	for _, d := range m.Devices {
		if d.UsableBytes > maxDeviceBytes {
			return fmt.Errorf("device %q has %d bytes of memory, which is not believable", d.Name, d.UsableBytes)
		}
	}
	return nil
}
