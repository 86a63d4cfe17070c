//go:build cgo && ((linux && amd64) || darwin || (windows && amd64))

package device

/*
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The functions of the library that the shim calls, as webgpu.h and wgpu.h of
// the pinned version declare them. Handles are opaque.
typedef void (*error_callback)(uint32_t type, char const *message, void *userdata);
typedef void (*map_callback)(uint32_t status, void *userdata);
typedef struct { void const *next; char const *label; uint32_t usage; uint64_t size; bool mapped; } buffer_descriptor;
extern void *wgpuDeviceCreateBuffer(void *device, buffer_descriptor const *descriptor);
extern void wgpuDevicePushErrorScope(void *device, uint32_t filter);
extern void wgpuDevicePopErrorScope(void *device, error_callback callback, void *userdata);
extern void wgpuDeviceSetUncapturedErrorCallback(void *device, error_callback callback, void *userdata);
extern bool wgpuDevicePoll(void *device, bool wait, void const *index);
extern void *wgpuDeviceCreateCommandEncoder(void *device, void const *descriptor);
extern void *wgpuCommandEncoderBeginComputePass(void *encoder, void const *descriptor);
extern void wgpuCommandEncoderClearBuffer(void *encoder, void *buffer, uint64_t offset, uint64_t size);
extern void wgpuCommandEncoderCopyBufferToBuffer(void *encoder, void *source, uint64_t from, void *destination, uint64_t to, uint64_t size);
extern void wgpuCommandEncoderWriteTimestamp(void *encoder, void *set, uint32_t index);
extern void wgpuCommandEncoderResolveQuerySet(void *encoder, void *set, uint32_t first, uint32_t count, void *destination, uint64_t offset);
extern void *wgpuCommandEncoderFinish(void *encoder, void const *descriptor);
extern void wgpuCommandEncoderRelease(void *encoder);
extern void wgpuComputePassEncoderSetPipeline(void *pass, void *pipeline);
extern void wgpuComputePassEncoderSetBindGroup(void *pass, uint32_t index, void *group, size_t offsets, uint32_t const *offset);
extern void wgpuComputePassEncoderDispatchWorkgroups(void *pass, uint32_t x, uint32_t y, uint32_t z);
extern void wgpuComputePassEncoderEnd(void *pass);
extern void wgpuComputePassEncoderRelease(void *pass);
extern void wgpuQueueSubmit(void *queue, size_t count, void *const *commands);
extern void wgpuQueueWriteBuffer(void *queue, void *buffer, uint64_t offset, void const *data, size_t size);
extern void wgpuCommandBufferRelease(void *commands);
extern void wgpuBufferMapAsync(void *buffer, uint32_t mode, size_t offset, size_t size, map_callback callback, void *userdata);
extern void *wgpuBufferGetMappedRange(void *buffer, size_t offset, size_t size);
extern void wgpuBufferUnmap(void *buffer);
extern void wgpuBufferDestroy(void *buffer);
extern void wgpuBufferRelease(void *buffer);

// failure is the first error of a device, or of a call. C owns it.
typedef struct { volatile uint32_t type; char message[1020]; } failure;

static void shim_on_error(uint32_t type, char const *message, void *userdata) {
	failure *f = userdata;
	if (type == 0 || !__sync_bool_compare_and_swap(&f->type, 0, 0x80000000u)) return;
	if (message) strncpy(f->message, message, sizeof f->message - 1);
	__sync_synchronize();
	f->type = type;
}

static failure *shim_watch(void *device) {
	failure *f = calloc(1, sizeof *f);
	wgpuDeviceSetUncapturedErrorCallback(device, shim_on_error, f);
	return f;
}

static void *shim_buffer(void *device, uint64_t size, uint32_t usage, failure *f) {
	buffer_descriptor d = {0};
	d.size = size;
	d.usage = usage;
	wgpuDevicePushErrorScope(device, 1);
	wgpuDevicePushErrorScope(device, 0);
	void *buffer = wgpuDeviceCreateBuffer(device, &d);
	wgpuDevicePopErrorScope(device, shim_on_error, f);
	wgpuDevicePopErrorScope(device, shim_on_error, f);
	return buffer;
}

static void shim_free(void *buffer) {
	wgpuBufferDestroy(buffer);
	wgpuBufferRelease(buffer);
}

// command is one step of a recording; Go builds arrays of them.
typedef struct {
	void *a, *b, *c;        // dispatch: pipeline, groups 0 and 1; clear: buffer; copy: from, to
	uint64_t from, to, size;
	uint32_t kind, x, y, z; // dispatch: workgroups
} command;

enum { dispatch, clear, copy, stamp, resolve };

static void *shim_end(void *pass) {
	if (pass) {
		wgpuComputePassEncoderEnd(pass);
		wgpuComputePassEncoderRelease(pass);
	}
	return NULL;
}

static void *shim_encode(void *device, command const *list, size_t n) {
	void *encoder = wgpuDeviceCreateCommandEncoder(device, NULL);
	void *pass = NULL, *pipeline = NULL, *group = NULL;
	for (size_t i = 0; i < n; i++) {
		command const *c = list + i;
		if (c->kind != dispatch) pass = shim_end(pass);
		switch (c->kind) {
		case dispatch:
			if (!pass) {
				struct { void const *next; char const *label; size_t stamps; void const *stamp; } d = {0};
				pass = wgpuCommandEncoderBeginComputePass(encoder, &d);
				pipeline = group = NULL;
			}
			if (pipeline != c->a) wgpuComputePassEncoderSetPipeline(pass, pipeline = c->a);
			wgpuComputePassEncoderSetBindGroup(pass, 0, c->b, 0, NULL);
			if (group != c->c) wgpuComputePassEncoderSetBindGroup(pass, 1, group = c->c, 0, NULL);
			wgpuComputePassEncoderDispatchWorkgroups(pass, c->x, c->y, c->z);
			break;
		case clear: wgpuCommandEncoderClearBuffer(encoder, c->a, c->from, c->size); break;
		case copy: wgpuCommandEncoderCopyBufferToBuffer(encoder, c->a, c->from, c->b, c->to, c->size); break;
		case stamp: wgpuCommandEncoderWriteTimestamp(encoder, c->a, c->x); break;
		case resolve: wgpuCommandEncoderResolveQuerySet(encoder, c->a, 0, c->x, c->b, 0); break;
		}
	}
	shim_end(pass);
	void *out = wgpuCommandEncoderFinish(encoder, NULL);
	wgpuCommandEncoderRelease(encoder);
	return out;
}

static void shim_submit(void *queue, void *commands) {
	wgpuQueueSubmit(queue, 1, &commands);
	wgpuCommandBufferRelease(commands);
}

static void shim_on_map(uint32_t status, void *userdata) { __atomic_store_n((uint32_t *)userdata, status + 1, __ATOMIC_RELEASE); }
static void shim_map(void *buffer, uint32_t mode, uint64_t size, uint32_t *state) {
	__atomic_store_n(state, 0, __ATOMIC_RELAXED);
	wgpuBufferMapAsync(buffer, mode, 0, size, shim_on_map, state);
}
static uint32_t shim_mapped(uint32_t *state) { return __atomic_load_n(state, __ATOMIC_ACQUIRE); }
static void shim_pause(void) {
#ifndef _WIN32
	struct timespec t = {0, 20000};
	nanosleep(&t, NULL);
#endif
}
static bool shim_poll(void *device, bool wait) { return wgpuDevicePoll(device, wait, NULL); }
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/rajveermalviya/go-webgpu/wgpu"
)

// Usage says what a buffer is for. The values are the library's.
type Usage uint32

// What buffers are for.
const (
	Storage  = Usage(wgpu.BufferUsage_Storage | wgpu.BufferUsage_CopySrc | wgpu.BufferUsage_CopyDst)
	Uniform  = Usage(wgpu.BufferUsage_Uniform | wgpu.BufferUsage_CopyDst)
	ReadBack = Usage(wgpu.BufferUsage_MapRead | wgpu.BufferUsage_CopyDst)
	Upload   = Usage(wgpu.BufferUsage_MapWrite | wgpu.BufferUsage_CopySrc)
	Queries  = Usage(wgpu.BufferUsage_QueryResolve | wgpu.BufferUsage_CopySrc)
)

// Kinds of errors that the library reports.
const (
	errorOutOfMemory = 2
	errorLost        = 5
)

var (
	// ErrMemory says that the device has no room.
	ErrMemory = errors.New("out of device memory")
	// ErrLost says that the device failed and is of no more use.
	ErrLost = errors.New("the device is lost")
)

// err returns what f holds, or nil.
func (f failure) err() error {
	t := uint32(f.p._type)
	if t == 0 {
		return nil
	}
	message := C.GoString(&f.p.message[0])
	switch t {
	case errorOutOfMemory:
		return fmt.Errorf("%w: %s", ErrMemory, message)
	case errorLost:
		return fmt.Errorf("%w: %s", ErrLost, message)
	}
	return errors.New(message)
}

// failure is C memory that an error callback writes to.
type failure struct{ p *C.failure }

// watch sets the handler of errors that no scope catches; without one the library
// ends the process.
func watch(device unsafe.Pointer) failure { return failure{C.shim_watch(device)} }

func newFailure() failure { return failure{(*C.failure)(C.calloc(1, C.sizeof_failure))} }
func (f failure) free()   { C.free(unsafe.Pointer(f.p)) }

// Buffer is memory of the device.
type Buffer struct {
	dev   *Device
	p     unsafe.Pointer
	bound wgpu.Buffer // what the binding needs of the same buffer
	Size  uint64
	state *C.uint32_t // state of a mapping, of buffers that are mapped
}

// NewBuffer makes a buffer of zeros. The error wraps ErrMemory when the device
// has no room.
func (d *Device) NewBuffer(size uint64, usage Usage) (*Buffer, error) {
	size = (size + 15) &^ 15
	f := newFailure()
	defer f.free()
	d.scopes.Lock()
	p := C.shim_buffer(d.p, C.uint64_t(size), C.uint32_t(usage), f.p)
	d.scopes.Unlock()
	if err := f.err(); err != nil {
		if p != nil {
			C.wgpuBufferRelease(p)
		}
		return nil, fmt.Errorf("make a buffer of %d bytes: %w", size, err)
	}
	b := &Buffer{dev: d, p: p, Size: size}
	*(*[2]unsafe.Pointer)(unsafe.Pointer(&b.bound)) = [2]unsafe.Pointer{d.p, p}
	if usage == ReadBack || usage == Upload {
		b.state = (*C.uint32_t)(C.calloc(1, 4))
	}
	return b, nil
}

// Free gives the memory back. No submitted command may use the buffer.
func (b *Buffer) Free() {
	C.shim_free(b.p)
	if b.state != nil {
		C.free(unsafe.Pointer(b.state))
	}
	b.p = nil
}

// Map asks for the buffer's first size bytes, to read or to write as its usage
// says. Mapped tells when they are there.
func (b *Buffer) Map(size uint64, write bool) {
	mode := C.uint32_t(wgpu.MapMode_Read)
	if write {
		mode = C.uint32_t(wgpu.MapMode_Write)
	}
	C.shim_map(b.p, mode, C.uint64_t(size), b.state)
}

// Mapped reports whether a mapping is done; the error says that it failed.
func (b *Buffer) Mapped() (bool, error) {
	switch s := uint32(C.shim_mapped(b.state)); s {
	case 0:
		return false, nil
	case 1:
		return true, nil
	default:
		return true, errors.Join(fmt.Errorf("%w: map a buffer: status %d", ErrLost, s-1), b.dev.Err())
	}
}

// Bytes returns the first size bytes of a mapped buffer, valid until Unmap.
func (b *Buffer) Bytes(size uint64) []byte {
	return unsafe.Slice((*byte)(C.wgpuBufferGetMappedRange(b.p, 0, C.size_t(size))), size)
}

// Unmap ends the mapping.
func (b *Buffer) Unmap() { C.wgpuBufferUnmap(b.p) }

// Poll lets the library make progress; wait waits for all that was submitted. It
// reports whether nothing is left.
func (d *Device) Poll(wait bool) bool { return bool(C.shim_poll(d.p, C.bool(wait))) }

// Err returns the first error that no call returned, or nil.
func (d *Device) Err() error { return d.failed.err() }

// Write copies data to a buffer before the commands that are submitted next.
// Offset and length are multiples of 4.
func (d *Device) Write(b *Buffer, offset uint64, data []byte) {
	if len(data) > 0 {
		C.wgpuQueueWriteBuffer(d.queue, b.p, C.uint64_t(offset), unsafe.Pointer(&data[0]), C.size_t(len(data)))
	}
}

// Commands is a list of commands to be encoded. The zero value is empty; Reset
// keeps its room.
type Commands struct{ list []C.command }

// Reset empties the list.
func (c *Commands) Reset() { c.list = c.list[:0] }

// Len returns the number of commands.
func (c *Commands) Len() int { return len(c.list) }

// Append adds the commands of another list.
func (c *Commands) Append(other *Commands) { c.list = append(c.list, other.list...) }

// AppendRange adds commands first to end−1 of another list.
func (c *Commands) AppendRange(other *Commands, first, end int) {
	c.list = append(c.list, other.list[first:end]...)
}

// Same reports whether two lists are the same commands.
func (c *Commands) Same(other *Commands) bool {
	if len(c.list) != len(other.list) {
		return false
	}
	for i := range c.list {
		if c.list[i] != other.list[i] {
			return false
		}
	}
	return true
}

// Dispatch runs a pipeline on x × y × z workgroups. Dispatches without another
// command between them share a compute pass.
//
// A pipeline that is still being made is nil, until SetPipeline.
func (c *Commands) Dispatch(p *Pipeline, group0, group1 *Group, x, y, z int) {
	var pipeline unsafe.Pointer
	if p != nil {
		pipeline = p.p
	}
	c.list = append(c.list, C.command{kind: C.dispatch, a: pipeline, b: group0.p, c: group1.p, x: C.uint32_t(x), y: C.uint32_t(y), z: C.uint32_t(z)})
}

// SetPipeline gives command i, a dispatch, its pipeline.
func (c *Commands) SetPipeline(i int, p *Pipeline) { c.list[i].a = p.p }

// Rebind replaces group 1 of recorded dispatches.
func (c *Commands) Rebind(old, with *Group) {
	for i := range c.list {
		if c.list[i].c == old.p {
			c.list[i].c = with.p
		}
	}
}

// Pause waits some ten microseconds.
func Pause() { C.shim_pause() }

// Clear zeroes size bytes of a buffer, both multiples of 4.
func (c *Commands) Clear(b *Buffer, offset, size uint64) {
	c.list = append(c.list, C.command{kind: C.clear, a: b.p, from: C.uint64_t(offset), size: C.uint64_t(size)})
}

// Copy copies size bytes, a multiple of 4 like the offsets.
func (c *Commands) Copy(to *Buffer, toOffset uint64, from *Buffer, fromOffset, size uint64) {
	c.list = append(c.list, C.command{kind: C.copy, a: from.p, b: to.p, from: C.uint64_t(fromOffset), to: C.uint64_t(toOffset), size: C.uint64_t(size)})
}

// Stamp writes the time at which the commands before it are done to entry i of q.
func (c *Commands) Stamp(q *QuerySet, i int) {
	c.list = append(c.list, C.command{kind: C.stamp, a: q.p, x: C.uint32_t(i)})
}

// Resolve writes the first n entries of q to a buffer, 8 bytes each.
func (c *Commands) Resolve(q *QuerySet, n int, to *Buffer) {
	c.list = append(c.list, C.command{kind: C.resolve, a: q.p, b: to.p, x: C.uint32_t(n)})
}

// Encoded is commands ready to be submitted once.
type Encoded struct{ p unsafe.Pointer }

// Encode makes commands ready.
func (d *Device) Encode(c *Commands) Encoded {
	var list *C.command
	if len(c.list) > 0 {
		list = &c.list[0]
	}
	return Encoded{C.shim_encode(d.p, list, C.size_t(len(c.list)))}
}

// Submit hands encoded commands to the device.
func (d *Device) Submit(e Encoded) { C.shim_submit(d.queue, e.p) }

// Drop frees encoded commands that will not be submitted.
func (e Encoded) Drop() { C.wgpuCommandBufferRelease(e.p) }
