package client_test

import (
	"errors"
	"testing"

	"github.com/shoal-llm/shoal/client"
	"github.com/shoal-llm/shoal/pkg/compute"
)

// TestSelectPrecision: scarce memory decides, then the type of the model.
func TestSelectPrecision(t *testing.T) {
	for _, c := range []struct {
		model      string
		gigabytes  float64
		want, kind string
	}{
		{"text", 16, "int4", "none"}, {"vision", 16, "int8", "none"}, {"audio", 8, "int8", "none"}, {"multimodal", 8, "int4", "none"},
		{"vision", 4, "int3", "moderate"}, {"text", 3, "int3", "moderate"}, {"audio", 2, "int2", "severe"},
	} {
		constraint := client.MemoryConstraint(c.gigabytes)
		if got, err := client.SelectPrecision(c.model, constraint); err != nil || got != c.want || string(constraint) != c.kind {
			t.Errorf("%s in %g GB: %s, %s, %v, want %s, %s", c.model, c.gigabytes, got, constraint, err, c.want, c.kind)
		}
	}
}

// TestDeviceClass: memory, cores and GPU each can make a device a lesser one.
func TestDeviceClass(t *testing.T) {
	for _, c := range []struct {
		gigabytes float64
		cores     int
		gpu, want string
	}{
		{8, 8, "high", "high-end"}, {8, 8, "medium", "mid-range"}, {8, 4, "high", "mid-range"}, {4, 4, "unknown", "mid-range"},
		{4, 4, "low", "low-end"}, {2, 8, "high", "low-end"}, {8, 2, "high", "low-end"},
	} {
		if got, err := client.DeviceClass(c.gigabytes, c.cores, c.gpu); err != nil || got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
}

// TestOptimizeKVCache: the advice is a class that a server takes, and longer contexts
// and less memory never get more bytes for a position.
func TestOptimizeKVCache(t *testing.T) {
	for _, c := range []struct {
		context    int
		constraint client.Constraint
		size, want string
		positions  int
	}{
		{1000, client.MemoryPlenty, "small", "4/32", 2048}, {4096, client.MemoryPlenty, "medium", "4/64", 6144},
		{8193, client.MemoryPlenty, "small", "4@128-3/32@1024", 12290}, {8192, client.MemorySevere, "small", "4@128-2/32@1024", 12288},
		{32768, client.MemoryModerate, "large", "4@128-3/128@1024+4:1@4096", 49152}, {65536, client.MemoryPlenty, "large", "4@128-3/128@1024+8:1@4096", 98304},
	} {
		got, err := client.OptimizeKVCache(c.context, c.constraint, c.size)
		if err != nil || got.Class() != c.want || got.MaxSeqLen != c.positions {
			t.Errorf("%+v: %+v is class %s, %v", c, got, got.Class(), err)
		}
		if _, err := compute.ParseKVClass(got.Class()); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestEstimateMemory: the estimate of a cache is that of the classes to within 10 % where
// the context is long, and 16 bits reduce nothing.
func TestEstimateMemory(t *testing.T) {
	shape := client.Shape{Parameters: 135e6, Layers: 30, KVHeads: 3, HeadDim: 64}
	for _, context := range []int{8192, 32768} {
		for _, size := range []string{"small", "medium"} {
			a, err := client.OptimizeKVCache(context, client.MemoryModerate, size)
			if err != nil {
				t.Fatal(err)
			}
			a.Progressive = false
			e, err := client.EstimateMemory(shape, "int4", context, a)
			if err != nil {
				t.Fatal(err)
			}
			class, err := compute.ParseKVClass(a.Class())
			if err != nil {
				t.Fatal(err)
			}
			pages := class.Pages(context)
			spec := compute.CacheSpec{Layers: 30, Pages: pages, KVHeads: 3, HeadDim: 64, Class: class, Pools: class.Pools(1, 64, pages)}
			if ratio := float64(e.KVCache) / float64(spec.Bytes()); ratio < 0.9 || ratio > 1.1 {
				t.Errorf("%s: estimated %d bytes, %d are held", class, e.KVCache, spec.Bytes())
			}
			if e.Reduction() < 60 {
				t.Errorf("%s: %.1f %% less than in 16 bits", class, e.Reduction())
			}
		}
	}
	if e, err := client.EstimateMemory(shape, "fp16", 4096, client.KVAdvice{Bits: 16, GroupSize: 32}); err != nil || e.Reduction() != 0 {
		t.Errorf("16 bits take %g %% less than themselves, %v", e.Reduction(), err)
	}
}

// TestAdviceRefusesByName: values without advice are named.
func TestAdviceRefusesByName(t *testing.T) {
	_, precision := client.SelectPrecision("text", "some")
	_, model := client.SelectPrecision("smell", client.MemoryPlenty)
	_, size := client.OptimizeKVCache(4096, client.MemoryPlenty, "huge")
	_, context := client.OptimizeKVCache(0, client.MemoryPlenty, "small")
	_, gpu := client.DeviceClass(4, 4, "fast")
	_, class := client.EstimateMemory(client.Shape{}, "int5", 1, client.KVAdvice{Bits: 4, GroupSize: 32})
	for want, err := range map[string]error{
		"memory constraint": precision, "model type": model, "model size": size, "context length": context, "GPU tier": gpu, "precision": class,
	} {
		var named *client.AdviceError
		if !errors.As(err, &named) || named.Param != want {
			t.Errorf("%v does not name the %s", err, want)
		}
	}
}
