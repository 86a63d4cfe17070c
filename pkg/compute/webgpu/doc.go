// Package webgpu computes on GPUs through WebGPU: Vulkan, Metal or DX12.
package webgpu
