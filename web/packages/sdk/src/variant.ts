import type { ClusterReport } from './cluster.js';
import type { Config, DeviceKind } from './config.js';

/** KVInfo is what the KV cache of a session can hold. */
export interface KVInfo {
  /** positions of prompt and answer together */
  maxSeqLen: number;
}

/** StageInfo is one stage of the pipeline that answers. */
export interface StageInfo {
  node: string;
  device: number;
  kind: DeviceKind;
  deviceName: string;
  /** layers [first, end) */
  layers: [number, number];
}

/** ReadyReport says which variant of a model serves an object, and what its options did. */
export interface ReadyReport {
  model: string;
  precision: string;
  kv: KVInfo;
  contextLength: number;
  route: StageInfo[];
  vision?: string;
  /** the model served before this object asked, so options of loading had nothing to act on */
  alreadyLoaded: boolean;
  /** kinds of devices that were preferred and that nobody offers */
  skipped: { kind: string; reason: string }[];
  notes: string[];
  /** what was waited for, in milliseconds since ready was called */
  load: { waitedMs: number };
}

/** kindOf names a device the way options do: a CPU is what WebAssembly would be in a browser. */
export function kindOf(device: string | undefined): DeviceKind {
  return device === undefined || device === 'cpu' ? 'wasm' : 'webgpu';
}

/** Options of how a model is loaded. */
export const loading = ['progressiveLoading', 'parallelLoading', 'shaderPrecompilation', 'parallelCompilation'] as const;

/** Options that act here; all others go to the server, which honours or refuses them. */
const settled = new Set<string>([
  ...loading,
  'streamingInference', 'reportIntervalMs', 'logLevel', 'debug', 'debugInference', 'debugTokens', 'enableProfiling',
  'profilingDetail', 'trackMemoryUsage', 'shardId', 'totalShards', 'computeShaders', 'fallbackPreference', 'fallbackToWebGL',
  'fallbacks', 'metalOptimizations', 'reducedModelSize', 'computeTransferOverlap',
]);

/** serverConfig is the part of a config that a generate frame carries. */
export function serverConfig(config: Config): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(config)) if (value !== undefined && !settled.has(key)) out[key] = value;
  for (const off of ['optimizeKVCache', 'kvCacheOptimization'])
    if (out[off] === false) {
      delete out[off];
      out.kvCacheConfig = { bits: 16 };
    }
  if (out.contextCompressionEnabled === false) delete out.contextCompressionEnabled;
  if (out.collectLayerTiming === false) delete out.collectLayerTiming;
  return out;
}

/** deviceKind is the kind of the device that a stage is on. */
export function deviceKind(cluster: ClusterReport, stage: { node: string; device: number }): DeviceKind {
  return kindOf(cluster.nodes[stage.node]?.devices.find((d) => d.index === stage.device)?.kind);
}
