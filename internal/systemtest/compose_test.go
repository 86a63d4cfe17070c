package systemtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/shoal-llm/shoal/internal/golden"
)

// composeService is what this package reads of a service.
type composeService struct {
	Command     []string `yaml:"command"`
	User        string   `yaml:"user"`
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	Tmpfs       []string `yaml:"tmpfs"`
	Ports       []string `yaml:"ports"`
	Volumes     []string `yaml:"volumes"`
	Secrets     []string `yaml:"secrets"`
	Environment any      `yaml:"environment"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
	DependsOn map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
}

// variable is ${NAME:-default} in a compose file.
var variable = regexp.MustCompile(`\$\{\w+:-([^}]*)\}`)

// readCompose returns the services of docker-compose.yml, with the defaults of
// its variables.
func readCompose(t *testing.T) map[string]composeService {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden.Root(), "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]composeService `yaml:"services"`
	}
	if err := yaml.Unmarshal(variable.ReplaceAll(b, []byte("$1")), &file); err != nil {
		t.Fatalf("read docker-compose.yml: %v", err)
	}
	return file.Services
}

// node is one service of the compose file as a process on loopback.
type node struct {
	*process
	name, role string
	args       []string
	grpc       string // addresses
	gossip     string
	admin      string
	public     []string // of a gateway: HTTP, gRPC
	machine    string   // a network namespace that it runs in; "" is none
}

// command is the program with arguments, on the machine of the node.
func (n *node) command(args ...string) (string, []string) {
	if n.machine == "" {
		return binary, args
	}
	return "ip", append([]string{"netns", "exec", n.machine, binary}, args...)
}

// system is the services of docker-compose.yml on loopback.
type system struct {
	secretFile string
	key        string // for clients
	url        string // of the gateway
	health     []string
	nodes      map[string]*node
	dialer     func(ctx context.Context, network, addr string) (net.Conn, error) // of clients; nil: from here
}

// Names of the services.
var (
	shards   = []string{"shard-1", "shard-2", "shard-3"}
	services = append([]string{"coordinator", "gateway"}, shards...)
)

// startCluster runs all services and waits until they are healthy.
func startCluster(ctx context.Context, t *testing.T) *system {
	t.Helper()
	c := prepareCluster(ctx, t)
	for _, name := range services {
		c.start(t, name)
	}
	c.waitHealthy(ctx, t, services...)
	return c
}

// prepareCluster makes secrets and addresses and starts nothing.
func prepareCluster(ctx context.Context, t *testing.T) *system {
	t.Helper()
	dir := t.TempDir()
	c := &system{key: "a-key-of-this-test", secretFile: filepath.Join(dir, "cluster.key"), nodes: map[string]*node{}}
	if _, stderr, code := shoal(ctx, t, nil, "secret", c.secretFile); code != 0 {
		t.Fatalf("make a secret: %s", stderr)
	}
	keyFile, models := filepath.Join(dir, "api.key"), filepath.Join(dir, "models")
	if err := os.WriteFile(keyFile, []byte(c.key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(models, 0o755); err != nil {
		t.Fatal(err)
	}
	listen := freeAddr(t)
	c.url = "http://" + listen
	gossip := map[string]string{}
	for name := range readCompose(t) {
		gossip[name] = freeAddr(t)
	}
	// What addresses and paths of containers are on loopback.
	places := map[string]func(string) (string, error){
		"cluster-secret-file": exactly("/run/secrets/cluster", c.secretFile),
		"api-key-file":        exactly("/run/secrets/api_key", keyFile),
		"models":              exactly("/models", models),
		"listen":              exactly("0.0.0.0:8080", listen),
		"join": func(v string) (string, error) {
			seeds := strings.Split(v, ",")
			for i, s := range seeds {
				host, port, _ := strings.Cut(s, ":")
				if gossip[host] == "" || port != "7946" {
					return "", fmt.Errorf("%q is no service's gossip port", s)
				}
				seeds[i] = gossip[host]
			}
			return strings.Join(seeds, ","), nil
		},
	}
	for name, s := range readCompose(t) {
		c.nodes[name] = loopback(t, name, s, places, gossip[name])
		c.health = s.Healthcheck.Test
	}
	return c
}

// exactly translates one value and refuses all others.
func exactly(from, to string) func(string) (string, error) {
	return func(v string) (string, error) {
		if v != from {
			return "", fmt.Errorf("%q is not %q, which is what this test knows a place for", v, from)
		}
		return to, nil
	}
}

// loopback turns the command of a service into one for this machine. Flags pass
// as they are; a value that is an address or a path must be known.
func loopback(t *testing.T, name string, s composeService, places map[string]func(string) (string, error), gossip string) *node {
	t.Helper()
	n := &node{name: name, role: s.Command[0], gossip: gossip, grpc: freeAddr(t), admin: freeAddr(t), args: s.Command[:1:1]}
	for _, arg := range s.Command[1:] {
		flag, value, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !ok || !strings.HasPrefix(arg, "--") {
			t.Fatalf("%s: argument %q: write --flag=value", name, arg)
		}
		if place := places[flag]; place != nil {
			var err error
			if value, err = place(value); err != nil {
				t.Fatalf("%s: --%s: %v", name, flag, err)
			}
		} else if strings.ContainsAny(value, "/:") {
			t.Fatalf("%s: what is --%s=%s on loopback?", name, flag, value)
		}
		n.args = append(n.args, "--"+flag+"="+value)
		if flag == "listen" {
			grpc := freeAddr(t)
			n.public = []string{value, grpc}
			n.args = append(n.args, "--grpc-listen="+grpc)
		}
	}
	n.args = append(n.args, "--gossip-addr="+n.gossip, "--grpc-addr="+n.grpc, "--admin-addr="+n.admin)
	return n
}

// start runs a service, for the first time or again, on the same ports.
func (c *system) start(t *testing.T, name string) {
	t.Helper()
	n := c.nodes[name]
	if n == nil {
		t.Fatalf("docker-compose.yml has no service %s", name)
	}
	program, args := n.command(n.args...)
	n.process = startCommand(t, nil, program, args...)
	n.report(t)
}

// waitHealthy waits until the health check of the compose file says so.
func (c *system) waitHealthy(ctx context.Context, t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		eventually(ctx, t, name+" is not healthy", func() error {
			if err := c.nodes[name].running(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			program, args := c.nodes[name].command(append(slices.Clone(c.health[2:]), "--admin-addr="+c.nodes[name].admin)...)
			p := startCommand(t, nil, program, args...)
			code := p.exitCode(ctx, t)
			stdout, stderr := p.out.String(), p.err.String()
			if code != 0 || stdout != "ok\n" {
				return fmt.Errorf("code %d: %s%s", code, stdout, stderr)
			}
			return nil
		})
	}
}

// TestComposeIsLockedDown holds every service to the rules of the file's head.
func TestComposeIsLockedDown(t *testing.T) {
	all := readCompose(t)
	if len(all) != len(services) {
		t.Errorf("%d services, want %d", len(all), len(services))
	}
	for name, s := range all {
		if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
			!slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: has more rights than it needs: user %s, read-only %v, without %v, %v", name, s.User, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
		if len(s.Tmpfs) != 1 || !strings.HasPrefix(s.Tmpfs[0], "/tmp:") {
			t.Errorf("%s: tmpfs %v, want /tmp alone", name, s.Tmpfs)
		}
		if !slices.Equal(s.Healthcheck.Test, []string{"CMD", "/shoal", "health"}) {
			t.Errorf("%s: health check %v", name, s.Healthcheck.Test)
		}
		if s.Environment != nil || !slices.Contains(s.Secrets, "cluster") {
			t.Errorf("%s: secrets come from secrets, not from the environment %v", name, s.Environment)
		}
		for _, v := range s.Volumes {
			if v != "models:/models:ro" {
				t.Errorf("%s: volume %s", name, v)
			}
		}
		if want := map[bool]int{true: 1}[name == "gateway"]; len(s.Ports) != want {
			t.Errorf("%s publishes %v", name, s.Ports)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s beyond this machine", name, p)
			}
		}
	}
}
