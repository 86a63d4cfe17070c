import { beforeEach, describe, expect, test, vi } from 'vitest';
import { LLMError, WebGPUStreamingInference, createStreamingEndpoint, type TokenChunk } from '../src/index.js';
import { accepted, complete, Scripted, tokens, usage, words, type Connection } from './scripted.js';

beforeEach(() => {
  vi.spyOn(Math, 'random').mockReturnValue(0); // no wait before a reconnect
});

/** follow runs a generation and notes every call. */
function follow(server: Scripted, more: object = {}, config: object = {}) {
  const calls: [string, boolean][] = [];
  const streaming = new WebGPUStreamingInference({ ...server.options, ...config });
  const result = streaming.generate({ prompt: 'x', callback: (token, last) => void calls.push([token, last]), ...more });
  return { calls, result, streaming };
}

describe.each(['websocket', 'sse'] as const)('an answer over %s', (transport) => {
  test('calls back once per token, and says last once, at the end', async () => {
    const server = words(['a', 'b', 'ç😀']);
    const { calls, result } = follow(server, {}, { transport });
    const r = await result;
    expect(calls).toEqual([['a', false], ['b', false], ['ç😀', true]]);
    expect(r).toMatchObject({ text: 'abç😀', finishReason: 'length', model: 'tiny', precision: 'int4', requestId: 'r1', usage: { promptTokens: 3 } });
    expect(`${r}`).toBe('abç😀');
  });

  test('a frame of several tokens is several calls', async () => {
    const server = new Scripted((f, c) => c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a', '', 'b']), complete(f.id!)));
    const { calls, result } = follow(server, {}, { transport });
    await result;
    expect(calls).toEqual([['a', false], ['', false], ['b', false], ['', true]]);
  });

  test('text that was held back comes with the last call', async () => {
    const server = new Scripted((f, c) => c.send(tokens(f.id!, 1, ['a'], { last: true }), complete(f.id!, { text: 'held' })));
    const { calls, result } = follow(server, {}, { transport });
    expect((await result).text).toBe('aheld');
    expect(calls).toEqual([['aheld', true]]);
  });

  test('after a stop there is exactly one more call', async () => {
    const server = new Scripted((f, c) => {
      if (f.type === 'generate') c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a']), tokens(f.id!, 2, ['b']));
      if (f.type === 'stop') c.send(tokens(f.id!, 3, ['c', 'd']), { type: 'stopped', id: f.id, reason: 'client' });
    });
    const calls: [string, boolean][] = [];
    const streaming = new WebGPUStreamingInference({ ...server.options, transport });
    const r = await streaming.generate({
      prompt: 'x',
      callback: (token, last) => {
        calls.push([token, last]);
        if (token === 'b') void streaming.stopGeneration(), void streaming.stopGeneration();
      },
    });
    const rest = transport === 'websocket' ? 'cd' : ''; // an HTTP answer of this server cannot hear of the stop
    expect(calls).toEqual([['a', false], ['b', false], [rest, false]]);
    expect(r).toMatchObject({ finishReason: 'stopped', text: `ab${rest}` });
    expect(server.sent('stop').length + server.cancelled.length).toBe(1);
  });

  test('an error rejects, and nothing is called last', async () => {
    const server = new Scripted((f, c) => c.send(tokens(f.id!, 1, ['a']), { type: 'error', id: f.id, code: 'shard_lost', message: 'A machine was lost.', retryable: true, requestId: 'r9' }));
    const { calls, result } = follow(server, {}, { transport });
    await expect(result).rejects.toMatchObject({ name: 'LLMError', code: 'shard_lost', message: 'A machine was lost.', retryable: true, requestId: 'r9' });
    expect(calls).toEqual([['a', false]]);
  });

  test('a server that ends the answer by itself is an error, not an end', async () => {
    const server = new Scripted((f, c) => c.send(tokens(f.id!, 1, ['a']), { type: 'stopped', id: f.id, reason: 'deadline' }));
    const { calls, result } = follow(server, {}, { transport });
    await expect(result).rejects.toMatchObject({ code: 'stopped' });
    expect(calls).toEqual([['a', false]]);
  });

  test('a connection that breaks anywhere loses and repeats nothing', async () => {
    const text = Array.from('the whole answer, letter by letter');
    for (let cut = 0; cut <= text.length; cut++) {
      const server = new Scripted((f, c) => {
        const id = f.id!;
        const after = Number(f.after_seq ?? 0);
        if (f.type === 'generate') {
          c.send({ ...accepted, id }, ...text.slice(0, cut).map((w, i) => tokens(id, i + 1, [w])));
          setTimeout(() => c.break());
        } else if (f.type === 'resume') {
          const from = Math.max(0, after - 2); // some come twice
          c.send({ ...accepted, id }, tokens(id, from + 1, text.slice(from)), complete(id));
        }
      });
      const { calls, result } = follow(server, {}, { transport });
      expect((await result).text).toBe(text.join(''));
      expect(calls.map(([t]) => t).join('')).toBe(text.join(''));
      expect(server.sent('resume')).toMatchObject([{ after_seq: cut }]);
    }
  });

  test('a gap is fetched again', async () => {
    const server = new Scripted((f, c) => {
      if (f.type === 'generate') c.send(tokens(f.id!, 1, ['a']), tokens(f.id!, 3, ['c']));
      else if (f.type === 'resume') c.send(tokens(f.id!, 2, ['b']), tokens(f.id!, 3, ['c']), complete(f.id!));
    });
    const { result } = follow(server, {}, { transport });
    expect((await result).text).toBe('abc');
    expect(server.sent('resume')).toMatchObject([{ after_seq: 1 }]);
  });

  test('a request that never arrived is sent again', async () => {
    let first = true;
    const server = new Scripted((f, c) => {
      if (first) {
        first = false;
        return c.break();
      }
      if (f.type === 'resume') return c.send({ type: 'error', id: f.id, code: 'unknown_generation', message: 'Unknown.', refused: 'resume' });
      c.send(tokens(f.id!, 1, ['a'], { last: true }), complete(f.id!));
    });
    const { calls, result } = follow(server, {}, { transport });
    expect((await result).text).toBe('a');
    expect(calls).toEqual([['a', true]]);
    expect(server.frames.map((f) => f.type)).toEqual(['generate', 'resume', 'generate']);
  });

  test('an answer that is kept no longer is an error', async () => {
    const server = new Scripted((f, c) => {
      if (f.type === 'generate') c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a'])), setTimeout(() => c.break());
      else c.send({ type: 'error', id: f.id, code: 'resume_expired', message: 'Not kept any more.' });
    });
    await expect(follow(server, {}, { transport }).result).rejects.toMatchObject({ code: 'resume_expired' });
  });

  test('a callback that throws ends the answer, here and on the server', async () => {
    const server = new Scripted((f, c) => f.type === 'generate' && c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a']), tokens(f.id!, 2, ['b'])));
    let calls = 0;
    const { result } = follow(server, { callback: () => { calls++; throw new Error('in the page'); } }, { transport });
    await expect(result).rejects.toMatchObject({ message: 'in the page' });
    expect(calls).toBe(1);
    await vi.waitFor(() => expect(server.sent('stop').length + server.cancelled.length).toBe(1));
  });

  test('an aborted signal rejects and stops', async () => {
    const server = new Scripted((f, c) => f.type === 'generate' && c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a'])));
    const control = new AbortController();
    const { result } = follow(server, { signal: control.signal, callback: () => control.abort() }, { transport });
    await expect(result).rejects.toMatchObject({ name: 'AbortError', code: 'aborted' });
    await vi.waitFor(() => expect(server.sent('stop').length + server.cancelled.length).toBe(1));
  });

  test('leaving the loop stops the answer', async () => {
    const server = new Scripted((f, c) => {
      if (f.type === 'generate') c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a']), tokens(f.id!, 2, ['b']));
      if (f.type === 'stop') c.send({ type: 'stopped', id: f.id, reason: 'client' });
    });
    const seen: string[] = [];
    for await (const token of createStreamingEndpoint({ ...server.options, transport }).generateStream({ prompt: 'x' })) {
      seen.push(token);
      if (token === 'b') break;
    }
    expect(seen).toEqual(['a', 'b']);
    expect(server.sent('stop').length + server.cancelled.length).toBe(1);
  });
});

test('a stop that the server does not answer ends all the same', async () => {
  const server = new Scripted((f, c) => f.type === 'generate' && c.send({ ...accepted, id: f.id }, tokens(f.id!, 1, ['a'])));
  const { calls, result, streaming } = follow(server, { callback: undefined, onChunk: () => void streaming.stopGeneration() });
  expect(await result).toMatchObject({ finishReason: 'stopped', text: 'a' });
  expect(calls).toEqual([]);
});

test('a stop before anything was sent sends nothing', async () => {
  const server = words(['a']);
  const { calls, result, streaming } = follow(server);
  await streaming.stopGeneration();
  expect((await result).finishReason).toBe('stopped');
  expect(calls).toEqual([['', false]]);
  expect(server.frames).toEqual([]);
});

test('generations of one server share a socket and are told apart', async () => {
  const server = new Scripted((f, c) => f.type === 'generate' && c.send(tokens(f.id!, 1, [String(f.prompt)], { last: true }), complete(f.id!)));
  const results = await Promise.all(['x', 'y', 'z'].map((prompt) => new WebGPUStreamingInference(server.options).generate({ prompt })));
  expect(results.map(String)).toEqual(['x', 'y', 'z']);
  expect(server.addresses.filter((a) => a.startsWith('ws')).length).toBe(1);
});

test('a slow reader moves to a connection that can wait, and loses nothing', async () => {
  const list = Array.from({ length: 3_000 }, (_, i) => `${i} `);
  const server = words(list);
  const seen: TokenChunk[] = [];
  const chunks = new WebGPUStreamingInference(server.options).chunks({ prompt: 'x' });
  seen.push((await chunks.next()).value as TokenChunk);
  await vi.waitFor(() => expect(server.sent('resume').length).toBe(1)); // while nobody reads
  for await (const chunk of chunks) seen.push(chunk);
  expect(seen.map((c) => c.text)).toEqual(list);
  expect(seen.map((c) => c.seq)).toEqual(list.map((_, i) => i + 1));
  expect(seen.filter((c) => c.last).length).toBe(1);
});

test('where no socket opens, streaming HTTP is used', async () => {
  const server = words(['a', 'b']);
  server.refuseSockets = true;
  const { result } = follow(server);
  expect((await result).text).toBe('ab');
});

test('a server that is away is an error with a next step', async () => {
  const away = (async () => { throw new TypeError('fetch failed'); }) as typeof fetch;
  const error = await new WebGPUStreamingInference({ url: 'http://away.test', fetch: away }).generate({ prompt: 'x' }).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(LLMError);
  expect(error).toMatchObject({ code: 'server_unreachable', retryable: true, hint: expect.stringContaining('shoal up') });
});

test('a key travels in a header and a ticket, never in an address', async () => {
  const server = words(['a']);
  await new WebGPUStreamingInference({ ...server.options, apiKey: async () => 'hidden-key' }).generate({ prompt: 'x' });
  expect(server.addresses.join(' ')).not.toContain('hidden-key');
  expect(server.addresses.some((a) => a.endsWith('/streaming?ticket=once'))).toBe(true);
  expect(server.headers[0]).toMatchObject({ Authorization: 'Bearer hidden-key' });
});

test('without streamingInference the whole text is one call', async () => {
  const { calls, result } = follow(words(['a', 'b', 'c']), {}, { config: { streamingInference: false } });
  await result;
  expect(calls).toEqual([['abc', true]]);
});

test('prompts, messages and text reach the server as they are', async () => {
  const server = words(['a']);
  const s = new WebGPUStreamingInference({ ...server.options, modelPath: 'models/llama-7b', config: { quantization: 'int4' } });
  await s.generate('hello', { maxTokens: 5, topP: 0.5, logprobs: 2 });
  await s.generate([{ role: 'user', content: 'hi' }]);
  await s.generate({ text: 'again', system: 'be kind', responseFormat: { type: 'text' } });
  const common = { type: 'generate', model: 'models/llama-7b', config: { quantization: 'int4' }, resumable: true };
  expect(server.sent('generate')).toMatchObject([
    { ...common, prompt: 'hello', maxTokens: 5, topP: 0.5, logprobs: true, topLogprobs: 2 },
    { ...common, messages: [{ role: 'user', content: 'hi' }] },
    { ...common, prompt: 'again', system: 'be kind', response_format: { type: 'text' } },
  ]);
  await expect(s.generate({ prompt: 'x', bogus: 1 } as never)).rejects.toMatchObject({ code: 'unsupported_option', param: 'bogus' });
  await expect(s.generate({})).rejects.toMatchObject({ param: 'prompt' });
});

test('what was thought is told from the answer', async () => {
  const server = new Scripted((f, c) => c.send(
    { ...accepted, id: f.id }, tokens(f.id!, 1, ['I must ', 'add.'], { reasoning: true }), tokens(f.id!, 3, ['Three']), tokens(f.id!, 4, ['.'], { last: true }), complete(f.id!)));
  const chunks: [string, boolean][] = [];
  const { calls, result } = follow(server, { onChunk: (c: TokenChunk) => chunks.push([c.text, c.reasoning === true]) });
  expect(await result).toMatchObject({ text: 'Three.', reasoning: 'I must add.' });
  expect(calls.map(([token]) => token)).toEqual(['', '', 'Three', '.']);
  expect(chunks).toEqual([['I must ', true], ['add.', true], ['Three', false], ['.', false]]);
});

test('an image becomes part of the last turn', async () => {
  const server = words(['a']);
  const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47]);
  await new WebGPUStreamingInference(server.options).generateWithImage({ prompt: 'what?', imageData: png });
  expect(server.sent('generate')[0]!.messages).toEqual([
    { role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw==' } }, { type: 'text', text: 'what?' }] },
  ]);
});

test('the plain protocol of another server works', async () => {
  const server = new Scripted((f, c: Connection) => {
    const plain = f as unknown as { prompt: string; precision?: string };
    c.send({ type: 'token', token: `${plain.prompt}!` }, { type: 'token', token: '?' }, { type: 'complete', text: `${plain.prompt}!? end` });
  });
  const { calls, result } = follow(server, {}, { url: 'ws://other.test:8765/', transport: 'plain' });
  expect(await result).toMatchObject({ text: 'x!? end', finishReason: 'stop' });
  expect(calls).toEqual([['x!', false], ['?', false], [' end', true]]);
  expect(server.addresses).toEqual(['ws://other.test:8765/']);
  expect(server.frames[0]).toEqual({ prompt: 'x' });
});

test('usage of a finished answer is the server\'s', async () => {
  const server = new Scripted((f, c) => c.send(tokens(f.id!, 1, ['a']), { ...usage, id: f.id, cachedTokens: 64 }, complete(f.id!)));
  expect((await follow(server).result).usage).toEqual({ promptTokens: 3, completionTokens: 3, cachedTokens: 64 });
});
