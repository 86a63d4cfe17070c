package cpu

import (
	"bufio"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/cpu"

	"github.com/shoal-llm/shoal/pkg/compute"
)

// maxProcessors bounds the processor numbers looked at.
const maxProcessors = 1024

// processorName returns what the machine is called in reports.
func processorName() string {
	if name := brand(); name != "" {
		return name
	}
	return "CPU " + runtime.GOARCH
}

// brandOf returns the model name in the text of /proc/cpuinfo.
func brandOf(root fs.FS) string {
	f, err := root.Open("proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// physicalCores returns how many different cores the processors in allowed lie
// on, by the topology files of Linux, or the number of processors where those do
// not say.
func physicalCores(root fs.FS, allowed []int) int {
	cores := map[string]bool{}
	for _, processor := range allowed {
		siblings, err := fs.ReadFile(root, path.Join("sys/devices/system/cpu", "cpu"+strconv.Itoa(processor), "topology/thread_siblings_list"))
		if err != nil {
			return len(allowed)
		}
		cores[string(siblings)] = true
	}
	return len(cores)
}

// numaOf returns the memory nodes of the machine and those on which the
// processors in allowed lie, by the files of Linux.
func numaOf(root fs.FS, allowed []int) compute.NUMA {
	const nodes = "sys/devices/system/node"
	online, err := fs.ReadFile(root, path.Join(nodes, "online"))
	if err != nil {
		return compute.NUMA{}
	}
	ids := numbers(string(online))
	numa := compute.NUMA{Nodes: len(ids)}
	for _, id := range ids {
		list, _ := fs.ReadFile(root, path.Join(nodes, "node"+strconv.Itoa(id), "cpulist"))
		here := numbers(string(list))
		if slices.ContainsFunc(allowed, func(p int) bool { return slices.Contains(here, p) }) {
			numa.On = append(numa.On, id)
		}
	}
	return numa
}

// numbers reads a list of numbers and ranges, such as "0-3,8,10-11", as Linux
// writes it. What is none, or beyond maxProcessors, is left out.
func numbers(list string) []int {
	var out []int
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || from < 0 {
			continue
		}
		for n := from; n <= min(to, maxProcessors-1); n++ {
			out = append(out, n)
		}
	}
	return out
}

// cgroupFiles returns the contents of a file of the process's control group and
// of those above it (version 2).
func cgroupFiles(root fs.FS, name string) []string {
	group := ""
	if b, err := fs.ReadFile(root, "proc/self/cgroup"); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				group = strings.Trim(path.Clean(rest), "/")
			}
		}
	}
	var out []string
	for {
		if b, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", group, name)); err == nil {
			out = append(out, strings.TrimSpace(string(b)))
		}
		if group == "" || group == "." {
			return out
		}
		if group = path.Dir(group); group == "." {
			group = ""
		}
	}
}

// cgroupCores returns how many whole cores the control groups grant, at least
// one, or 0 for no limit.
func cgroupCores(root fs.FS) int {
	cores := 0
	for _, text := range cgroupFiles(root, "cpu.max") {
		var quota, period int
		if n := strings.Fields(text); len(n) == 2 {
			quota, _ = strconv.Atoi(n[0])
			period, _ = strconv.Atoi(n[1])
		}
		if quota <= 0 || period <= 0 {
			continue
		}
		if n := max(1, quota/period); cores == 0 || n < cores {
			cores = n
		}
	}
	return cores
}

// cgroupBytes returns the memory that the control groups grant, or 0 for no
// limit.
func cgroupBytes(root fs.FS) uint64 {
	var limit uint64
	for _, text := range cgroupFiles(root, "memory.max") {
		if n, err := strconv.ParseUint(text, 10, 64); err == nil && n > 0 && (limit == 0 || n < limit) {
			limit = n
		}
	}
	return limit
}

// cacheLine keeps what one worker writes off the lines that others read.
type cacheLine = cpu.CacheLinePad
