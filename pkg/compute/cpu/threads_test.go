package cpu

import (
	"reflect"
	"testing"
	"testing/fstest"

	"github.com/shoal-llm/shoal/pkg/compute"
)

func files(content map[string]string) fstest.MapFS {
	fs := fstest.MapFS{}
	for name, text := range content {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

func TestCgroupLimits(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		cores int
		bytes uint64
	}{
		"no control groups": {nil, 0, 0},
		"no limit":          {map[string]string{"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}, 0, 0},
		"whole cores":       {map[string]string{"sys/fs/cgroup/cpu.max": "250000 100000\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 2, 1 << 20},
		"part of a core":    {map[string]string{"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, 0},
		"the tightest of the path": {map[string]string{
			"proc/self/cgroup":                   "0::/a/b\n",
			"sys/fs/cgroup/cpu.max":              "800000 100000",
			"sys/fs/cgroup/a/cpu.max":            "300000 100000",
			"sys/fs/cgroup/a/b/cpu.max":          "max 100000",
			"sys/fs/cgroup/a/b/memory.max":       "4096",
			"sys/fs/cgroup/a/memory.max":         "8192",
			"sys/fs/cgroup/elsewhere/cpu.max":    "100000 100000",
			"sys/fs/cgroup/elsewhere/memory.max": "1",
		}, 3, 4096},
		"nonsense": {map[string]string{"sys/fs/cgroup/cpu.max": "many\n", "sys/fs/cgroup/memory.max": "-5"}, 0, 0},
	} {
		if got := cgroupCores(files(c.files)); got != c.cores {
			t.Errorf("%s: %d cores, want %d", name, got, c.cores)
		}
		if got := cgroupBytes(files(c.files)); got != c.bytes {
			t.Errorf("%s: %d bytes, want %d", name, got, c.bytes)
		}
	}
}

func TestPhysicalCores(t *testing.T) {
	topology := files(map[string]string{
		"sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,2\n",
		"sys/devices/system/cpu/cpu1/topology/thread_siblings_list": "1,3\n",
		"sys/devices/system/cpu/cpu2/topology/thread_siblings_list": "0,2\n",
		"sys/devices/system/cpu/cpu3/topology/thread_siblings_list": "1,3\n",
	})
	for _, c := range []struct {
		allowed []int
		want    int
	}{{[]int{0, 1, 2, 3}, 2}, {[]int{0, 2}, 1}, {[]int{3}, 1}, {[]int{3, 4}, 2}} {
		if got := physicalCores(topology, c.allowed); got != c.want {
			t.Errorf("processors %v: %d cores, want %d", c.allowed, got, c.want)
		}
	}
}

func TestNUMA(t *testing.T) {
	two := map[string]string{
		"sys/devices/system/node/online":        "0,2\n",
		"sys/devices/system/node/node0/cpulist": "0-3,8-11\n",
		"sys/devices/system/node/node2/cpulist": "4-7,12-15\n",
	}
	for name, c := range map[string]struct {
		files   map[string]string
		allowed []int
		want    compute.NUMA
	}{
		"both nodes":          {two, []int{3, 12}, compute.NUMA{Nodes: 2, On: []int{0, 2}}},
		"one node":            {two, []int{5, 6}, compute.NUMA{Nodes: 2, On: []int{2}}},
		"threads unknown":     {two, nil, compute.NUMA{Nodes: 2}},
		"node without a list": {map[string]string{"sys/devices/system/node/online": "0-1"}, []int{0}, compute.NUMA{Nodes: 2}},
		"nonsense":            {map[string]string{"sys/devices/system/node/online": "x,1-y,-4"}, []int{0}, compute.NUMA{}},
		"no files":            {nil, []int{0}, compute.NUMA{}},
	} {
		if got := numaOf(files(c.files), c.allowed); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if got := numbers("4000000000-4000000001,5,1000-2000"); len(got) != 25 {
		t.Errorf("%d numbers of a list beyond all processors", len(got))
	}
}

func TestBrand(t *testing.T) {
	got := brandOf(files(map[string]string{"proc/cpuinfo": "processor\t: 0\nmodel name\t: A Processor\n"}))
	if got != "A Processor" || brandOf(files(nil)) != "" {
		t.Errorf("brand %q", got)
	}
}
