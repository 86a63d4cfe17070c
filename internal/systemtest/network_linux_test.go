package systemtest

import (
	"bufio"
	"bytes"
	"context"
	enc "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// network is machines (network namespaces) on one switch, apart from every network
// of this computer: they may multicast.
type network struct {
	sw       string // the namespace of the switch
	machines []string
}

// newNetwork makes n machines, 10.77.0.1 and up. It needs root.
func newNetwork(t *testing.T, n int) *network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the program ip (Debian: iproute2)")
	}
	tag := fmt.Sprintf("shoal%x", rand.Uint32()&0xffffff)
	w := &network{sw: tag + "s"}
	add := func(ns string) {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("this kernel or container allows no network namespaces: %s", out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	}
	add(w.sw)
	if out, err := exec.Command("ip", "-n", w.sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0").CombinedOutput(); err != nil {
		t.Skipf("this kernel has no bridges: %s", out)
	}
	w.ip(t, "-n", w.sw, "link", "set", "br0", "up")
	for i := range n {
		ns := fmt.Sprint(tag, i)
		add(ns)
		port := fmt.Sprint("p", i)
		w.ip(t, "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", port, "netns", w.sw)
		w.ip(t, "-n", w.sw, "link", "set", port, "master", "br0", "up")
		w.ip(t, "-n", ns, "link", "set", "lo", "up")
		w.ip(t, "-n", ns, "addr", "add", w.addr(i)+"/24", "dev", "eth0")
		w.ip(t, "-n", ns, "link", "set", "eth0", "up")
		w.ip(t, "-n", ns, "route", "add", "default", "dev", "eth0")
		w.machines = append(w.machines, ns)
	}
	return w
}

func (w *network) ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %s", strings.Join(args, " "), out)
	}
}

// addr is the address of a machine.
func (w *network) addr(machine int) string { return fmt.Sprintf("10.77.0.%d", machine+1) }

// start runs shoal on a machine. Nothing but the folder of its identities is said:
// every address is the usual one.
func (w *network) start(t *testing.T, machine int, args ...string) *process {
	t.Helper()
	p := startCommand(t, nil, "ip", append([]string{"netns", "exec", w.machines[machine], binary}, args...)...)
	p.report(t)
	return p
}

// shoal runs a command on a machine to its end.
func (w *network) shoal(ctx context.Context, t *testing.T, machine int, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := startCommand(t, nil, "ip", append([]string{"netns", "exec", w.machines[machine], binary}, args...)...)
	code = p.exitCode(ctx, t)
	return p.out.String(), p.err.String(), code
}

// in runs f on a thread that is in a namespace; sockets that it makes stay there.
func in(t *testing.T, ns string, f func() error) {
	t.Helper()
	if err := inside(ns, f); err != nil {
		t.Fatal(err)
	}
}

func inside(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never given back: the thread ends
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// dialer opens connections from a machine.
func (w *network) dialer(machine int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = inside(w.machines[machine], func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// cut has everything be lost that one machine sends to another, without a word to
// either: it goes to a network card that nobody has.
func (w *network) cut(t *testing.T, from, to int) (mend func()) {
	t.Helper()
	const nobody = "02:00:00:00:77:77"
	w.ip(t, "-n", w.machines[from], "neigh", "replace", w.addr(to), "lladdr", nobody, "dev", "eth0", "nud", "permanent")
	return func() { w.ip(t, "-n", w.machines[from], "neigh", "del", w.addr(to), "dev", "eth0") }
}

// post makes one HTTP request from a machine.
func (w *network) post(t *testing.T, machine int, url, key string, body object) (status int, text string, err error) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	req.Close = true
	var conn net.Conn
	in(t, w.machines[machine], func() error { conn, err = net.DialTimeout("tcp", req.URL.Host, time.Second); return nil })
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	if err := errors.Join(conn.SetDeadline(time.Now().Add(30*time.Second)), req.Write(conn)); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(all), err
}

// machineToken makes a token on the coordinator's machine, without an address.
func (w *network) token(ctx context.Context, t *testing.T, machine int, dir, role string) string {
	t.Helper()
	var token string
	eventually(ctx, t, "no token", func() error {
		out, stderr, code := w.shoal(ctx, t, machine, "token", "--role="+role, "--identity-dir="+dir)
		if code != 0 {
			return errors.New(stderr)
		}
		text, ok := strings.CutPrefix(strings.TrimSpace(out), "shoal join ")
		var addr string
		if token, addr, _ = strings.Cut(text, "@"); !ok || addr != w.addr(machine)+":7701" {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
	return token
}

// TestMachinesFindEachOther: on a network where nobody was told an address, a machine
// joins its cluster by a token alone, also again after a restart; and two clusters on
// one network stay apart.
func TestMachinesFindEachOther(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	w := newNetwork(t, 4)
	var dirs, states [2]string
	heads := [2]*process{}
	for i := range 2 { // machines 0 and 1 are coordinators of clusters of their own
		dirs[i], states[i] = filepath.Join(t.TempDir(), "authority"), t.TempDir()
		heads[i] = w.start(t, i, "coordinator", "--node-id=head", "--identity-dir="+dirs[i], "--min-shards=1")
	}
	var tokens [2]string
	for i := range 2 {
		tokens[i] = w.token(ctx, t, i, dirs[i], "shard")
	}
	join := func(i int) *process { // machines 2 and 3 join by a token alone
		return w.start(t, 2+i, "join", tokens[i], "--node-id="+fmt.Sprint("worker-", i), "--identity-dir="+states[i])
	}
	shards := [2]*process{join(0), join(1)}
	check := func(when string) {
		t.Helper()
		for i := range 2 {
			eventually(ctx, t, fmt.Sprintf("cluster %d, %s", i, when), func() error {
				out, stderr, _ := w.shoal(ctx, t, i, "nodes", "--identity-dir="+dirs[i])
				if err := errors.Join(heads[i].running(), shards[i].running()); err != nil {
					return err
				}
				if !strings.Contains(lineOf(out, fmt.Sprint("worker-", i)), " ready ") {
					return fmt.Errorf("%s%s", out, stderr)
				}
				if strings.Contains(out, fmt.Sprint("worker-", 1-i)) {
					t.Fatalf("the clusters have met:\n%s", out)
				}
				return nil
			})
		}
	}
	check("at first")
	// A token of one cluster says nothing to the other, and a node comes back by
	// itself, from wherever its coordinator is now.
	shards[0].kill()
	shards[0] = w.start(t, 2, "shard", "--identity-dir="+states[0])
	heads[1].kill()
	heads[1] = w.start(t, 1, "coordinator", "--node-id=head", "--identity-dir="+dirs[1], "--min-shards=1")
	check("after a restart")
}

// capture is every packet on the switch of a network.
type capture struct {
	fd   int
	done chan struct{}

	mu      sync.Mutex
	streams map[string]*bytes.Buffer // guarded by mu: payloads, by port of the switch, direction and addresses
}

// listen captures until the test ends.
func (w *network) listen(t *testing.T) *capture {
	t.Helper()
	c := &capture{done: make(chan struct{}), streams: map[string]*bytes.Buffer{}}
	in(t, w.sw, func() (err error) {
		all := int(enc.BigEndian.Uint16(enc.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)))
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err == nil {
			err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		}
		return err
	})
	timeout := unix.Timeval{Usec: 100_000}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() {
		defer close(c.done)
		buf := make([]byte, 1<<18)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(c.fd, buf, 0)
			if err != nil {
				continue // nothing came in time
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok {
				c.add(fmt.Sprint(link.Ifindex, " ", link.Pkttype), buf[:n])
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-c.done; _ = unix.Close(c.fd) })
	return c
}

// add keeps the payload of an IPv4 packet of TCP or UDP.
func (c *capture) add(where string, packet []byte) {
	const ethernet, ipv4 = 14, 0x0800
	if len(packet) < ethernet+20 || enc.BigEndian.Uint16(packet[12:]) != ipv4 {
		return
	}
	ip := packet[ethernet:]
	header := int(ip[0]&15) * 4
	if total := int(enc.BigEndian.Uint16(ip[2:])); total >= header && total <= len(ip) {
		ip = ip[:total] // what follows is padding
	}
	transport := ip[header:]
	payload := []byte(nil)
	switch {
	case ip[9] == unix.IPPROTO_TCP && len(transport) >= 20 && len(transport) >= int(transport[12]>>4)*4:
		payload = transport[int(transport[12]>>4)*4:]
	case ip[9] == unix.IPPROTO_UDP && len(transport) >= 8:
		payload = transport[8:]
	default:
		return
	}
	key := fmt.Sprint(where, " ", net.IP(ip[12:16]), ":", enc.BigEndian.Uint16(transport), " ", net.IP(ip[16:20]), ":", enc.BigEndian.Uint16(transport[2:]), " ")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[key] == nil {
		c.streams[key] = &bytes.Buffer{}
	}
	c.streams[key].Write(payload)
}

// holds returns the streams that hold text and how many bytes were on ports.
func (c *capture) holds(text []byte, ports ...int) (found []string, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, b := range c.streams {
		if slices.ContainsFunc(ports, func(p int) bool { return strings.Contains(key, fmt.Sprintf(":%d ", p)) }) {
			if total += b.Len(); bytes.Contains(b.Bytes(), text) {
				found = append(found, key)
			}
		}
	}
	return found, total
}

// TestNothingIsReadable captures every packet between the machines of a cluster
// while it joins, gossips and answers: on the ports of nodes there is no word of a
// prompt or an answer, no token id, no token and no key. The client's own connection,
// which is without TLS here, shows that the capture would have seen them.
func TestNothingIsReadable(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	w := newNetwork(t, 5)
	seen := w.listen(t)
	dir, key := filepath.Join(t.TempDir(), "authority"), "a-key-of-this-test"
	w.start(t, 0, "coordinator", "--node-id=head", "--identity-dir="+dir, "--min-shards=2", "--stages=2")
	tokens := map[string]string{}
	for i, role := range []string{"shard", "shard", "gateway"} {
		args := []string{"--node-id=" + fmt.Sprint(role, i), "--identity-dir=" + t.TempDir()}
		if role == "gateway" {
			args = append(args, "--listen=0.0.0.0:8080", "--tls=off", "--api-key="+key)
		}
		token := w.token(ctx, t, 0, dir, role)
		tokens[role+" token"] = token[strings.LastIndex(token, "-")+1:]
		w.start(t, 1+i, append([]string{"join", token}, args...)...)
	}
	url := "http://" + w.addr(3) + ":8080"
	const words = "the xylophone of the quarantined walrus"
	var answer completion
	eventually(ctx, t, "no answer", func() error {
		status, text, err := w.post(t, 4, url+"/v1/chat/completions", key, chat(words, object{"seed": 3, "max_tokens": 40, "temperature": 1.5}))
		if err == nil && status != http.StatusOK {
			err = errors.New(text)
		}
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(text), &answer)
	})
	ids := make([]int, 24)
	for i := range ids {
		ids[i] = 140 + rand.IntN(300)
	}
	status, text, err := w.post(t, 4, url+"/v1/completions", key, object{"model": "tiny", "prompt": ids, "max_tokens": 8})
	if err != nil || status != http.StatusOK {
		t.Fatalf("a prompt of ids: %d %s %v", status, text, err)
	}
	if out, stderr, code := w.shoal(ctx, t, 0, "cert", "rotate", "--identity-dir="+dir); code != 0 {
		t.Fatalf("%s%s", out, stderr)
	}
	secrets := map[string][]byte{"a prompt": []byte(words), "a part of a prompt": []byte("quarantined"), "an API key": []byte(key)}
	if a := answer.Choices[0].Message.Content; len(a) > 16 {
		secrets["an answer"] = []byte(a[:16])
	} else {
		t.Fatalf("the answer %q is too short to be looked for", a)
	}
	for what, secret := range tokens {
		secrets["the secret of a "+what] = []byte(secret)
	}
	const few = 4 // ids in a row: no chance
	var varints, words32 []byte
	for _, id := range ids[:few] {
		varints = protowire.AppendVarint(varints, uint64(id))
		words32 = enc.LittleEndian.AppendUint32(words32, uint32(id))
	}
	secrets["token ids in protobuf"], secrets["token ids as words"] = varints, words32

	nodes := []int{7700, 7701, 7946}
	for what, secret := range secrets {
		if found, _ := seen.holds(secret, nodes...); len(found) > 0 {
			t.Errorf("%s is readable on %v", what, found)
		}
	}
	for _, port := range nodes {
		if _, total := seen.holds([]byte("x"), port); total < 1000 {
			t.Errorf("only %d bytes were captured on port %d: the test proves nothing", total, port)
		}
	}
	for _, what := range []string{"a prompt", "an API key", "an answer"} {
		if found, _ := seen.holds(secrets[what], 8080); len(found) == 0 {
			t.Errorf("%s was not captured at the client either: the test proves nothing", what)
		}
	}
}
