package enrol

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Times of following.
const (
	followRetry = 500 * time.Millisecond // doubles up to followMost
	followMost  = 5 * time.Second
	askTimeout  = 5 * time.Second
)

// Gossip is the node's own part in the gossip.
type Gossip interface {
	SetKeys(keys [][32]byte) error
	Seek(addrs []string)
}

// Following is what a node follows the coordinator's book with.
type Following struct {
	Gossip Gossip
	Log    *slog.Logger
	// Coordinators are the gRPC addresses that are known now, besides those that
	// are kept with the identity; nil: none.
	Coordinators func() []string
	// Patience is how long a second process with this identity may be seen before
	// this one ends: longer than a coordinator takes to notice that the process
	// before this one is gone. Zero means DefaultPatience.
	Patience time.Duration
}

// DefaultPatience is the default of Following.Patience.
const DefaultPatience = 30 * time.Second

// ErrShutOut says that this node was shut out of its cluster.
var ErrShutOut = errors.New("this node was shut out of the cluster")

// Follow keeps the node up to date until ctx ends: it renews the certificate at two
// thirds of its life, and puts in force whom to refuse and which gossip keys hold.
// A coordinator that does not answer is asked again; meanwhile what is known holds.
// It returns an error when this node may not go on: it was shut out, or another
// process has its identity.
func (m *Membership) Follow(ctx context.Context, f Following) error {
	process := make([]byte, 16)
	rand.Read(process) // never fails, by its contract
	var twice time.Time
	retry, told := followRetry, ""
	patience := f.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	for ctx.Err() == nil {
		began := time.Now()
		err := m.followAny(ctx, f, process)
		if ctx.Err() != nil {
			break
		}
		switch code := status.Code(err); {
		case code == codes.PermissionDenied:
			return fmt.Errorf("%w: it comes back only with a new token", ErrShutOut)
		case code != codes.AlreadyExists:
			twice = time.Time{}
		case twice.IsZero():
			twice = began
		case time.Since(twice) > patience:
			return errors.New(status.Convert(err).Message())
		}
		if why := status.Convert(err).Message(); why != told {
			f.Log.Warn("no coordinator to follow: asking on, with what is known", "err", why)
			told = why
		}
		if time.Since(began) > followMost {
			retry = followRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
			retry = min(2*retry, followMost)
		}
	}
	return nil
}

// followAny follows the first coordinator that lets it, until that ends.
func (m *Membership) followAny(ctx context.Context, f Following, process []byte) error {
	addrs := m.Coordinators()
	if f.Coordinators != nil {
		addrs = append(addrs, f.Coordinators()...)
	}
	err := errors.New("no coordinator is known")
	asked := map[string]bool{}
	for _, addr := range addrs {
		if asked[addr] || ctx.Err() != nil {
			continue
		}
		asked[addr] = true
		if err = m.follow(ctx, f, addr, process); refusedForGood(err) {
			return err
		}
	}
	return err
}

// follow follows one coordinator until the stream ends.
func (m *Membership) follow(ctx context.Context, f Following, addr string, process []byte) error {
	conn, err := m.dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := pb.NewTrustServiceClient(conn)
	stream, err := client.Follow(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.FollowRequest{Process: process}); err != nil {
		_, err = stream.Recv() // it knows why
		return err
	}
	news, failed := make(chan *pb.FollowResponse), make(chan error, 1)
	go func() {
		for {
			n, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case news <- n:
			case <-ctx.Done():
				return
			}
		}
	}()
	renew := time.NewTimer(0)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case n := <-news:
			if err := m.apply(f.Gossip, n); err != nil {
				return err
			}
			if err := stream.Send(&pb.FollowRequest{Version: n.GetVersion(), Process: process}); err != nil {
				return <-failed
			}
		case <-renew.C:
			renew.Reset(m.renewIfDue(ctx, client, f.Log))
		}
	}
}

func (m *Membership) dial(addr string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, append(wire.DialOptions(), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(m.ClientCredentials("", pki.Coordinator)))...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, nil
}

// apply puts news in force and keeps them.
func (m *Membership) apply(gossip Gossip, n *pb.FollowResponse) error {
	keys, err := gossipKeys(n.GetGossip().GetKeys())
	if err != nil {
		return err
	}
	m.Deny(fingerprints(n.GetDenied()))
	if gossip != nil {
		if err := gossip.SetKeys(keys); err != nil {
			return err
		}
		gossip.Seek(n.GetGossip().GetSeeds())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.file.Denied, m.file.GossipKeys = n.GetDenied(), n.GetGossip().GetKeys()
	if s := n.GetGossip().GetSeeds(); len(s) > 0 {
		m.file.Seeds = s
	}
	if c := n.GetCoordinators(); len(c) > 0 {
		m.file.Coordinators = c
	}
	return m.save()
}

// renewIfDue asks for a newer certificate when it is time, and says when to look
// again.
func (m *Membership) renewIfDue(ctx context.Context, client pb.TrustServiceClient, log *slog.Logger) time.Duration {
	const look, again = time.Minute, 10 * time.Second
	left := m.RenewAt().Sub(m.now())
	if left > 0 {
		return min(left, look)
	}
	if err := m.Renew(ctx, client); err != nil {
		log.Warn("the certificate of this node is not renewed yet", "err", err)
		return again
	}
	log.Info("certificate renewed", "next", m.RenewAt())
	return look
}

// Renew asks for a newer certificate and keeps it.
func (m *Membership) Renew(ctx context.Context, client pb.TrustServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := m.key.Request()
	if err != nil {
		return err
	}
	req := &pb.RenewRequest{Request: request}
	m.mu.Lock()
	hosts := m.file.Hosts
	m.mu.Unlock()
	var webKey string
	if len(hosts) > 0 {
		if webKey, req.WebRequest, err = webRequest(hosts); err != nil {
			return err
		}
	}
	resp, err := client.Renew(ctx, req)
	if err != nil {
		return errors.New(status.Convert(err).Message())
	}
	if err := m.Replace(resp.GetCertificate()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.file.Certificate = resp.GetCertificate()
	if web := resp.GetWebCertificate(); len(web) > 0 {
		key, err := pki.ParseKey([]byte(webKey))
		if err != nil {
			return err
		}
		if err := m.ReplaceWeb(key, web); err != nil {
			return err
		}
		m.file.WebKey, m.file.Web = webKey, web
	}
	return m.save()
}
