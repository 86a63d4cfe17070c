package registry

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/shoal-llm/shoal/internal/pki"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// Bounds of the join listener, which anybody may reach.
const (
	joinConnections = 64
	joinMessage     = 64 << 10
	joinStreams     = 2
	joinTimeout     = 5 * time.Second
	joinIdle        = 10 * time.Second
	joinAge         = time.Minute

	dialBacks       = 8 // at once
	dialBackTimeout = 4 * time.Second

	tickEvery = time.Second
)

// Rules say who may call the TrustService.
func Rules() pki.Rules {
	nodes := []pki.Role{pki.Coordinator, pki.Shard, pki.Gateway}
	return pki.Rules{
		pb.TrustService_Follow_FullMethodName:       nodes,
		pb.TrustService_Renew_FullMethodName:        pki.AnyRole(),
		pb.TrustService_Vouch_FullMethodName:        {pki.Shard},
		pb.TrustService_CreateToken_FullMethodName:  {pki.Operator},
		pb.TrustService_Revoke_FullMethodName:       {pki.Operator},
		pb.TrustService_RotateGossip_FullMethodName: {pki.Operator},
		pb.TrustService_Identities_FullMethodName:   {pki.Operator},
	}
}

// Register adds the TrustService to a server that enforces Rules.
func (r *Registry) Register(s grpc.ServiceRegistrar) { pb.RegisterTrustServiceServer(s, &server{r: r}) }

// Run serves the JoinService on a listener, which it closes, and rotates the gossip
// key, until ctx ends. A nil listener takes nobody in.
func (r *Registry) Run(ctx context.Context, listener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		ticker := time.NewTicker(tickEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
				r.tick()
			}
		}
	})
	if listener == nil {
		return group.Wait()
	}
	s := r.joinServer()
	group.Go(func() error {
		defer context.AfterFunc(ctx, s.Stop)()
		if err := s.Serve(netutil.LimitListener(listener, joinConnections)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
		return nil
	})
	return group.Wait()
}

// joinServer is the server of the join listener. Only Join is registered there, and
// what is not registered does not exist.
func (r *Registry) joinServer() *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(r.opts.Identity.OpenTLS())),
		grpc.MaxRecvMsgSize(joinMessage), grpc.MaxConcurrentStreams(joinStreams), grpc.MaxHeaderListSize(joinMessage),
		grpc.ConnectionTimeout(joinTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: joinIdle, MaxConnectionAge: joinAge, MaxConnectionAgeGrace: joinIdle}),
	)
	pb.RegisterJoinServiceServer(s, &joinServer{r: r, dialling: make(chan struct{}, dialBacks)})
	return s
}

type joinServer struct {
	pb.UnimplementedJoinServiceServer
	r        *Registry
	dialling chan struct{} // holds a token for each dial under way
}

// Join redeems a token.
func (s *joinServer) Join(ctx context.Context, req *pb.JoinRequest) (*pb.JoinResponse, error) {
	r := s.r
	request, err := pki.ParseRequest(req.GetRequest())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := pki.CheckNodeID(req.GetNode()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: choose one with --node-id", err)
	}
	c := &candidate{token: req.GetToken(), secret: req.GetSecret(), node: req.GetNode(), request: request}
	role, err := r.check(c)
	if err != nil {
		return nil, r.refuse(ctx, c, err)
	}
	var web []byte
	if len(req.GetWebRequest()) > 0 {
		if web, err = r.signWeb(role, req.GetWebRequest()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if role != pki.Operator {
		if err := s.dialBack(ctx, req.GetAddress(), request.Fingerprint); err != nil {
			r.opts.Log.Warn("machine cannot join: it is not reached", "peer", req.GetNode(), "addr", req.GetAddress(), "err", err)
			return nil, err
		}
	}
	der, err := r.admit(c)
	if err != nil {
		return nil, r.refuse(ctx, c, err)
	}
	return &pb.JoinResponse{
		Authority: r.opts.Authority.CertificatePEM(), Certificate: der, WebCertificate: web,
		Gossip: r.gossipProto(role), Coordinator: r.opts.Address,
	}, nil
}

// refuse tells a candidate why, and the log without its secret.
func (r *Registry) refuse(ctx context.Context, c *candidate, err error) error {
	from := ""
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	r.opts.Log.Warn("machine may not join", "from", from, "err", err)
	code := codes.Internal
	switch {
	case errors.Is(err, ErrTokenUnknown), errors.Is(err, ErrTokenExpired), errors.Is(err, ErrTokenUsed):
		code = codes.Unauthenticated
	case errors.Is(err, ErrNameTaken):
		code = codes.AlreadyExists
	}
	return status.Error(code, err.Error())
}

func (r *Registry) signWeb(role pki.Role, der []byte) ([]byte, error) {
	if role != pki.Gateway {
		return nil, fmt.Errorf("a %s has no public listener", role)
	}
	request, err := pki.ParseRequest(der)
	if err != nil {
		return nil, err
	}
	return r.opts.Authority.SignWeb(request, pki.WebLife, r.opts.Now())
}

// dialBack wants to meet the key at the address: only then can other nodes.
func (s *joinServer) dialBack(ctx context.Context, addr, key string) error {
	if err := hostPort(addr); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	select {
	case s.dialling <- struct{}{}:
		defer func() { <-s.dialling }()
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: pki.ProveKey(key)}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return status.Errorf(codes.FailedPrecondition,
			"the way to the coordinator is open, the way back is not: node %s does not reach this machine at %s (%v). Open that port here, or say with --advertise by which address other nodes reach this machine. The token is still good",
			s.r.opts.Identity.NodeID(), addr, err)
	}
	return conn.Close()
}

// gossipProto is what a role needs for the gossip: operators take no part.
func (r *Registry) gossipProto(role pki.Role) *pb.Gossip {
	if role == pki.Operator {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gossipLocked()
}

// gossipLocked is the keys and seeds in force. The lock is held.
func (r *Registry) gossipLocked() *pb.Gossip {
	out := &pb.Gossip{}
	for _, k := range r.book.Gossip.keys() {
		out.Keys = append(out.Keys, slices.Clone(k[:]))
	}
	if r.gossip != nil {
		out.Seeds = r.gossip.Seeds()
	}
	return out
}

// follower is a node that follows the book. All but wake is guarded by the
// registry's lock.
type follower struct {
	process string
	from    string // address
	holds   uint64 // version
	revoked bool
	wake    chan struct{}
}

func (f *follower) ring() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// server is the TrustService.
type server struct {
	pb.UnimplementedTrustServiceServer
	r *Registry
}

// Follow tells a node of the book until the stream ends.
func (s *server) Follow(stream pb.TrustService_FollowServer) error {
	who, err := pki.PeerFromContext(stream.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	f, err := s.r.enter(stream.Context(), who, first.GetProcess())
	if err != nil {
		return err
	}
	defer s.r.leave(who.NodeID, f)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			s.r.held(f, m.GetVersion())
		}
	}()
	for {
		if s.r.isRevoked(f) {
			return status.Errorf(codes.PermissionDenied, "node %s was shut out of the cluster (revoked)", who.NodeID)
		}
		if err := stream.Send(s.r.report()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-f.wake:
		}
	}
}

// enter lets a node follow, unless another process does in its name.
func (r *Registry) enter(ctx context.Context, who pki.Peer, process []byte) (*follower, error) {
	if len(process) != 16 {
		return nil, status.Errorf(codes.InvalidArgument, "process id of %d bytes, want 16", len(process))
	}
	f := &follower{process: string(process), wake: make(chan struct{}, 1)}
	if p, ok := peer.FromContext(ctx); ok {
		f.from = p.Addr.String()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.followers[who.NodeID]; old != nil && old.process != f.process {
		r.opts.Log.Error("one identity is used twice", "peer", who.NodeID, "from", old.from, "and", f.from)
		return nil, status.Errorf(codes.AlreadyExists,
			"two processes have the identity of node %s, here and at %s: was its state directory copied? Remove the copy, and have that machine join with a token of its own",
			who.NodeID, old.from)
	}
	if slices.Contains(r.denied(), who.Fingerprint) {
		return nil, status.Errorf(codes.PermissionDenied, "node %s was shut out of the cluster (revoked)", who.NodeID)
	}
	r.followers[who.NodeID] = f
	return f, nil
}

func (r *Registry) leave(node string, f *follower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followers[node] == f {
		delete(r.followers, node)
	}
}

func (r *Registry) isRevoked(f *follower) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f.revoked
}

func (r *Registry) held(f *follower, version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.holds = min(version, r.book.Version)
}

// report is the book as followers see it.
func (r *Registry) report() *pb.FollowResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &pb.FollowResponse{Version: r.book.Version, Gossip: r.gossipLocked(), Coordinators: []string{r.opts.Address}}
	for _, f := range r.denied() {
		raw, _ := hex.DecodeString(f) // our own spelling
		out.Denied = append(out.Denied, raw)
	}
	return out
}

// asked returns who asks for a certificate, and for which.
func asked(ctx context.Context, der []byte) (pki.Peer, pki.Request, error) {
	who, err := pki.PeerFromContext(ctx)
	if err != nil {
		return who, pki.Request{}, status.Error(codes.Unauthenticated, err.Error())
	}
	request, err := pki.ParseRequest(der)
	if err != nil {
		return who, request, status.Error(codes.InvalidArgument, err.Error())
	}
	return who, request, nil
}

// Renew gives a node a newer certificate.
func (s *server) Renew(ctx context.Context, req *pb.RenewRequest) (*pb.RenewResponse, error) {
	who, request, err := asked(ctx, req.GetRequest())
	if err != nil {
		return nil, err
	}
	der, role, err := s.r.renew(who, request)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	out := &pb.RenewResponse{Certificate: der}
	if len(req.GetWebRequest()) > 0 {
		if out.WebCertificate, err = s.r.signWeb(role, req.GetWebRequest()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	return out, nil
}

// Vouch gives a process of a shard a certificate.
func (s *server) Vouch(ctx context.Context, req *pb.VouchRequest) (*pb.VouchResponse, error) {
	who, request, err := asked(ctx, req.GetRequest())
	if err != nil {
		return nil, err
	}
	der, err := s.r.vouch(who, req.GetNode(), request)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &pb.VouchResponse{Certificate: der}, nil
}

// CreateToken makes a token.
func (s *server) CreateToken(_ context.Context, req *pb.CreateTokenRequest) (*pb.CreateTokenResponse, error) {
	if s.r.opts.Join == "" {
		return nil, status.Error(codes.FailedPrecondition, "this coordinator takes no machines in: it has no --join-addr")
	}
	life := DefaultTokenLife
	if n := req.GetLifeSeconds(); n > 0 {
		life = time.Duration(min(n, uint64(2*MaxTokenLife/time.Second))) * time.Second
	}
	t, expires, err := s.r.CreateToken(pki.Role(req.GetRole()), life)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &pb.CreateTokenResponse{Token: t.Text(), Address: s.r.opts.Join, Expires: expires.Unix()}, nil
}

// Revoke shuts a node out.
func (s *server) Revoke(_ context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	role, told, err := s.r.Revoke(req.GetNode())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &pb.RevokeResponse{Role: string(role), Followers: uint32(told)}, nil
}

// RotateGossip begins to replace the gossip key.
func (s *server) RotateGossip(context.Context, *pb.RotateGossipRequest) (*pb.RotateGossipResponse, error) {
	state, err := s.r.Rotate()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &pb.RotateGossipResponse{State: state}, nil
}

// Identities lists the book.
func (s *server) Identities(context.Context, *pb.IdentitiesRequest) (*pb.IdentitiesResponse, error) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Now()
	out := &pb.IdentitiesResponse{
		Cluster: r.opts.Identity.ClusterID(), Gossip: r.book.Gossip.String(), GossipSince: r.book.Gossip.Since.Unix(),
	}
	for i := range r.book.Nodes {
		m := &r.book.Nodes[i]
		raw, _ := hex.DecodeString(m.Fingerprint) // our own spelling
		info := &pb.NodeIdentity{
			Node: m.Node, Role: string(m.Role), Fingerprint: raw, Joined: m.Joined.Unix(), Expires: m.Expires.Unix(),
			Following: m.Revoked.IsZero() && r.followers[m.Node] != nil,
		}
		if !m.Revoked.IsZero() {
			info.Revoked = m.Revoked.Unix()
		}
		out.Nodes = append(out.Nodes, info)
	}
	for i := range r.book.Tokens {
		if t := &r.book.Tokens[i]; t.Used == "" && now.Before(t.Expires) {
			out.Tokens = append(out.Tokens, &pb.TokenInfo{Token: t.ID, Role: string(t.Role), Expires: t.Expires.Unix()})
		}
	}
	return out, nil
}
