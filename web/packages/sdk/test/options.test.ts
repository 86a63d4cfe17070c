import { describe, expect, test, vi } from 'vitest';
import { checkConfig, type Config } from '../src/config.js';
import { getOptimalConfig, LLMError, WebGPUStreamingInference, WebPlatformAccelerator, type ReadyReport } from '../src/index.js';
import { serverConfig } from '../src/variant.js';
import { report, words } from './scripted.js';

const thrown = (config: unknown): LLMError => {
  try {
    checkConfig(config as Config);
  } catch (e) {
    return e as LLMError;
  }
  throw new Error(`taken: ${JSON.stringify(config)}`);
};

describe('a config', () => {
  test.each([
    [{ bogus: 1 }, 'config.bogus', 'unsupported_option'],
    [{ kvCacheConfig: { bogus: 1 } }, 'config.kvCacheConfig.bogus', 'unsupported_option'],
    [{ quantization: 'int5' }, 'config.quantization', 'invalid_request_error'],
    [{ quantization: 7 }, 'config.quantization', 'invalid_request_error'],
    [{ kvCacheConfig: { bits: 5 } }, 'config.kvCacheConfig.bits', 'invalid_request_error'],
    [{ kvCacheConfig: { groupSize: 7 } }, 'config.kvCacheConfig.groupSize', 'invalid_request_error'],
    [{ kvCacheConfig: { attentionCompression: { compressionRatio: 0 } } }, 'config.kvCacheConfig.attentionCompression.compressionRatio', 'invalid_request_error'],
    [{ kvCacheConfig: 3 }, 'config.kvCacheConfig', 'invalid_request_error'],
    [{ workgroupSize: [128, 1] }, 'config.workgroupSize', 'invalid_request_error'],
    [{ fallbackPreference: ['cuda'] }, 'config.fallbackPreference', 'invalid_request_error'],
    [{ logLevel: 'loud' }, 'config.logLevel', 'invalid_request_error'],
    [{ reportIntervalMs: 0 }, 'config.reportIntervalMs', 'invalid_request_error'],
    [{ optimizeKVCache: false, kvCacheConfig: { bits: 4 } }, 'config.kvCacheConfig', 'invalid_request_error'],
    [{ optimizeKVCache: false, kvCacheOptimization: true }, 'config.kvCacheOptimization', 'invalid_request_error'],
    [{ shardId: 2, totalShards: 2 }, 'config.shardId', 'invalid_request_error'],
    [{ adaptivePrecisionConfig: { mixedPrecision: true } }, 'config.adaptivePrecisionConfig', 'invalid_request_error'],
    [{ streamingInference: 'yes' }, 'config.streamingInference', 'invalid_request_error'],
  ])('%j is refused as %s', (config, param, code) => {
    expect(thrown(config)).toMatchObject({ param, code });
  });

  test('malformed options throw where the object is made', () => {
    expect(() => new WebPlatformAccelerator({ config: { quantization: 'int9' as never } })).toThrow(LLMError);
    expect(() => new WebGPUStreamingInference({ bogus: 1 } as never)).toThrow('bogus is not an option.');
  });

  test('a transport that this platform lacks is refused at once', () => {
    vi.stubGlobal('WebSocket', undefined);
    expect(() => new WebGPUStreamingInference({ transport: 'websocket', WebSocket: undefined })).toThrow('no WebSocket');
  });

  test('fractions of a context are taken', () => {
    expect(() => checkConfig({ kvCacheConfig: { maxSeqLen: 12288.5 } })).not.toThrow();
  });
});

test('what acts here stays here, and the rest goes to the server by its own name', () => {
  const config: Config = {
    quantization: 'int4', optimizeKVCache: true, streamingInference: true, debug: true, progressiveLoading: true, totalShards: 2, shardId: 0,
    latencyOptimized: true, workgroupSize: [128, 1, 1], enableProfiling: true, adaptiveBatchSize: undefined,
  };
  expect(serverConfig(config)).toEqual({ quantization: 'int4', optimizeKVCache: true, latencyOptimized: true, workgroupSize: [128, 1, 1] });
  expect(serverConfig({ kvCacheOptimization: false })).toEqual({ kvCacheConfig: { bits: 16 } });
});

describe('ready', () => {
  const ready = (config: Config, change = {}): Promise<ReadyReport> => {
    const server = words([]);
    server.cluster = report(change);
    return new WebGPUStreamingInference({ ...server.options, modelPath: 'models/llama-7b', config }).ready();
  };

  test('describes the model, by its alias', async () => {
    expect(await ready({ kvCacheConfig: { maxSeqLen: 99.5 } })).toMatchObject({
      model: 'tiny', precision: 'int4', contextLength: 1024, kv: { maxSeqLen: 100 }, alreadyLoaded: true,
      route: [{ node: 'ada', kind: 'wasm', layers: [0, 4] }, { node: 'ada', kind: 'wasm', layers: [4, 8] }],
    });
  });

  test.each<[Config, string, string]>([
    [{ quantization: 8 }, 'variant_not_served', 'config.quantization'],
    [{ totalShards: 3 }, 'unsupported_option', 'config.totalShards'],
    [{ computeTransferOverlap: false }, 'unsupported_option', 'config.computeTransferOverlap'],
    [{ fallbackPreference: ['webgpu', 'webgl'] }, 'unsupported_option', 'config.fallbackPreference'],
    [{ fallbacks: { wasm: { threads: false } } }, 'unsupported_option', 'config.fallbacks.wasm.threads'],
    [{ fallbacks: { wasm: { simd: false } } }, 'unsupported_option', 'config.fallbacks.wasm.simd'],
    [{ fallbacks: { wasm: { memoryGrowthStrategy: 'eager' } } }, 'unsupported_option', 'config.fallbacks.wasm.memoryGrowthStrategy'],
  ])('refuses %j by name', async (config, code, param) => {
    await expect(ready(config)).rejects.toMatchObject({ code, param });
  });

  test.each<Config>([{ quantization: 'int4' }, { quantization: 4 }, { totalShards: 2, shardId: 1 }, { computeShaders: false }, { computeShaders: true }])('takes %j', async (config) => {
    expect((await ready(config)).model).toBe('tiny');
  });

  test('follows the order of kinds and says what nobody offers', async () => {
    const { skipped } = await ready({ fallbackPreference: ['webgpu', 'webnn', 'webgl', 'wasm'] });
    expect(skipped.map((s) => s.kind)).toEqual(['webgpu', 'webnn', 'webgl']);
    expect(skipped.every((s) => s.reason)).toBe(true);
  });

  test('says that options of loading had nothing to act on', async () => {
    expect((await ready({ progressiveLoading: true, parallelLoading: false })).notes.join()).toContain('progressiveLoading, parallelLoading');
  });

  test('refuses a model that is not served, and says what is', async () => {
    const server = words([]);
    await expect(new WebGPUStreamingInference({ ...server.options, modelPath: 'other' }).ready()).rejects.toMatchObject({
      code: 'model_not_found', message: expect.stringContaining('tiny'),
    });
  });

  test('refuses a type that the model cannot serve', async () => {
    await expect(new WebGPUStreamingInference({ ...words([]).options, modelType: 'audio' }).ready()).rejects.toMatchObject({ code: 'unsupported_model_type' });
  });

  test('waits for a model that loads', async () => {
    const server = words([]);
    const models = report().models;
    server.cluster = report({ models: { tiny: { ...models.tiny!, state: 'loading' } } });
    const waiting = new WebGPUStreamingInference(server.options).ready();
    await vi.waitFor(() => expect(server.addresses.length).toBe(1));
    server.cluster = report();
    expect((await waiting).alreadyLoaded).toBe(false);
  });
});

test('autoDetect fills in what was left out, and only that', async () => {
  const server = words(['a']);
  const endpoint = new WebPlatformAccelerator({ ...server.options, autoDetect: true, config: { adaptiveBatchSize: false } }).createEndpoint();
  expect(await endpoint({ text: 'x' })).toBe('a');
  expect(server.sent('generate')[0]!.config).toEqual({ quantization: 'int4', adaptiveBatchSize: false, tokenPredictionEnabled: true, latencyOptimized: true });
});

test('autoDetect does not contradict an option under its other name', async () => {
  const server = words(['a']);
  await new WebPlatformAccelerator({ ...server.options, autoDetect: true, config: { lowLatencyMode: false } }).createEndpoint()({ text: 'x' });
  expect(server.sent('generate')[0]!.config).toEqual({ quantization: 'int4', adaptiveBatchSize: true, tokenPredictionEnabled: true, lowLatencyMode: false });
});

test('getOptimalConfig is honoured by the cluster that it came from, and conservative without one', async () => {
  const server = words(['a']);
  for (const goal of ['latency', 'throughput', 'memory'] as const) {
    const config = await getOptimalConfig('models/llama-7b', 'text', { ...server.options, goal });
    await expect(new WebGPUStreamingInference({ ...server.options, config }).generate({ prompt: 'x' })).resolves.toMatchObject({ text: 'a' });
  }
  const away = (async () => { throw new TypeError('away'); }) as typeof fetch;
  expect(await getOptimalConfig('x', 'text', { fetch: away })).toEqual({ streamingInference: true, adaptiveBatchSize: true });
});
