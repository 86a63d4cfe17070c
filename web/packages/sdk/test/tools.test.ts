import { expect, test, vi } from 'vitest';
import { whoAmI } from '../src/capabilities.js';
import { Chat } from '../src/chat.js';
import { merge } from '../src/cluster.js';
import { watchCluster, WebGPUStreamingInference, WebPlatformAccelerator } from '../src/index.js';
import { accepted, complete, Scripted, timings, tokens, usage, words } from './scripted.js';

// The examples of RFC 7396, appendix A.
test.each([
  [{ a: 'b' }, { a: 'c' }, { a: 'c' }], [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }], [{ a: 'b' }, { a: null }, {}],
  [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }], [{ a: ['b'] }, { a: 'c' }, { a: 'c' }], [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
  [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }], [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
  [['a', 'b'], ['c', 'd'], ['c', 'd']], [{ a: 'b' }, ['c'], ['c']], [{ a: 'foo' }, null, null], [{ a: 'foo' }, 'bar', 'bar'],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }], [[1, 2], { a: 'b', c: null }, { a: 'b' }], [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
])('merge %j with %j', (target, patch, want) => {
  const before = JSON.stringify(target);
  expect(merge(target, patch)).toEqual(want);
  expect(JSON.stringify(target)).toBe(before);
});

test('watchCluster keeps the document true', async () => {
  class Socket {
    static last: Socket;
    onopen?: () => void;
    onmessage?: (e: { data: string }) => void;
    onclose?: () => void;
    constructor() {
      Socket.last = this;
    }
    close() {}
  }
  const seen: unknown[] = [];
  const connected: boolean[] = [];
  vi.spyOn(Math, 'random').mockReturnValue(0);
  const end = watchCluster({ url: 'http://w.test', WebSocket: Socket as never }, { onReport: (r) => seen.push(r), onConnected: (c) => connected.push(c) });
  await vi.waitFor(() => expect(Socket.last).toBeDefined());
  const first = Socket.last;
  first.onopen!();
  first.onmessage!({ data: JSON.stringify({ type: 'snapshot', cluster: { epoch: 1, nodes: { a: 1 } } }) });
  first.onmessage!({ data: JSON.stringify({ type: 'delta', patch: { epoch: 2, nodes: { a: null, b: 1 } } }) });
  first.onclose!();
  await vi.waitFor(() => expect(Socket.last).not.toBe(first));
  end();
  expect(seen).toEqual([{ epoch: 1, nodes: { a: 1 } }, { epoch: 2, nodes: { b: 1 } }]);
  expect(connected).toEqual([true, false]);
});

test('a profile shares out the time of the answer', async () => {
  const slow = { ...timings, queueMs: 1, promptMs: 200, predictedMs: 50 };
  const server = new Scripted((f, c) => c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a', 'b']), complete(f.id!, { timings: slow })));
  const s = new WebGPUStreamingInference({ ...server.options, config: { adaptiveBatchSize: false } });
  void s.generate({ prompt: 'x' });
  const profile = await s.getPerformanceProfile(); // waits for the answer
  expect(profile).toMatchObject({ tokens: 2, prefillMs: 200, decodeMs: 50, stages: [{ node: 'ada', ms: 2 }, { ms: 2 }], hops: [{ from: 'ada', to: 'ada', ms: 0.5 }] });
  const found = profile.findBottlenecks();
  expect(found[0]).toMatchObject({ kind: 'prefill', ms: 200 });
  expect(found.reduce((n, b) => n + b.share, 0)).toBeCloseTo(1);
  expect(found.map((b) => b.ms)).toEqual(found.map((b) => b.ms).sort((a, b) => b - a));
  const suggestions = profile.generateOptimizationSuggestions();
  expect(suggestions.apply({ modelPath: 'x', modelType: 'text' })).toMatchObject({ adaptiveBatchSize: true });
});

test('profilingCallback needs enableProfiling, and then is called', async () => {
  const plain = new WebGPUStreamingInference(words(['a']).options);
  await expect(plain.generate({ prompt: 'x', profilingCallback: () => {} })).rejects.toMatchObject({ code: 'unsupported_option', param: 'profilingCallback' });
  const updates: { tokens: number; memory?: unknown[] }[] = [];
  const s = new WebGPUStreamingInference({ ...words(['a', 'b']).options, config: { enableProfiling: true, trackMemoryUsage: true } });
  await s.generate({ prompt: 'x', profilingCallback: (u) => updates.push(u) });
  await vi.waitFor(() => expect(updates.length).toBeGreaterThan(0));
  expect(updates.at(-1)).toMatchObject({ tokens: 2, stages: [{ ms: 2 }, { ms: 2 }], memory: [{ weightBytes: 2 << 20 }, {}] });
});

test('memory is what the stages say', async () => {
  const m = await new WebGPUStreamingInference({ ...words(['a']).options }).measureMemoryUsage({ prompt: 'x', maxTokens: 1 });
  expect(m).toMatchObject({ peakWebGPUBufferMB: 0, peakCPUBufferMB: 8, modelWeightsMB: 4, kvCacheMB: 2 / 64 });
  expect(m.originalFP16MB).toBe(16 + 2 / 64);
  expect(m.memoryReductionPercent).toBeCloseTo(100 * (1 - (4 + 2 / 64) / (16 + 2 / 64)));
  const shard = await new WebGPUStreamingInference({ ...words(['a']).options, config: { totalShards: 2, shardId: 1 } }).measureMemoryUsage({ prompt: 'x' });
  expect(shard.modelWeightsMB).toBe(2);
});

test('debug callbacks and log tell what happens, without secrets', async () => {
  const server = new Scripted((f, c) => c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['hello'], { tokenId: 7, logprob: { logprob: Math.log(0.5) } }), complete(f.id!)));
  const quiet = vi.spyOn(console, 'debug').mockReturnValue();
  vi.spyOn(console, 'info').mockReturnValue();
  const s = new WebGPUStreamingInference({ ...server.options, apiKey: 'hidden-key', config: { debug: true, logLevel: 'debug', debugInference: true, debugTokens: true } });
  const heard: Record<string, unknown[]> = { step: [], memory: [], token: [] };
  s.setDebugCallbacks({ onInferenceStep: (x) => heard.step!.push(x.name), onMemoryAllocation: (x) => heard.memory!.push(x.purpose), onTokenGeneration: (x) => heard.token!.push(x) });
  await s.generate({ prompt: 'x' });
  expect(server.sent('generate')[0]).toMatchObject({ tokenIds: true, logprobs: true });
  expect(heard.step).toEqual(['queue', 'decode']);
  expect(heard.token).toEqual([{ token: 'hello', tokenId: 7, probability: 0.5 }]);
  await vi.waitFor(() => expect(heard.memory!.length).toBe(6));
  expect(s.exportDebugLog()).toContain('hello');
  expect(s.exportDebugLog()).not.toContain('hidden-key');
  expect(quiet).toHaveBeenCalled();
  expect(s.getDebugInfo()).toMatchObject({ transport: 'websocket', reconnects: 0, ready: { model: 'tiny' } });
});

test('without debugTokens the log has no text', async () => {
  const s = new WebGPUStreamingInference({ ...words(['private']).options, config: { logLevel: 'debug' } });
  await s.generate({ prompt: 'private too' });
  expect(s.exportDebugLog()).toContain('generate');
  expect(s.exportDebugLog()).not.toContain('private');
});

test('a benchmark measures what is served and says what is not', async () => {
  const server = new Scripted((f, c) => {
    const config = (f.config ?? {}) as { workgroupSize?: unknown };
    if (config.workgroupSize) return c.send({ type: 'error', id: f.id, code: 'unsupported_option', message: 'No.', param: 'config.workgroupSize' });
    c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a', 'b']), { ...usage, id: f.id }, complete(f.id!));
  });
  const steps: number[] = [];
  const b = await WebPlatformAccelerator.runBenchmark({
    ...server.options, transport: 'sse', precisions: ['int2', 'int4'], features: { adaptiveBatchSize: [true, false], workgroupSize: [[64, 1, 1]] as never },
    promptLengths: [4, 5_000], generateLengths: [2], iterations: 2, onProgress: (done) => steps.push(done),
  });
  expect(b.precisions).toEqual(['int4']);
  expect(b.runs.length).toBe(4);
  expect(b.skipped.map((s) => s.what)).toEqual(['int2', 'workgroupSize: [64,1,1]', '5000 tokens in, 2 out']);
  expect(b.results.int4).toMatchObject({ optimalConfig: { quantization: 'int4' }, memoryMB: expect.any(Number), peakMemoryMB: 8 });
  expect(steps).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(`${b.getRecommendation()}`).toContain('int4 is the only precision served');
});

test('diagnostics never reject, and fixes say what they did', async () => {
  const away = (async () => { throw new TypeError('away'); }) as typeof fetch;
  const without = await WebPlatformAccelerator.runDiagnostics({ url: 'http://away.test', fetch: away });
  expect(without.issues.map((i) => i.id)).toContain('server_unreachable');
  expect(without.estimatedAvailableMemoryMB).toBe(0);
  const server = words(['a']);
  const d = await WebPlatformAccelerator.runDiagnostics({ ...server.options, features: ['wasm', 'streaming'], reportLevel: 'detailed' });
  expect(d.checks!.map((c) => c.name)).toContain('first token');
  expect(d).toMatchObject({ estimatedAvailableMemoryMB: 1016, wasmSupport: 'full' });
  expect(d.issues.every((i) => i.description && i.recommendedAction)).toBe(true);
  expect([...d.fixableIssues, ...d.manualFixIssues].length).toBe(d.issues.length);
  const broken = { id: 'websocket_blocked', status: 'warning', description: '', recommendedAction: '', fixable: true, where: { url: 'http://fix.test' } } as const;
  const fixes = await WebPlatformAccelerator.applyAutomaticFixes([broken, { ...broken, id: 'memory', fixable: false }]);
  expect(fixes.map((f) => f.applied)).toEqual([true, false]);
  const fixed = new WebGPUStreamingInference({ url: 'http://fix.test', WebSocket: server.WebSocket });
  expect(fixed.getDebugInfo().transport).toBe('sse');
});

test('capabilities are of this platform', async () => {
  const c = await WebPlatformAccelerator.detectCapabilities(words([]).options);
  expect(c).toMatchObject({ browser: 'node', compute: 'cluster', wasm: { simd: true, threads: true }, cluster: { variants: [{ model: 'tiny', precision: 'int4' }] } });
});

test.each([
  ['Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36', 'Chrome', '140.0.0.0'],
  ['Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.3485.54', 'Edge', '140.0.3485.54'],
  ['Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0', 'Firefox', '142.0'],
  ['Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15', 'Safari', '18.6'],
])('%s is %s', (agent, browser, version) => {
  expect(whoAmI(agent)).toEqual({ browser, version });
});

test('streamWebsocket writes the plain protocol', async () => {
  const sent: Record<string, unknown>[] = [];
  const ws = { send: (m: string) => sent.push(JSON.parse(m) as never), on: () => {} };
  await new WebGPUStreamingInference(words(['a', 'b']).options).streamWebsocket(ws, 'x', 5, 0.5);
  expect(sent).toEqual([
    { type: 'token', token: 'a', seq: 1 }, { type: 'token', token: 'b', seq: 2 },
    { type: 'complete', text: 'ab', finishReason: 'length', usage: expect.any(Object), timings: expect.any(Object), model: 'tiny', precision: 'int4', requestId: 'r1' },
  ]);
});

test('streamWebsocket tells its client of an error and does not reject', async () => {
  const server = new Scripted((f, c) => c.send({ type: 'error', id: f.id, code: 'no_capacity', message: 'Full.' }));
  const sent: Record<string, unknown>[] = [];
  const r = await new WebGPUStreamingInference(server.options).streamWebsocket({ send: (m) => sent.push(JSON.parse(m) as never) }, 'x');
  expect(sent).toMatchObject([{ type: 'error', code: 'no_capacity' }]);
  expect(r.error).toMatchObject({ code: 'no_capacity' });
});

test('streamWebsocket stops when its client leaves', async () => {
  const server = new Scripted((f, c) => {
    if (f.type === 'generate') c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a']));
    if (f.type === 'stop') c.send({ type: 'stopped', id: f.id, reason: 'client' });
  });
  let leave = () => {};
  const ws = { send: () => leave(), on: (_: 'close', f: () => void) => (leave = f) };
  const r = await new WebGPUStreamingInference(server.options).streamWebsocket(ws, 'x');
  expect(r).toMatchObject({ finishReason: 'stopped', text: 'a' });
  expect(server.sent('stop').length).toBe(1);
});

test('a chat keeps its conversation', async () => {
  const server = new Scripted((f, c) => {
    const { length } = f.messages as unknown[];
    c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, [`answer to ${length}`], { last: true }), complete(f.id!));
  });
  const ends: boolean[] = [];
  const chat = new Chat({ ...server.options, onFinish: (e) => ends.push(e.isError) });
  const states: string[] = [];
  chat.subscribe(() => states.push(chat.snapshot().status));
  await chat.sendMessage('one');
  await chat.sendMessage({ text: 'two' });
  expect(chat.snapshot().messages.map((m) => m.content)).toEqual(['one', 'answer to 1', 'two', 'answer to 3']);
  await chat.regenerate();
  expect(chat.snapshot().messages.map((m) => m.content)).toEqual(['one', 'answer to 1', 'two', 'answer to 3']);
  expect(server.sent('generate').length).toBe(3);
  expect(chat.snapshot()).toMatchObject({ status: 'ready', route: ['ada/0 [0..8)'], stats: { tokens: 1 } });
  expect(ends).toEqual([false, false, false]);
  await vi.waitFor(() => expect(states.at(-1)).toBe('ready'));
});

test('a chat asks the next answer with what it was told last', async () => {
  const server = words(['a']);
  const ends: string[] = [];
  const chat = new Chat({ ...server.options, system: 'old', onFinish: () => ends.push('old') });
  chat.update({ system: 'new', temperature: 0, onFinish: () => ends.push('new') });
  await chat.sendMessage('one');
  expect(server.sent('generate')[0]).toMatchObject({ system: 'new', temperature: 0 });
  expect(ends).toEqual(['new']);
});

test('a chat shows an error and goes on', async () => {
  let broken = true;
  const server = new Scripted((f, c) => (broken ? c.send({ type: 'error', id: f.id, code: 'no_capacity', message: 'Full.' }) : c.send(tokens(f.id!, 1, ['ok'], { last: true }), complete(f.id!))));
  const chat = new Chat(server.options);
  await chat.sendMessage('one');
  expect(chat.snapshot()).toMatchObject({ status: 'error', error: { code: 'no_capacity' } });
  broken = false;
  await chat.resumeStream();
  expect(chat.snapshot()).toMatchObject({ status: 'ready', messages: [{ content: 'one' }, { content: 'ok' }] });
});

