// Package supervise runs one child process for each GPU and keeps it running.
//
// A GPU's native library ends its process when a device fails, so a device is
// served by a process of its own: the program shoal-gpu, which is a shard node
// of the cluster with one device and an identity of its own. The parent tells it
// by its standard input what it needs, above all its identity or the cluster
// secret, which so appear neither in arguments nor in the environment, and later
// what changes of its identity; the child tells by lines
// on its standard output how it is. The end of its standard input is the end of
// the child: it does not outlive the parent.
package supervise

import (
	"strconv"
	"strings"

	"github.com/shoal-llm/shoal/internal/enrol"
	"github.com/shoal-llm/shoal/internal/weights"
)

// Program is the file name of the program that drives GPUs.
const Program = "shoal-gpu"

// Adapter is a device that the program can drive.
type Adapter struct {
	Index    int    `json:"index"`    // in the order of the system; the name of its child ends in it
	Name     string `json:"name"`     // as people know it
	API      string `json:"api"`      // vulkan, metal or dx12
	Driver   string `json:"driver"`   // and its version
	Memory   uint64 `json:"memory"`   // bytes; 0 is unknown
	Software bool   `json:"software"` // computes on the CPU: only used when named
}

// Settings are what a parent tells its child, as one line of JSON.
type Settings struct {
	Version   string            `json:"version"`            // of the parent: the child has the same
	KernelSet string            `json:"kernel_set"`         // see shard.Config
	Node      string            `json:"node"`               // name of the child in the cluster
	Secret    string            `json:"secret,omitempty"`   // the cluster's, as pki.Secret.Text spells it
	Identity  *enrol.Child      `json:"identity,omitempty"` // instead of the secret, where nodes join by tokens
	Adapter   Adapter           `json:"adapter"`            // the device to drive
	Listen    string            `json:"listen"`             // address for other nodes
	Models    string            `json:"models,omitempty"`
	Paths     map[string]string `json:"paths,omitempty"` // as library.Library has them
	Weights   weights.Settings  `json:"weights"`
	Memory    uint64            `json:"memory,omitempty"`
	Chunk     int               `json:"chunk,omitempty"`
	State     string            `json:"state,omitempty"` // folder, see shard.Config
	LogLevel  string            `json:"log_level,omitempty"`
	Workgroup int               `json:"workgroup,omitempty"` // threads of a workgroup, 0 is free: see webgpu.Config
	Compilers int               `json:"compilers,omitempty"` // kernels compiled at a time, 0 is one for each processor
	Synthetic bool              `json:"synthetic,omitempty"` // serve models made up for benchmarks, by their names
}

// Report is what a child says, as one line of JSON each time.
type Report struct {
	State  State  `json:"state"`
	Port   int    `json:"port,omitempty"`   // on which it serves other nodes, once it is Ready
	Reason string `json:"reason,omitempty"` // of Refused and Lost, a sentence
}

// State is how a child is.
type State string

// The states of a child.
const (
	Starting State = "starting" // it tests its device
	Ready    State = "ready"    // it serves the cluster
	Refused  State = "refused"  // its device is wrong: it does not serve, and is not started again
	Lost     State = "lost"     // it has ended or is about to, and is started again
)

// Answers reports whether a name chooses the adapter: its number, alone or after
// "gpu", or a part of its name. Without a name all adapters are chosen that are
// not software.
func (a Adapter) Answers(name string) bool {
	if name == "" {
		return !a.Software
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(name, "gpu")); err == nil {
		return n == a.Index
	}
	return strings.Contains(strings.ToLower(a.Name), strings.ToLower(name))
}
