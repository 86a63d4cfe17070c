package coordinator

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// TestP02OtherProtocols: who speaks something else on the port of nodes is cut,
// hears nothing but a TLS alert or that TLS is expected, and disturbs nobody.
func TestP02OtherProtocols(t *testing.T) {
	r := newRig(t, nil)
	noise := make([]byte, 4096)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(noise) // never fails, by its contract
	for name, data := range map[string]string{
		"noise":     string(noise),
		"HTTP/1.1":  "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"HTTP/2":    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"WebSocket": "GET /streaming HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
		"long TLS":  "\x16\x03\x01\xff\xff",
	} {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, data); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 64 {
			t.Errorf("%s: %v, %q", name, err, answer)
		}
		conn.Close()
	}
	old := r.identity("old", pki.Gateway).ClientTLS(pki.Expect{})
	old.MinVersion, old.MaxVersion = tls.VersionTLS11, tls.VersionTLS12
	if conn, err := tls.Dial("tcp", r.addr, old); err == nil {
		conn.Close()
		t.Error("TLS 1.2 is accepted")
	}
	if _, err := pb.NewCoordinatorServiceClient(r.dial("x", pki.Shard)).Cluster(t.Context(), &pb.ClusterRequest{}); err != nil {
		t.Errorf("a node, afterwards: %v", err)
	}
}

// TestP04LargeMessages: a message over the limit is refused by its length, and
// one that is small until it is unpacked by what it unpacks to.
func TestP04LargeMessages(t *testing.T) {
	r := newRig(t, nil)
	conn := r.dial("op", pki.Operator)
	large := wrapperspb.Bytes(make([]byte, wire.MaxMessageBytes+1))
	for name, options := range map[string][]grpc.CallOption{
		"large":  {grpc.MaxCallSendMsgSize(2 * wire.MaxMessageBytes)},
		"packed": {grpc.MaxCallSendMsgSize(2 * wire.MaxMessageBytes), grpc.UseCompressor(gzip.Name)},
	} {
		err := conn.Invoke(t.Context(), pb.CoordinatorService_Drain_FullMethodName, large, &pb.DrainResponse{}, options...)
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pb.NewCoordinatorServiceClient(conn).Cluster(t.Context(), &pb.ClusterRequest{}); err != nil {
		t.Errorf("the connection, afterwards: %v", err)
	}
}
