//go:build cgo

package vram

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// What of the Vulkan 1.0 interface is needed here, as its specification lays it
// out: https://registry.khronos.org/vulkan/specs/1.0/html/vkspec.html

typedef void *instance_t;
typedef void *physical_t;

typedef struct {
	uint32_t type; // VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO is 1
	const void *next;
	uint32_t flags;
	const void *application;
	uint32_t layers;
	const char *const *layer_names;
	uint32_t extensions;
	const char *const *extension_names;
} instance_info_t;

typedef struct {
	uint32_t api, driver, vendor, device, kind;
	char name[256];
	char rest[1024]; // the cache's id, limits and sparse properties
} properties_t;

typedef struct {
	uint32_t types;
	struct { uint32_t flags, heap; } type[32];
	uint32_t heaps;
	struct { uint64_t size; uint32_t flags; } heap[16];
} memory_t;

typedef struct {
	char name[256];
	uint32_t vendor, device;
	uint64_t bytes;
} found_t;

enum { device_local = 1 };

// list_devices fills at most `most` entries and returns how many there are; -1
// where there is no Vulkan.
static int list_devices(found_t *out, int most) {
	void *lib = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!lib) return -1;
	int32_t (*create)(const instance_info_t *, const void *, instance_t *) = dlsym(lib, "vkCreateInstance");
	void (*destroy)(instance_t, const void *) = dlsym(lib, "vkDestroyInstance");
	int32_t (*enumerate)(instance_t, uint32_t *, physical_t *) = dlsym(lib, "vkEnumeratePhysicalDevices");
	void (*properties)(physical_t, properties_t *) = dlsym(lib, "vkGetPhysicalDeviceProperties");
	void (*memory)(physical_t, memory_t *) = dlsym(lib, "vkGetPhysicalDeviceMemoryProperties");
	instance_t instance = NULL;
	instance_info_t info = { .type = 1 };
	if (!create || !destroy || !enumerate || !properties || !memory || create(&info, NULL, &instance) != 0) return -1;
	physical_t devices[64];
	uint32_t count = 64;
	int n = 0;
	if (enumerate(instance, &count, devices) >= 0) { // VK_INCOMPLETE is above 0
		for (uint32_t i = 0; i < count && n < most; i++, n++) {
			properties_t p;
			memory_t m;
			memset(&p, 0, sizeof p);
			memset(&m, 0, sizeof m);
			properties(devices[i], &p);
			memory(devices[i], &m);
			memcpy(out[n].name, p.name, sizeof p.name);
			out[n].name[sizeof p.name - 1] = 0;
			out[n].vendor = p.vendor;
			out[n].device = p.device;
			out[n].bytes = 0;
			for (uint32_t h = 0; h < m.heaps && h < 16; h++) {
				if ((m.heap[h].flags & device_local) && m.heap[h].size > out[n].bytes) out[n].bytes = m.heap[h].size;
			}
		}
	}
	destroy(instance, NULL);
	return n; // the library stays: drivers do not like to be unloaded
}
*/
import "C"

// List returns the GPUs of this machine; none where there is no Vulkan.
func List() []Device {
	const most = 64
	var found [most]C.found_t
	n := int(C.list_devices(&found[0], most))
	var out []Device
	for i := range max(n, 0) {
		f := &found[i]
		out = append(out, Device{C.GoString(&f.name[0]), uint32(f.vendor), uint32(f.device), uint64(f.bytes)})
	}
	return out
}
