import type { ClusterReport } from '../src/cluster.js';

type Frame = Record<string, unknown> & { type: string; id?: string };

/** report is a cluster of one node with a model in two stages. */
export function report(change: Partial<ClusterReport> = {}): ClusterReport {
  const stages = [
    { node: 'ada', device: 0, first: 0, end: 4, embed: true, head: false },
    { node: 'ada', device: 0, first: 4, end: 8, embed: false, head: true },
  ];
  const speed = { decodeSeconds: 0.001, decodeSecondsMeasured: 0.002, prefillSeconds: 0.1, hopSeconds: 0.0005, bytes: 4 << 20, bytesMeasured: 4 << 20, weightBytes: 2 << 20, pageBytes: 1 << 14 };
  return {
    v: 1, timeMs: 0, cluster: 'c', epoch: 1, ready: true, reason: '', explanation: '', events: [],
    nodes: { ada: { address: '', state: 'ready', reason: '', version: '1', devices: [{ index: 0, kind: 'cpu', name: 'a cpu', numericsClass: 'cpu/v1', memoryBytes: 1 << 30, threads: 2 }] } },
    models: { tiny: { state: 'ready', precision: 'int4', context: 1024, layers: 8, parameters: 8 << 20, stages: ['ada/0 [0..4)', 'ada/0 [4..8)'], fingerprint: 'f', architecture: 'llama', aliases: ['models/llama-7b'] } },
    pipelines: [{ id: 0, epoch: 1, state: 'ready', running: 0, freePages: 64, plan: { stages, context: 1024, pages: 64, slots: 8, rows: 256 }, speed: { tokenSeconds: 0.003, tokenSecondsMeasured: 0.005, stages: [speed, { ...speed, hopSeconds: 0 }] } }],
    sessions: { running: 0, waiting: 0 }, totals: { requests: 0, promptTokens: 0, generatedTokens: 0, failed: 0 }, rates: { requests: 0, promptTokens: 0, generatedTokens: 0 },
    ...change,
  };
}

/** Connection is the server's end of a socket or of a streaming answer. */
export interface Connection {
  kind: 'socket' | 'sse';
  address: string;
  send(...frames: Frame[]): void;
  /** break loses the connection without a word */
  break(): void;
}

/** Scripted is a server that does what a test says to each frame that reaches it. */
export class Scripted {
  readonly frames: Frame[] = [];
  readonly cancelled: string[] = [];
  readonly addresses: string[] = [];
  readonly headers: Record<string, string>[] = [];
  cluster = report();
  /** refuse makes sockets fail to open */
  refuseSockets = false;

  constructor(private readonly answer: (frame: Frame, c: Connection) => void) {}

  /** of the frames that came, those of one type */
  sent(type: string): Frame[] {
    return this.frames.filter((f) => f.type === type);
  }

  private hear(frame: Frame, c: Connection): void {
    this.frames.push(frame);
    this.answer(frame, c);
  }

  /** the sockets of this server; the same class each time, so that objects share one */
  readonly WebSocket = this.socketClass();

  private socketClass(): typeof WebSocket {
    const server = this;
    class FakeSocket {
      readyState = 0;
      onopen?: () => void;
      onmessage?: (e: { data: string }) => void;
      onclose?: (e: object) => void;
      private readonly connection: Connection;
      constructor(readonly address: string, readonly protocols: string[] = []) {
        server.addresses.push(address);
        this.connection = {
          kind: 'socket', address,
          send: (...frames) => frames.forEach((f) => queueMicrotask(() => this.readyState === 1 && this.onmessage?.({ data: JSON.stringify(f) }))),
          break: () => queueMicrotask(() => this.end()),
        };
        queueMicrotask(() => {
          if (server.refuseSockets) return this.end();
          this.readyState = 1;
          this.onopen?.();
        });
      }
      private end() {
        this.readyState = 3;
        this.onclose?.({});
      }
      send(data: string) {
        const frame = JSON.parse(data) as Frame;
        queueMicrotask(() => server.hear(frame, this.connection));
      }
      close() {
        this.readyState = 3;
      }
    }
    return FakeSocket as unknown as typeof WebSocket;
  }

  readonly fetch = (async (input: string, init: RequestInit = {}) => {
    const path = new URL(input).pathname;
    this.addresses.push(input);
    this.headers.push(init.headers as Record<string, string>);
    const json = (body: object, status = 200) => new Response(JSON.stringify(body), { status });
    if (path === '/v1/cluster') return json(this.cluster);
    if (path === '/v1/ws-ticket') return json({ ticket: 'once' });
    if (path.startsWith('/v1/cancel/')) {
      this.cancelled.push(path.split('/').pop()!);
      return json({ stopped: 1 });
    }
    return this.stream(JSON.parse(String(init.body)) as Frame, init.signal ?? undefined);
  }) as typeof fetch;

  /** stream answers a POST; a frame may be cut anywhere, even within a character. */
  private stream(frame: Frame, signal?: AbortSignal): Response {
    let out!: ReadableStreamDefaultController<Uint8Array>;
    const body = new ReadableStream<Uint8Array>({ start: (c) => void (out = c) });
    signal?.addEventListener('abort', () => {
      try {
        out.error(new Error('aborted'));
      } catch {
        // it had ended
      }
    });
    const c: Connection = {
      kind: 'sse', address: '',
      send: (...frames) => {
        for (const f of frames) {
          const bytes = new TextEncoder().encode(`: a comment\n\nid: 1\ndata: ${JSON.stringify(f)}\n\n`);
          for (let i = 0; i < bytes.length; i += 7) out.enqueue(bytes.slice(i, i + 7));
        }
      },
      break: () => out.error(new Error('reset')),
    };
    queueMicrotask(() => this.hear(frame, c));
    return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } });
  }

  /** options make objects of this server. */
  get options() {
    return { url: `http://${this.name}.test`, WebSocket: this.WebSocket, fetch: this.fetch };
  }

  private readonly name = `s${++servers}`;
}

let servers = 0;

export const accepted = { type: 'accepted', requestId: 'r1', model: 'tiny', precision: 'int4', route: ['ada/0 [0..8)'], notes: [] };
export const usage = { type: 'usage', promptTokens: 3, completionTokens: 3, cachedTokens: 0 };
export const timings = { queueMs: 1, promptMs: 2, predictedMs: 3, tokensPerSecond: 4 };

/** tokens makes one frame of several tokens. */
export function tokens(id: string, seq: number, pieces: string[], more: object = {}): Frame {
  const many = pieces.length > 1 ? { pieces } : {};
  return { v: 1, type: 'token', id, seq: seq + pieces.length - 1, text: pieces.join(''), tokens: pieces.length, ...many, ...more };
}

/** complete ends a generation. */
export function complete(id: string, more: object = {}): Frame {
  return { v: 1, type: 'complete', id, finishReason: 'stop', timings, requestId: 'r1', ...more };
}

/** words is a server that answers each prompt with the same words, one frame each. */
export function words(list: string[]): Scripted {
  return new Scripted((f, c) => {
    const id = f.id!;
    if (f.type === 'stop') return c.send({ v: 1, type: 'stopped', id, reason: 'client' });
    if (f.type !== 'generate' && f.type !== 'resume') return;
    const after = Number(f.after_seq ?? 0);
    const rest = list.slice(after).map((w, i) => tokens(id, after + i + 1, [w], { last: after + i + 1 === list.length }));
    c.send({ ...accepted, id }, ...rest, { ...usage, id }, complete(id, { finishReason: 'length' }));
  });
}
