package cpu

import (
	"testing"
	"testing/fstest"
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

func TestBrand(t *testing.T) {
	got := brandOf(files(map[string]string{"proc/cpuinfo": "processor\t: 0\nmodel name\t: A Processor\n"}))
	if got != "A Processor" || brandOf(files(nil)) != "" {
		t.Errorf("brand %q", got)
	}
}
