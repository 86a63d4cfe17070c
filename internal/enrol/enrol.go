// Package enrol makes a machine a node of a cluster and keeps it one: it joins with
// a token, keeps the identity in a file, renews the certificate, and follows the
// coordinator's book of who was shut out and which gossip keys hold.
package enrol

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// ErrNone says that a folder holds no identity.
var ErrNone = errors.New("no identity")

// ErrElsewhere says that an address is not that of the cluster that a token names.
// The token's secret was not sent there.
var ErrElsewhere = errors.New("not the cluster that the token names")

// joinTimeout bounds a join, in which the coordinator dials back.
const joinTimeout = 15 * time.Second

// file is what an identity's file holds. It is read and written whole, so that key
// and certificate always belong together.
type file struct {
	Role         pki.Role `json:"role"`
	Key          string   `json:"key"`         // PEM
	Certificate  []byte   `json:"certificate"` // DER
	Authority    string   `json:"authority"`   // PEM
	Pin          []byte   `json:"pin"`
	WebKey       string   `json:"web_key,omitempty"` // of a gateway's public listener
	Web          []byte   `json:"web_certificate,omitempty"`
	Hosts        []string `json:"hosts,omitempty"` // of that certificate
	GossipKeys   [][]byte `json:"gossip_keys,omitempty"`
	Seeds        []string `json:"seeds,omitempty"`
	Coordinators []string `json:"coordinators"` // host:port of gRPC
	Denied       [][]byte `json:"denied,omitempty"`
	Advertise    string   `json:"advertise,omitempty"`
}

// Membership is the identity of a node that joined, and its file. It is safe for
// concurrent use.
type Membership struct {
	*pki.Enrolled
	path string
	key  pki.Key
	now  func() time.Time

	mu   sync.Mutex
	file file // guarded by mu
}

// path is the file of an identity: a folder may hold one for each role.
func path(dir string, role pki.Role) string {
	return filepath.Join(dir, "identity-"+string(role)+".json")
}

// Roles returns the roles for which a folder holds identities.
func Roles(dir string) []pki.Role {
	return slices.DeleteFunc(pki.AnyRole(), func(r pki.Role) bool {
		_, err := os.Stat(path(dir, r))
		return err != nil
	})
}

// Load reads the identity of a role in dir. The error wraps ErrNone where there is
// none. One whose certificate has run out is an error that says so.
func Load(dir string, role pki.Role, now func() time.Time) (*Membership, error) {
	at := path(dir, role)
	text, err := pki.ReadPrivate(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w of a %s in %s", ErrNone, role, dir)
	}
	m := &Membership{path: at, now: now}
	if err == nil {
		err = json.Unmarshal(text, &m.file)
	}
	if err == nil {
		err = m.open()
	}
	if err == nil && !slices.Contains(m.Roles(), role) {
		err = fmt.Errorf("it is that of a %v", m.Roles())
	}
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", at, err)
	}
	return m, nil
}

// open makes the identity of what the file holds.
func (m *Membership) open() error {
	if m.now == nil {
		m.now = time.Now
	}
	var err error
	if m.key, err = pki.ParseKey([]byte(m.file.Key)); err != nil {
		return err
	}
	var pin pki.Pin
	if copy(pin[:], m.file.Pin) != len(pin) {
		return errors.New("the authority's hash is damaged")
	}
	trust, err := pin.ParseTrust([]byte(m.file.Authority))
	if err != nil {
		return err
	}
	if m.Enrolled, err = pki.Enroll(trust, m.key, m.file.Certificate, m.now); err != nil {
		return fmt.Errorf("%w; a machine that was away for longer than its certificate lasts joins again with a new token", err)
	}
	if len(m.file.Web) > 0 {
		key, err := pki.ParseKey([]byte(m.file.WebKey))
		if err != nil {
			return err
		}
		if err := m.ReplaceWeb(key, m.file.Web); err != nil {
			return err
		}
	}
	if _, err := gossipKeys(m.file.GossipKeys); err != nil {
		return err
	}
	m.Deny(fingerprints(m.file.Denied))
	return nil
}

// save writes the file. The lock is held, or nobody else has m yet.
func (m *Membership) save() error {
	text, err := json.MarshalIndent(&m.file, "", " ")
	if err != nil {
		return err
	}
	if err := pki.WritePrivate(m.path, append(text, '\n')); err != nil {
		return fmt.Errorf("keep the identity of this node: %w", err)
	}
	return nil
}

// GossipKeys are those that the node has, the one that encrypts first.
func (m *Membership) GossipKeys() [][32]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys, _ := gossipKeys(m.file.GossipKeys) // checked when they came
	return keys
}

// Seeds are the gossip addresses that were known last.
func (m *Membership) Seeds() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.file.Seeds)
}

// Advertise is the IP address that a person said others reach this machine by, or
// empty.
func (m *Membership) Advertise() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file.Advertise
}

// Coordinators are the gRPC addresses that were known last.
func (m *Membership) Coordinators() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.file.Coordinators)
}

func gossipKeys(raw [][]byte) ([][32]byte, error) {
	out := make([][32]byte, len(raw))
	for i, k := range raw {
		if copy(out[i][:], k) != len(out[i]) || len(k) != len(out[i]) {
			return nil, errors.New("a gossip key is damaged")
		}
	}
	return out, nil
}

func fingerprints(raw [][]byte) []string {
	var out []string
	for _, f := range raw {
		if text, err := pki.ParseFingerprint(f); err == nil {
			out = append(out, text)
		}
	}
	return out
}

// Joining is what a machine says when it joins.
type Joining struct {
	Token   pki.Token
	Address string // host:port of the JoinService
	Dir     string // for the identity
	Node    string // the name it wants
	Version string // of the program
	// Listener is the node's gRPC listener. While the machine joins, it answers
	// the coordinator's dial there; it stays open. Nil for operators.
	Listener  *net.TCPListener
	Advertise string   // host:port by which others reach Listener
	Keep      string   // what Advertise returns
	WebHosts  []string // of a gateway's public listener; empty: no certificate for it

	Now func() time.Time // nil means time.Now
}

// Join redeems a token: it makes a key, proves that the other side is the cluster
// that the token names, sends the secret and keeps what it gets. Errors say which
// way did not work.
func Join(ctx context.Context, j Joining) (*Membership, error) {
	role := j.Token.Role()
	key, err := pki.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the key of this node: %w", err)
	}
	m := &Membership{path: path(j.Dir, role), now: j.Now}
	req := &pb.JoinRequest{Token: j.Token.ID, Secret: j.Token.Secret[:], Node: j.Node, Address: j.Advertise, Version: j.Version}
	if req.Request, err = key.Request(); err != nil {
		return nil, fmt.Errorf("make the key of this node: %w", err)
	}
	keyText, err := key.PEM()
	if err != nil {
		return nil, err
	}
	m.file = file{Role: role, Key: string(keyText), Pin: j.Token.Pin[:], Hosts: j.WebHosts, Advertise: j.Keep}
	if len(j.WebHosts) > 0 {
		if m.file.WebKey, req.WebRequest, err = webRequest(j.WebHosts); err != nil {
			return nil, err
		}
	}
	if j.Listener != nil {
		stop, err := answerDials(j.Listener, key)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	resp, err := send(ctx, j, req)
	if err != nil {
		return nil, err
	}
	m.file.Authority, m.file.Certificate, m.file.Web = string(resp.GetAuthority()), resp.GetCertificate(), resp.GetWebCertificate()
	m.file.GossipKeys, m.file.Seeds = resp.GetGossip().GetKeys(), resp.GetGossip().GetSeeds()
	m.file.Coordinators = []string{resp.GetCoordinator()}
	if err := m.open(); err != nil {
		return nil, fmt.Errorf("the coordinator's answer: %w", err)
	}
	if m.NodeID() != j.Node || !slices.Equal(m.Roles(), []pki.Role{role}) {
		return nil, fmt.Errorf("the coordinator's answer: the certificate is for %s as %v, not for %s as %s", m.NodeID(), m.Roles(), j.Node, role)
	}
	if err := m.save(); err != nil {
		return nil, err
	}
	return m, nil
}

// webRequest makes a key for a public listener and a request for its certificate.
func webRequest(hosts []string) (keyText string, request []byte, err error) {
	key, err := pki.NewKey()
	if err != nil {
		return "", nil, fmt.Errorf("make the key of the gateway: %w", err)
	}
	text, err := key.PEM()
	if err != nil {
		return "", nil, err
	}
	request, err = key.Request(hosts...)
	return string(text), request, err
}

// send speaks to the JoinService. The handshake has proven who it is before the
// request leaves.
func send(ctx context.Context, j Joining, req *pb.JoinRequest) (*pb.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	// The error of a handshake is the reason that people need; gRPC would hide it
	// behind its retries.
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", j.Address)
	if err != nil {
		return nil, elsewhereError{fmt.Errorf("this machine does not reach %s: %w; is that the --join-addr of a coordinator, and is the port open there?", j.Address, err)}
	}
	conn := tls.Client(raw, withHTTP2(j.Token.Pin.JoinTLS(j.Now)))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, elsewhereError{fmt.Errorf("%s is not the coordinator that the token names: %w", j.Address, err)}
	}
	once := make(chan net.Conn, 1)
	once <- conn
	client, err := grpc.NewClient("passthrough:///"+j.Address,
		grpc.WithTransportCredentials(proven{}), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("the connection broke")
			}
		}))
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	defer client.Close()
	resp, err := pb.NewJoinServiceClient(client).Join(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("the cluster does not take this machine: %s", status.Convert(err).Message())
	}
	return resp, nil
}

// elsewhereError is an ErrElsewhere that says more.
type elsewhereError struct{ error }

// Is makes it an ErrElsewhere.
func (elsewhereError) Is(target error) bool { return target == ErrElsewhere }

// Unwrap returns the reason.
func (e elsewhereError) Unwrap() error { return e.error }

func withHTTP2(c *tls.Config) *tls.Config {
	c.NextProtos = []string{"h2"}
	return c
}

// proven are the credentials of a connection whose TLS handshake is done.
type proven struct{}

// ClientHandshake takes the connection as it is.
func (proven) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, errors.New("not a TLS connection")
	}
	return c, credentials.TLSInfo{
		State:          c.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ServerHandshake is refused: these are a client's.
func (proven) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("not a server's credentials")
}

// Info says that it is TLS.
func (proven) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the same.
func (proven) Clone() credentials.TransportCredentials { return proven{} }

// OverrideServerName does nothing: the handshake is done.
func (proven) OverrideServerName(string) error { return nil }

// answerDials proves to whoever dials the listener that the key is here, until stop.
// The listener stays open.
func answerDials(l *net.TCPListener, key pki.Key) (stop func(), err error) {
	config, err := key.TLS()
	if err != nil {
		return nil, err
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer raw.Close()
				const patience = 3 * time.Second
				_ = raw.SetDeadline(time.Now().Add(patience))
				conn := tls.Server(raw, config)
				if conn.Handshake() == nil {
					_, _ = conn.Read(make([]byte, 1)) // until the other side has seen enough
				}
			})
		}
	})
	return func() {
		_ = l.SetDeadline(time.Now())
		group.Wait()
		_ = l.SetDeadline(time.Time{})
	}, nil
}

// SplitAddress takes TOKEN@ADDR apart; a missing port is that of the JoinService.
// Without @ADDR the address is empty.
func SplitAddress(text string) (pki.Token, string, error) {
	tokenText, addr, _ := strings.Cut(text, "@")
	t, err := pki.ParseToken(tokenText)
	if err != nil || addr == "" {
		return t, "", err
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(strings.Trim(addr, "[]"), DefaultJoinPort)
	}
	if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
		return t, "", fmt.Errorf("%q: want HOST or HOST:PORT after the @", addr)
	}
	return t, addr, nil
}

// DefaultJoinPort is the port of the JoinService.
const DefaultJoinPort = "7701"

// refusedForGood reports whether asking the coordinator again cannot help.
func refusedForGood(err error) bool {
	c := status.Code(err)
	return c == codes.PermissionDenied || c == codes.AlreadyExists
}
