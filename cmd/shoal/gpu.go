package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/pki"
	"github.com/shoal-llm/shoal/internal/supervise"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
	"github.com/shoal-llm/shoal/services/shard"
)

// gpuOptions are the flags that choose devices.
type gpuOptions struct {
	program              string
	devices              []string
	port                 int
	workgroup, compilers int
}

// gpuBackend is the backend of the program that drives GPUs.
const gpuBackend = "webgpu"

// Words of gpuOptions besides names.
const (
	auto    = "auto"
	off     = "off"
	onlyCPU = "cpu"
	allGPUs = "gpu"
)

func (o *gpuOptions) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.devices, "device", []string{auto}, "devices to compute on: auto (the GPUs, or without one the CPU), cpu, gpu (every GPU), or GPUs by number or a part of their name, comma-separated")
	f.StringVar(&o.program, "gpu-program", auto, "program that drives GPUs: a path, auto ("+supervise.Program+" beside this program or in PATH), or off")
	f.IntVar(&o.port, "gpu-port", 0, "port for other nodes of GPU 0, the next GPUs have the next ports; 0 takes free ones")
	f.IntVar(&o.workgroup, "gpu-workgroup", 0, "threads of the workgroups in which GPUs multiply single rows, a power of two from 32 on; 0 takes what was measured. It changes no answer")
	f.IntVar(&o.compilers, "gpu-compilers", 0, "kernels that a GPU's process compiles at a time when it loads a model; 0 is one for each processor")
}

// check reports settings that no device has, or that none of so many GPUs would take.
func (o gpuOptions) check(gpus int) error {
	if n := o.workgroup; n != 0 && (n < 32 || n&(n-1) != 0) {
		return fmt.Errorf("--gpu-workgroup %d: want a power of two from 32 on, or 0", n)
	}
	if o.compilers < 0 {
		return fmt.Errorf("--gpu-compilers %d: want 1 or more, or 0 for one for each processor", o.compilers)
	}
	if gpus == 0 && (o.workgroup != 0 || o.compilers != 0) {
		return errors.New("--gpu-workgroup and --gpu-compilers are settings of GPUs, and this shard computes on the CPU alone")
	}
	return nil
}

// deviceSet are the devices that a shard offers.
type deviceSet struct {
	cpu     bool
	gpus    []supervise.Adapter
	program string // that drives them
	noGPU   string // why none was found, where one was looked for
}

// choose finds the devices that the flags name.
func (o gpuOptions) choose(ctx context.Context) (deviceSet, error) {
	if !slices.ContainsFunc(o.devices, func(d string) bool { return d != onlyCPU }) {
		return deviceSet{cpu: true}, nil
	}
	automatic := slices.Equal(o.devices, []string{auto})
	if !automatic && slices.Contains(o.devices, auto) {
		return deviceSet{}, errors.New("--device auto stands alone: name the devices, or let them be found")
	}
	program, err := o.find()
	var list []supervise.Adapter
	if err == nil {
		list, err = listAdapters(ctx, program)
	}
	if !automatic {
		if err != nil {
			return deviceSet{}, fmt.Errorf("--device %s: %w", strings.Join(o.devices, ","), err)
		}
		return o.pick(program, list)
	}
	set := deviceSet{program: program}
	for _, a := range list {
		if a.Answers("") {
			set.gpus = append(set.gpus, a)
		}
	}
	if len(set.gpus) == 0 {
		if err == nil {
			err = errors.New("this machine has none that can be used")
		}
		return deviceSet{cpu: true, noGPU: err.Error()}, nil
	}
	return set, nil
}

// pick takes the devices that are named.
func (o gpuOptions) pick(program string, list []supervise.Adapter) (deviceSet, error) {
	set := deviceSet{program: program}
	for _, name := range o.devices {
		if name == onlyCPU {
			set.cpu = true
			continue
		}
		found := false
		for _, a := range list {
			if !a.Answers(strings.TrimPrefix(name, allGPUs)) {
				continue
			}
			found = true
			if !slices.Contains(set.gpus, a) {
				set.gpus = append(set.gpus, a)
			}
		}
		if !found {
			return set, fmt.Errorf("--device %q: no such device; %s lists %s", name, supervise.Program, adapterNames(list))
		}
	}
	return set, nil
}

func adapterNames(list []supervise.Adapter) string {
	if len(list) == 0 {
		return "none"
	}
	var out []string
	for _, a := range list {
		out = append(out, fmt.Sprintf("%d %s", a.Index, a.Name))
	}
	return strings.Join(out, ", ")
}

// find returns the path of the program that drives GPUs.
func (o gpuOptions) find() (string, error) {
	switch o.program {
	case off:
		return "", errors.New("--gpu-program is off")
	case auto, "":
	default:
		return exec.LookPath(o.program)
	}
	name := supervise.Program
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the program %s, which drives GPUs, is neither beside this one nor in PATH", supervise.Program)
	}
	return path, nil
}

// listAdapters asks the program what there is.
func listAdapters(ctx context.Context, program string) ([]supervise.Adapter, error) {
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "adapters")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		words := strings.TrimPrefix(lastLine(complaint.String()), supervise.Program+": ")
		return nil, fmt.Errorf("ask %s for devices: %w", program, errors.Join(err, ctx.Err(), sentence(words)))
	}
	var list []supervise.Adapter
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("ask %s for devices: %w", program, err)
	}
	return list, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// sentence makes an error of what a program said; nil of nothing.
func sentence(words string) error {
	if words == "" {
		return nil
	}
	return errors.New(words)
}

// children are the processes of a shard's GPUs.
type children struct {
	set      deviceSet
	settings []supervise.Settings
	ip       string // that others reach this machine by
	vouch    func(context.Context, string, func(enrol.ChildNews)) (*enrol.Child, error)
	log      *slog.Logger
}

// newChildren says what each GPU's process is told.
func (o shardOptions) newChildren(n *node, found *models, set deviceSet, level slog.Level) (*children, error) {
	memory, err := parseBytes(o.device.memory)
	if err != nil {
		return nil, fmt.Errorf("--max-mem: %w", err)
	}
	if err := o.gpu.check(len(set.gpus)); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(n.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	c := &children{set: set, ip: n.ip, log: n.log}
	secret := ""
	switch b := n.belongs; {
	case b.secret != nil:
		secret = b.secret.Text()
	case b.member != nil:
		c.vouch = b.member.Vouch
	case len(set.gpus) > 0:
		return nil, errors.New("--cert-file: each GPU has a process with a name and a certificate of its own, which the files do not hold: have the machine join with a token, or compute on the CPU alone (--device cpu)")
	}
	for _, a := range set.gpus {
		id := fmt.Sprintf("%s.gpu%d", n.identity.NodeID(), a.Index)
		if err := pki.CheckNodeID(id); err != nil {
			return nil, fmt.Errorf("name the process of a GPU: %w; give a shorter --node-id", err)
		}
		port := 0
		if o.gpu.port > 0 {
			port = o.gpu.port + a.Index
		}
		c.settings = append(c.settings, supervise.Settings{
			Version: version, KernelSet: kernelSet, Node: id, Secret: secret, Adapter: a,
			Listen: net.JoinHostPort(host, strconv.Itoa(port)), Models: found.lib.Dir, Paths: found.lib.Paths, Weights: found.settings,
			Memory: memory, Chunk: o.config.Chunk, State: o.config.State, LogLevel: level.String(),
			Workgroup: o.gpu.workgroup, Compilers: o.gpu.compilers,
		})
	}
	return c, nil
}

// run keeps the processes running and has the shard tell of them.
func (c *children) run(s *shard.Shard) part {
	return func(ctx context.Context) error {
		return supervise.Run(ctx, supervise.Config{
			Program: c.set.program, Children: c.settings, Log: c.log, Vouch: c.vouch,
			Notify: func(of supervise.Settings, r supervise.Report) { s.Announce(c.announcement(of, r)) },
		})
	}
}

// announcement is what the coordinator hears of a process.
func (c *children) announcement(s supervise.Settings, r supervise.Report) *pb.Child {
	child := &pb.Child{Node: s.Node, Reason: r.Reason, Device: &pb.Device{Kind: gpuBackend, Name: s.Adapter.Name, MemoryBytes: s.Adapter.Memory}}
	switch r.State {
	case supervise.Starting:
		child.State = pb.ChildState_CHILD_STATE_STARTING
	case supervise.Ready:
		child.State = pb.ChildState_CHILD_STATE_READY
		child.Address = net.JoinHostPort(c.ip, strconv.Itoa(r.Port))
	case supervise.Refused:
		child.State = pb.ChildState_CHILD_STATE_REFUSED
	case supervise.Lost:
		child.State = pb.ChildState_CHILD_STATE_LOST
	}
	return child
}
