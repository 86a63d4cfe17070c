//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/shoal-llm/shoal/internal/cluster"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/coordinator"
	"github.com/shoal-llm/shoal/services/coordinator/generation"
	"github.com/shoal-llm/shoal/services/coordinator/plan"
)

// byteText turns text into its bytes, and every id of an answer into a stamp of
// the moment when it is committed.
type byteText struct{}

func (byteText) Chat(messages []coordinator.Message, _ []json.RawMessage) ([]int32, error) {
	var text string
	for _, m := range messages {
		text += m.Content
	}
	return byteText{}.Raw(text)
}

func (byteText) Raw(text string) ([]int32, error) {
	ids := make([]int32, len(text))
	for i := range len(text) {
		ids[i] = int32(text[i])
	}
	return ids, nil
}

func (byteText) Token(int32) string                  { return "" }
func (byteText) Detokenizer() generation.Detokenizer { return &stamper{} }

type stamper struct{ seq uint64 }

func (s *stamper) Push(int32) string {
	s.seq++
	return stamp(now(), s.seq)
}

func (s *stamper) Flush() string { return "" }

// oneShard is a member list that does not change.
type oneShard struct {
	members []cluster.Member
	changed chan struct{}
}

func (m oneShard) Members() []cluster.Member { return m.members }
func (m oneShard) Changed() <-chan struct{}  { return m.changed }

// clusterSessions is how many sessions the cluster runs at once.
const clusterSessions = 256

// playCluster serves the real coordinator, and a shard that computes nothing.
func playCluster() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	start := func(secret string) (string, error) {
		c, addr, err := newCluster(secret)
		if err != nil {
			return "", err
		}
		go func() { done <- c.Run(ctx) }()
		return addr, nil
	}
	err := converse(os.Stdin, os.Stdout, start, func(string) (any, error) { return ownUsage() })
	cancel()
	select {
	case e := <-done:
		return errors.Join(err, e)
	case <-time.After(5 * time.Second):
		return errors.Join(err, errors.New("the coordinator does not stop"))
	}
}

func newCluster(secret string) (*coordinator.Coordinator, string, error) {
	shardID, err := identity(secret, shardName, pki.Shard)
	if err != nil {
		return nil, "", err
	}
	shardAt, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	server := grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(shardID.ServerCredentials(pki.Coordinator)))...)
	pb.RegisterShardServiceServer(server, newInstantShard(shardID))
	go func() { _ = server.Serve(shardAt) }() // ends with the process

	id, err := identity(secret, "load-coordinator", pki.Coordinator)
	if err != nil {
		return nil, "", err
	}
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	config := coordinator.Default()
	config.Version = "load"
	config.Wishes.Settle = 0
	config.Wishes.Sessions, config.Wishes.Slots = clusterSessions, clusterSessions
	members := oneShard{changed: make(chan struct{}, 1), members: []cluster.Member{{
		NodeID: shardName, Meta: cluster.Meta{Roles: []pki.Role{pki.Shard}, GRPCAddr: shardAt.Addr().String()},
	}}}
	c, err := coordinator.New(config, coordinator.Deps{
		Identity: id, Listener: at, Members: members, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Model: coordinator.Model{
			Name: "load", Precision: "fp16", Vocab: 256, Hidden: 8, Text: byteText{}, StopIDs: []int32{0},
			Facts: plan.Model{Name: "load", LayerBytes: []uint64{1 << 20}, KVPage: 1 << 10, Context: 8192},
		},
	})
	return c, at.Addr().String(), err
}

// Probes of firstTokens ask for a few tokens each.
const (
	probeTokens = 4
	probeRate   = 40 // a second
)

// firstTokens measures the time from a question to its first token through the
// gateway and the real coordinator, while half of the sessions that the cluster
// runs are streaming.
func firstTokens(s settings, r *report, sc scenario) (err error) {
	b, err := setUp(s, roleCluster)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.tearDown()) }()
	if err := b.fill(sc.kind, sc.streams, func(int) (string, int, int) { return "go on", 0, 0 }); err != nil {
		return err
	}
	time.Sleep(settle)
	var queue []*client
	asked := 0
	b.crowd.do(func() { b.crowd.ttft = histogram{} })
	for began := time.Now(); time.Since(began) < s.window; {
		due := int(time.Since(began).Seconds() * probeRate)
		b.crowd.do(func() {
			for ; asked < due && err == nil; asked++ {
				c := &client{prompt: "a question of some length, as people ask", tokens: probeTokens}
				queue = append(queue, c)
				err = b.crowd.open(c, 0)
			}
			queue = b.turnOver(queue)
			err = errors.Join(append([]error{err}, b.crowd.problems...)...)
		})
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	var h histogram
	b.crowd.do(func() { h = b.crowd.ttft })
	r.firstTokens(sc, &h, probeRate)
	return b.leave()
}
