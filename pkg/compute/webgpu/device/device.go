//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package device

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"unsafe"

	"github.com/rajveermalviya/go-webgpu/wgpu"
)

// Adapter is a device that can be opened.
type Adapter struct {
	Name, Driver, API string
	Vendor, Device    uint32
	Software          bool // computes on the processor
	Discrete          bool // has memory of its own
	p                 *wgpu.Adapter
}

// Adapters lists the adapters of this machine, each once.
func Adapters() []Adapter {
	wgpu.SetLogLevel(wgpu.LogLevel_Error)
	const backends = wgpu.InstanceBackend_Vulkan | wgpu.InstanceBackend_Metal | wgpu.InstanceBackend_DX12
	instance := wgpu.CreateInstance(&wgpu.InstanceDescriptor{Backends: backends})
	var out []Adapter
	for _, a := range instance.EnumerateAdapters(&wgpu.InstanceEnumerateAdapterOptons{Backends: backends}) {
		p := a.GetProperties()
		api := map[wgpu.BackendType]string{wgpu.BackendType_Vulkan: "vulkan", wgpu.BackendType_Metal: "metal", wgpu.BackendType_D3D12: "dx12"}[p.BackendType]
		if api == "" {
			continue
		}
		out = append(out, Adapter{
			Name: p.Name, Driver: p.DriverDescription, API: api, Vendor: p.VendorId, Device: p.DeviceId,
			Software: p.AdapterType == wgpu.AdapterType_CPU, Discrete: p.AdapterType == wgpu.AdapterType_DiscreteGPU, p: a,
		})
	}
	return out
}

// Limits are what a device allows.
type Limits struct {
	Binding    uint64 // bytes of a storage binding
	Buffer     uint64 // bytes of a buffer
	Workgroup  int    // invocations of a workgroup
	Shared     int    // bytes of workgroup memory
	Storage    int    // storage buffers of a shader
	Groups     int    // workgroups in a dimension
	Alignment  uint64 // of offsets of storage bindings
	Timestamps bool   // times can be taken
}

// Device is an open device. Its methods may be called by several goroutines,
// except that one at a time encodes and submits.
type Device struct {
	Limits Limits
	dev    *wgpu.Device
	p      unsafe.Pointer
	queue  unsafe.Pointer
	q      *wgpu.Queue
	failed failure
	scopes sync.Mutex // of the library's stack of error scopes
}

// handle returns the native handle of an object of the binding: its first word
// in the pinned version.
func handle[T any](object *T) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(object)) }

// Open opens the adapter.
func (a Adapter) Open() (*Device, error) {
	limits := a.p.GetLimits().Limits
	if limits.MaxBufferSize == math.MaxUint64 { // no limit, which would be taken for unset: 256 MiB
		limits.MaxBufferSize = limits.MaxStorageBufferBindingSize
	}
	var features []wgpu.FeatureName
	stamps := a.p.HasFeature(wgpu.FeatureName_TimestampQuery)
	if stamps {
		features = append(features, wgpu.FeatureName_TimestampQuery)
	}
	dev, err := a.p.RequestDevice(&wgpu.DeviceDescriptor{RequiredFeatures: features, RequiredLimits: &wgpu.RequiredLimits{Limits: limits}})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", a.Name, err)
	}
	d := &Device{dev: dev, p: handle(dev), q: dev.GetQueue()}
	d.queue = handle(d.q)
	d.failed = watch(d.p)
	d.Limits = Limits{
		Binding: limits.MaxStorageBufferBindingSize, Buffer: limits.MaxBufferSize,
		Workgroup: int(min(limits.MaxComputeInvocationsPerWorkgroup, limits.MaxComputeWorkgroupSizeX)),
		Shared:    int(limits.MaxComputeWorkgroupStorageSize), Storage: int(limits.MaxStorageBuffersPerShaderStage),
		Groups: int(limits.MaxComputeWorkgroupsPerDimension), Alignment: uint64(limits.MinStorageBufferOffsetAlignment),
		Timestamps: stamps,
	}
	return d, nil
}

// Close releases the device. Buffers must be freed before.
func (d *Device) Close() {
	d.Poll(true)
	d.q.Release()
	d.dev.Release()
	// The handler's memory stays: the library may still report to it.
}

// Binding is the kind of a binding.
type Binding byte

// Kinds of bindings.
const (
	Read      Binding = 'r' // storage that is read
	ReadWrite Binding = 'w' // storage that is read and written
	Params    Binding = 'u' // uniform
)

// Layout is the bindings of a group.
type Layout struct{ p *wgpu.BindGroupLayout }

// NewLayout makes a layout of bindings 0, 1, ...
func (d *Device) NewLayout(bindings []Binding) (Layout, error) {
	types := map[Binding]wgpu.BufferBindingType{
		Read: wgpu.BufferBindingType_ReadOnlyStorage, ReadWrite: wgpu.BufferBindingType_Storage, Params: wgpu.BufferBindingType_Uniform,
	}
	var entries []wgpu.BindGroupLayoutEntry
	for i, b := range bindings {
		entries = append(entries, wgpu.BindGroupLayoutEntry{
			Binding: uint32(i), Visibility: wgpu.ShaderStage_Compute, Buffer: wgpu.BufferBindingLayout{Type: types[b]},
		})
	}
	d.scopes.Lock()
	defer d.scopes.Unlock()
	p, err := d.dev.CreateBindGroupLayout(&wgpu.BindGroupLayoutDescriptor{Entries: entries})
	return Layout{p}, err
}

// Slice is a part of a buffer.
type Slice struct {
	Buffer       *Buffer
	Offset, Size uint64 // size 0 is all
}

// Group is buffers bound to a layout.
type Group struct {
	p unsafe.Pointer
	g *wgpu.BindGroup
}

// NewGroup binds buffers.
func (d *Device) NewGroup(l Layout, slices ...Slice) (*Group, error) {
	entries := make([]wgpu.BindGroupEntry, len(slices))
	for i, s := range slices {
		size := s.Size
		if size == 0 {
			size = s.Buffer.Size - s.Offset
		}
		entries[i] = wgpu.BindGroupEntry{Binding: uint32(i), Buffer: &s.Buffer.bound, Offset: s.Offset, Size: size}
	}
	d.scopes.Lock()
	defer d.scopes.Unlock()
	g, err := d.dev.CreateBindGroup(&wgpu.BindGroupDescriptor{Layout: l.p, Entries: entries})
	if err != nil {
		return nil, err
	}
	return &Group{p: handle(g), g: g}, nil
}

// Free releases the group.
func (g *Group) Free() { g.g.Release() }

// Pipeline is a compiled shader.
type Pipeline struct {
	p unsafe.Pointer
	c *wgpu.ComputePipeline
}

// Free releases the pipeline.
func (p *Pipeline) Free() { p.c.Release() }

// NewPipeline compiles the function main of WGSL code for groups of the layouts.
// Several goroutines may compile at the same time.
func (d *Device) NewPipeline(code string, layouts ...Layout) (*Pipeline, error) {
	var groups []*wgpu.BindGroupLayout
	for _, l := range layouts {
		groups = append(groups, l.p)
	}
	// Error scopes are one stack of the device, so an error may be reported to
	// another goroutine that compiles: all of them are failures of the same load.
	module, err := d.dev.CreateShaderModule(&wgpu.ShaderModuleDescriptor{WGSLDescriptor: &wgpu.ShaderModuleWGSLDescriptor{Code: code}})
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	defer module.Release()
	layout, err := d.dev.CreatePipelineLayout(&wgpu.PipelineLayoutDescriptor{BindGroupLayouts: groups})
	if err != nil {
		return nil, fmt.Errorf("lay out pipeline: %w", err)
	}
	defer layout.Release()
	c, err := d.dev.CreateComputePipeline(&wgpu.ComputePipelineDescriptor{
		Layout: layout, Compute: wgpu.ProgrammableStageDescriptor{Module: module, EntryPoint: "main"},
	})
	if err != nil {
		return nil, fmt.Errorf("make pipeline: %w", err)
	}
	if c == nil {
		return nil, errors.New("make pipeline: none was made")
	}
	return &Pipeline{p: handle(c), c: c}, nil
}

// QuerySet holds times.
type QuerySet struct {
	p unsafe.Pointer
	q *wgpu.QuerySet
}

// NewQuerySet makes room for n times.
func (d *Device) NewQuerySet(n int) (*QuerySet, error) {
	d.scopes.Lock()
	defer d.scopes.Unlock()
	q, err := d.dev.CreateQuerySet(&wgpu.QuerySetDescriptor{Type: wgpu.QueryType_Timestamp, Count: uint32(n)})
	if err != nil {
		return nil, err
	}
	return &QuerySet{p: handle(q), q: q}, nil
}

// Free releases the set.
func (q *QuerySet) Free() { q.q.Release() }
