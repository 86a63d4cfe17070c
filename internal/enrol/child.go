package enrol

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Child is the identity of a process that a node supervises, as the process is told
// it: it has no file and no way of its own to the coordinator.
type Child struct {
	Pin         []byte   `json:"pin"`
	Authority   string   `json:"authority"`   // PEM
	Key         string   `json:"key"`         // PEM
	Certificate []byte   `json:"certificate"` // DER
	Denied      []string `json:"denied,omitempty"`
}

// ChildNews is what changes of a Child while its process runs.
type ChildNews struct {
	Certificate []byte   `json:"certificate,omitempty"` // a newer one; empty: it stays
	Denied      []string `json:"denied"`                // fingerprints of keys that are shut out
}

// Enroll makes the identity. A nil now is time.Now.
func (c *Child) Enroll(now func() time.Time) (*pki.Enrolled, error) {
	key, err := pki.ParseKey([]byte(c.Key))
	if err != nil {
		return nil, err
	}
	var pin pki.Pin
	copy(pin[:], c.Pin)
	trust, err := pin.ParseTrust([]byte(c.Authority))
	if err != nil {
		return nil, err
	}
	e, err := pki.Enroll(trust, key, c.Certificate, now)
	if err != nil {
		return nil, err
	}
	e.Deny(c.Denied)
	return e, nil
}

// Apply puts news in force.
func (n *ChildNews) Apply(e *pki.Enrolled) error {
	e.Deny(n.Denied)
	if len(n.Certificate) == 0 {
		return nil
	}
	return e.Replace(n.Certificate)
}

// newsEvery is how often a child's identity is looked at: a key that is shut out is
// so for the children of other nodes within this.
const newsEvery = time.Second

// Vouch has the coordinator sign for a process that this node supervises, and tells
// what changes of its identity until ctx ends.
func (m *Membership) Vouch(ctx context.Context, node string, tell func(ChildNews)) (*Child, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	text, err := key.PEM()
	if err != nil {
		return nil, err
	}
	der, err := m.vouch(ctx, node, key)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	c := &Child{Pin: m.file.Pin, Authority: m.file.Authority, Key: string(text), Certificate: der, Denied: fingerprints(m.file.Denied)}
	m.mu.Unlock()
	e, err := c.Enroll(m.now)
	if err != nil {
		return nil, err
	}
	go m.tellChild(ctx, node, key, e, c.Denied, tell)
	return c, nil
}

// tellChild tells a child of newer certificates and of who was shut out.
func (m *Membership) tellChild(ctx context.Context, node string, key pki.Key, e *pki.Enrolled, denied []string, tell func(ChildNews)) {
	ticker := time.NewTicker(newsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		m.mu.Lock()
		now := fingerprints(m.file.Denied)
		m.mu.Unlock()
		news := ChildNews{Denied: now}
		if !m.now().Before(e.RenewAt()) {
			if der, err := m.vouch(ctx, node, key); err == nil && e.Replace(der) == nil {
				news.Certificate = der
			}
		}
		if len(news.Certificate) > 0 || !slices.Equal(now, denied) {
			denied = now
			tell(news)
		}
	}
}

// vouch asks the coordinators that are known, one after the other.
func (m *Membership) vouch(ctx context.Context, node string, key pki.Key) ([]byte, error) {
	request, err := key.Request()
	if err != nil {
		return nil, err
	}
	err = errors.New("no coordinator is known")
	for _, addr := range m.Coordinators() {
		conn, dialErr := m.dial(addr)
		if dialErr != nil {
			return nil, dialErr
		}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		var resp *pb.VouchResponse
		resp, err = pb.NewTrustServiceClient(conn).Vouch(ctx, &pb.VouchRequest{Node: node, Request: request})
		cancel()
		_ = conn.Close()
		if err == nil {
			return resp.GetCertificate(), nil
		}
		err = errors.New(status.Convert(err).Message())
	}
	return nil, err
}
