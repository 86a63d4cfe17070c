import { malformed, LLMError } from './errors.js';

export type Precision = 'fp16' | 'int8' | 'int4' | 'int3' | 'int2' | 'adaptive' | 16 | 8 | 4 | 3 | 2;
export type DeviceKind = 'webgpu' | 'webnn' | 'webgl' | 'wasm';
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';

/** KVCacheConfig is how a session's KV cache is kept. */
export interface KVCacheConfig {
  bits?: 2 | 3 | 4 | 8 | 16;
  groupSize?: 32 | 64 | 128;
  maxSeqLen?: number;
  progressivePrecision?: boolean;
  attentionCompression?: { enabled?: boolean; compressionRatio?: 4 | 8; compressTokensOlderThan?: number };
}

/** AdaptivePrecisionConfig chooses a precision per component. */
export interface AdaptivePrecisionConfig {
  mixedPrecision?: boolean;
  layerPrecisions?: { embedding?: number; attention?: number; feedforward?: number; lmhead?: number };
  dynamicAdaptation?: boolean;
  kvCacheMixedPrecision?: boolean;
}

/** Config holds the options of a model's service; each is honoured or refused by name. */
export interface Config {
  // weights and variants
  quantization?: Precision;
  adaptivePrecisionConfig?: AdaptivePrecisionConfig;
  reducedModelSize?: boolean;
  visionModelPath?: string;
  shardId?: number;
  totalShards?: number;
  computeShaders?: boolean;
  // KV cache and context
  optimizeKVCache?: boolean;
  kvCacheOptimization?: boolean;
  kvCacheConfig?: KVCacheConfig;
  contextCompressionEnabled?: boolean;
  contextCompressionRatio?: 4 | 8;
  streamingChunkSize?: number;
  // scheduling
  streamingInference?: boolean;
  latencyOptimized?: boolean;
  lowLatencyMode?: boolean;
  adaptiveBatchSize?: boolean;
  computeTransferOverlap?: boolean;
  tokenPredictionEnabled?: boolean;
  memoryOptimizedMode?: boolean;
  // loading and kernels
  progressiveLoading?: boolean;
  parallelLoading?: boolean;
  shaderPrecompilation?: boolean;
  parallelCompilation?: boolean;
  workgroupSize?: [number, number, number];
  computeShaderOptimization?: string;
  metalOptimizations?: boolean;
  fallbackPreference?: DeviceKind[];
  fallbackToWebGL?: boolean;
  fallbacks?: {
    webgl?: { precision?: Precision; optimizations?: string[] };
    wasm?: { threads?: boolean; simd?: boolean; memoryGrowthStrategy?: string };
  };
  // profiling and debugging
  enableProfiling?: boolean;
  profilingDetail?: 'low' | 'medium' | 'high';
  collectLayerTiming?: boolean;
  trackMemoryUsage?: boolean;
  reportIntervalMs?: number;
  debug?: boolean;
  logLevel?: LogLevel;
  debugInference?: boolean;
  debugTokens?: boolean;
}

/** A rule says what a value must be, or has the rules of an object's members. */
type Rule = { must: string; holds(v: unknown): boolean } | { members: Record<string, Rule> };

const oneOf = (...values: unknown[]): Rule => ({
  must: `must be one of ${values.map((v) => JSON.stringify(v)).join(', ')}`,
  holds: (v) => values.includes(v),
});
const flag: Rule = { must: 'must be true or false', holds: (v) => typeof v === 'boolean' };
const text: Rule = { must: 'must be a string that is not empty', holds: (v) => typeof v === 'string' && v !== '' };
const from = (least: number, whole = true): Rule => ({
  must: `must be a ${whole ? 'whole ' : ''}number of at least ${least}`,
  holds: (v) => typeof v === 'number' && v >= least && Number.isFinite(v) && (!whole || Number.isInteger(v)),
});
const listOf = (rule: { must: string; holds(v: unknown): boolean }, what: string): Rule => ({
  must: `must be a list of ${what}`,
  holds: (v) => Array.isArray(v) && v.every((x) => rule.holds(x)),
});
const group = (members: Record<string, Rule>): Rule => ({ members });

const precision = oneOf('fp16', 'int8', 'int4', 'int3', 'int2', 'adaptive', 16, 8, 4, 3, 2);
const width = oneOf(2, 3, 4, 8, 16);
const kinds: DeviceKind[] = ['webgpu', 'webnn', 'webgl', 'wasm'];

const rules: Record<keyof Config, Rule> = {
  quantization: precision,
  adaptivePrecisionConfig: group({
    mixedPrecision: flag,
    layerPrecisions: group({ embedding: width, attention: width, feedforward: width, lmhead: width }),
    dynamicAdaptation: flag,
    kvCacheMixedPrecision: flag,
  }),
  reducedModelSize: flag,
  visionModelPath: text,
  shardId: from(0),
  totalShards: from(1),
  computeShaders: flag,
  optimizeKVCache: flag,
  kvCacheOptimization: flag,
  kvCacheConfig: group({
    bits: width,
    groupSize: oneOf(32, 64, 128),
    maxSeqLen: from(1, false),
    progressivePrecision: flag,
    attentionCompression: group({ enabled: flag, compressionRatio: oneOf(4, 8), compressTokensOlderThan: from(0) }),
  }),
  contextCompressionEnabled: flag,
  contextCompressionRatio: oneOf(4, 8),
  streamingChunkSize: from(1),
  streamingInference: flag,
  latencyOptimized: flag,
  lowLatencyMode: flag,
  adaptiveBatchSize: flag,
  computeTransferOverlap: flag,
  tokenPredictionEnabled: flag,
  memoryOptimizedMode: flag,
  progressiveLoading: flag,
  parallelLoading: flag,
  shaderPrecompilation: flag,
  parallelCompilation: flag,
  workgroupSize: { must: 'must be three numbers of at least 1', holds: (v) => Array.isArray(v) && v.length === 3 && v.every((n) => Number.isInteger(n) && n > 0) },
  computeShaderOptimization: text,
  metalOptimizations: flag,
  fallbackPreference: listOf({ must: '', holds: (v) => kinds.includes(v as DeviceKind) }, kinds.join(', ')),
  fallbackToWebGL: flag,
  fallbacks: group({
    webgl: group({ precision, optimizations: listOf({ must: '', holds: (v) => typeof v === 'string' }, 'names') }),
    wasm: group({ threads: flag, simd: flag, memoryGrowthStrategy: oneOf('conservative', 'eager') }),
  }),
  enableProfiling: flag,
  profilingDetail: oneOf('low', 'medium', 'high'),
  collectLayerTiming: flag,
  trackMemoryUsage: flag,
  reportIntervalMs: from(10),
  debug: flag,
  logLevel: oneOf('error', 'warn', 'info', 'debug'),
  debugInference: flag,
  debugTokens: flag,
};

/**
 * checkConfig throws an LLMError that names the first key which is unknown,
 * malformed, or contradicts another.
 */
export function checkConfig(config: Config): void {
  check('config', config, { members: rules });
  const kv = config.optimizeKVCache ?? config.kvCacheOptimization;
  if (config.optimizeKVCache !== undefined && config.kvCacheOptimization !== undefined && config.optimizeKVCache !== config.kvCacheOptimization)
    throw malformed('config.kvCacheOptimization', 'contradicts optimizeKVCache, which means the same');
  if (kv === false && config.kvCacheConfig) throw malformed('config.kvCacheConfig', 'contradicts optimizeKVCache: false');
  if (config.shardId !== undefined && !(config.shardId < (config.totalShards ?? 0)))
    throw malformed('config.shardId', 'must be below totalShards');
  if (config.adaptivePrecisionConfig?.mixedPrecision && config.quantization !== 'adaptive')
    throw malformed('config.adaptivePrecisionConfig', 'needs quantization: "adaptive"');
}

function check(path: string, value: unknown, rule: Rule): void {
  if ('holds' in rule) {
    if (!rule.holds(value)) throw malformed(path, rule.must);
    return;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed(path, 'must be an object');
  for (const [key, member] of Object.entries(value)) {
    if (!Object.hasOwn(rule.members, key))
      throw new LLMError(`${path}.${key} is not an option.`, { code: 'unsupported_option', param: `${path}.${key}` });
    if (member !== undefined) check(`${path}.${key}`, member, rule.members[key]!);
  }
}

/** precisionName is the name of a class of weights: 4 means "int4", 16 "fp16". */
export function precisionName(p: Precision): string {
  if (typeof p === 'string') return p;
  return p === 16 ? 'fp16' : `int${p}`;
}
