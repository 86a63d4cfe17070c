import { getCluster } from './cluster.js';
import { kindOf } from './variant.js';
import type { Where } from './where.js';

/** Capabilities are the truth about this platform, by probing it, and what the cluster offers. */
export interface Capabilities {
  /** name and version of the browser, or of node, deno or bun */
  browser: string;
  version: string;
  webgpu: { available: boolean; computeShaders: boolean; adapter?: string; f16: boolean; limits?: Record<string, number>; reason?: string };
  webnn: { available: boolean };
  webgl: { available: boolean; version: number; renderer?: string };
  wasm: { available: boolean; simd: boolean; threads: boolean };
  transports: { websocket: boolean; streamingFetch: boolean };
  memoryGB?: number;
  cores: number;
  deviceClass: 'high-end' | 'mid-range' | 'low-end';
  mobile: boolean;
  /** what this platform could compute with, best first; models are computed by the cluster all the same */
  fallbackOrder: ('webgpu' | 'webnn' | 'webgl' | 'wasm')[];
  compute: 'cluster';
  cluster?: { devices: { node: string; kind: string; name: string; memoryBytes: number }[]; variants: { model: string; precision: string }[]; };
}

/** detect probes this platform and asks the server; it never rejects. */
export async function detect(where: Where): Promise<Capabilities> {
  const nav = globalThis.navigator as (Navigator & { deviceMemory?: number; ml?: unknown; gpu?: GPULike }) | undefined;
  const [webgpu, cluster] = await Promise.all([probeWebGPU(nav?.gpu), clusterOf(where)]);
  const webnn = { available: await probeWebNN(nav?.ml) };
  const webgl = probeWebGL();
  const wasm = probeWasm();
  const cores = nav?.hardwareConcurrency ?? 1;
  const memoryGB = nav?.deviceMemory;
  const order = (['webgpu', 'webnn', 'webgl', 'wasm'] as const).filter((k) => ({ webgpu, webnn, webgl, wasm })[k].available);
  return {
    ...whoAmI(nav?.userAgent ?? ''),
    webgpu, webnn, webgl, wasm,
    transports: { websocket: typeof WebSocket !== 'undefined', streamingFetch: typeof ReadableStream !== 'undefined' && typeof fetch === 'function' },
    memoryGB, cores,
    deviceClass: classOf(memoryGB ?? 4, cores, webgpu.available),
    mobile: /Mobile|Android|iPhone|iPad/.test(nav?.userAgent ?? ''),
    fallbackOrder: order,
    compute: 'cluster',
    cluster,
  };
}

/** whoAmI names the browser by its own words; Chromium's relatives call themselves Chrome too, so they come first. */
export function whoAmI(agent: string): { browser: string; version: string } {
  const g = globalThis as { Deno?: { version: { deno: string } }; Bun?: { version: string }; process?: { versions?: { node?: string } } };
  if (g.Deno) return { browser: 'deno', version: g.Deno.version.deno };
  if (g.Bun) return { browser: 'bun', version: g.Bun.version };
  const known: [string, RegExp][] = [
    ['Edge', /Edg(?:A|iOS)?\/([\d.]+)/], ['Opera', /OPR\/([\d.]+)/], ['Firefox', /(?:Firefox|FxiOS)\/([\d.]+)/],
    ['Chrome', /(?:HeadlessChrome|Chrome|CriOS)\/([\d.]+)/], ['Safari', /Version\/([\d.]+).*Safari/],
  ];
  for (const [browser, pattern] of known) {
    const found = pattern.exec(agent);
    if (found) return { browser, version: found[1]! };
  }
  const node = g.process?.versions?.node;
  return node ? { browser: 'node', version: node } : { browser: 'unknown', version: '' };
}

function classOf(memoryGB: number, cores: number, gpu: boolean): Capabilities['deviceClass'] {
  if (memoryGB >= 8 && cores >= 8 && gpu) return 'high-end';
  return memoryGB >= 4 && cores >= 4 ? 'mid-range' : 'low-end';
}

async function clusterOf(where: Where): Promise<Capabilities['cluster']> {
  try {
    const c = await getCluster(where);
    return {
      devices: Object.entries(c.nodes).flatMap(([node, n]) => n.devices.map(({ kind, name, memoryBytes }) => ({ node, kind: kindOf(kind), name, memoryBytes }))),
      variants: Object.entries(c.models).map(([model, { precision }]) => ({ model, precision })),
    };
  } catch {
    return undefined;
  }
}

/** The part of WebGPU that the probe needs; not every TypeScript library declares it. */
interface GPULike {
  requestAdapter(): Promise<{ features: Set<string>; limits: Record<string, number>; info?: { description?: string; vendor?: string }; requestDevice(): Promise<GPUDeviceLike> } | null>;
}
interface GPUDeviceLike {
  createShaderModule(d: object): unknown;
  createComputePipelineAsync(d: object): Promise<{ getBindGroupLayout(i: number): unknown }>;
  createBuffer(d: object): { mapAsync(mode: number): Promise<void>; getMappedRange(): ArrayBuffer };
  createBindGroup(d: object): unknown;
  createCommandEncoder(): {
    beginComputePass(): { setPipeline(p: unknown): void; setBindGroup(i: number, g: unknown): void; dispatchWorkgroups(n: number): void; end(): void };
    copyBufferToBuffer(...a: unknown[]): void;
    finish(): unknown;
  };
  queue: { submit(list: unknown[]): void };
  destroy(): void;
}

const limits = ['maxBufferSize', 'maxStorageBufferBindingSize', 'maxComputeWorkgroupSizeX', 'maxComputeInvocationsPerWorkgroup'];

async function probeWebGPU(gpu: GPULike | undefined): Promise<Capabilities['webgpu']> {
  const none = { available: false, computeShaders: false, f16: false };
  if (!gpu) return { ...none, reason: 'this browser has no WebGPU, or it is turned off' };
  try {
    const adapter = await gpu.requestAdapter();
    if (!adapter) return { ...none, reason: 'no graphics adapter may be used' };
    const device = await adapter.requestDevice();
    const computeShaders = await computes(device).catch(() => false);
    device.destroy();
    return {
      available: true, computeShaders, f16: adapter.features.has('shader-f16'),
      adapter: adapter.info?.description || adapter.info?.vendor || 'unnamed',
      limits: Object.fromEntries(limits.map((l) => [l, adapter.limits[l]!])),
    };
  } catch (e) {
    return { ...none, reason: String(e) };
  }
}

/** computes runs a shader that doubles a number, and looks at the result. */
async function computes(device: GPUDeviceLike): Promise<boolean> {
  const code = '@group(0) @binding(0) var<storage, read_write> x: array<u32>; @compute @workgroup_size(1) fn main() { x[0] = x[0] * 2u + 42u; }';
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module: device.createShaderModule({ code }), entryPoint: 'main' } });
  const made = device.createBuffer({ size: 4, usage: 0x80 | 0x04 }); // STORAGE, COPY_SRC
  const read = device.createBuffer({ size: 4, usage: 0x01 | 0x08 }); // MAP_READ, COPY_DST
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer: made } }] }));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(made, 0, read, 0, 4);
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(1);
  return new Uint32Array(read.getMappedRange())[0] === 42;
}

async function probeWebNN(ml: unknown): Promise<boolean> {
  try {
    return Boolean(ml && (await (ml as { createContext(): Promise<unknown> }).createContext()));
  } catch {
    return false;
  }
}

function probeWebGL(): Capabilities['webgl'] {
  try {
    const canvas = typeof OffscreenCanvas === 'undefined' ? document.createElement('canvas') : new OffscreenCanvas(1, 1);
    const gl = canvas.getContext('webgl2') as WebGL2RenderingContext | null;
    const old = gl ?? (canvas.getContext('webgl') as WebGLRenderingContext | null);
    if (!old) return { available: false, version: 0 };
    const named = old.getExtension('WEBGL_debug_renderer_info');
    return { available: true, version: gl ? 2 : 1, renderer: String(old.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : old.RENDERER)) };
  } catch {
    return { available: false, version: 0 };
  }
}

/** A function that makes a vector and takes a lane of it. */
const simdModule = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];
/** A memory that is shared, and an atomic load from it. */
const threadsModule = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 5, 4, 1, 3, 1, 1, 10, 11, 1, 9, 0, 65, 0, 254, 16, 2, 0, 26, 11,
];

function probeWasm(): Capabilities['wasm'] {
  if (typeof WebAssembly === 'undefined') return { available: false, simd: false, threads: false };
  const valid = (bytes: number[]) => WebAssembly.validate(new Uint8Array(bytes));
  return { available: true, simd: valid(simdModule), threads: typeof SharedArrayBuffer !== 'undefined' && valid(threadsModule) };
}
