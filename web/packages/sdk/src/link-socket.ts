import { LLMError, Lost } from './errors.js';
import { ends, type ClientFrame, type ErrorFrame, type Link, type ServerFrame, type Take } from './frames.js';
import { authorise, socketURL, unreachable, urlOf, type Where } from './where.js';

const protocol = 'shoal.v1.json';
/** A socket that carries nothing is closed after this long. */
const idleMs = 10_000;
/** Silence before the server is asked whether it is there, and before it counts as lost. */
const quietMs = 10_000;
const deadMs = 25_000;
/** An abandoned socket's close frame must not reach the server before its generations were resumed. */
const lingerMs = 5_000;

interface Job {
  take: Take;
  resolve(): void;
  reject(e: unknown): void;
}

/**
 * SocketLink carries all generations for one server over one WebSocket. It is
 * opened when needed, watched by pings, and closed when idle. It never
 * reconnects by itself: a generation that lost it asks again.
 */
export class SocketLink implements Link {
  readonly kind = 'websocket';
  readonly resumes = true;
  private readonly jobs = new Map<string, Job>();
  private socket?: WebSocket;
  private opening?: Promise<WebSocket>;
  private heard = 0;
  private beat?: ReturnType<typeof setInterval>;
  private idle?: ReturnType<typeof setTimeout>;

  constructor(
    private readonly where: Where,
    private readonly Socket: typeof WebSocket,
  ) {}

  async carry(frame: ClientFrame, take: Take): Promise<void> {
    clearTimeout(this.idle);
    const socket = await this.open();
    const id = frame.id!;
    try {
      await new Promise<void>((resolve, reject) => {
        this.jobs.set(id, { take, resolve, reject });
        socket.send(JSON.stringify(frame));
      });
    } finally {
      this.jobs.delete(id);
      if (this.jobs.size === 0) this.idle = setTimeout(() => this.close(), idleMs);
    }
  }

  async stop(id: string): Promise<void> {
    if (this.socket?.readyState === 1) this.socket.send(JSON.stringify({ v: 1, type: 'stop', id }));
  }

  /** release closes the socket now if it carries nothing. */
  release(): void {
    if (this.jobs.size === 0) this.close();
  }

  /** close says goodbye, which stops on the server what still runs here. */
  private close(): void {
    clearTimeout(this.idle);
    const socket = this.forget();
    socket?.close(1000);
    this.fail(new Lost('closed'));
  }

  /** open returns the socket, opening it if need be. */
  private open(): Promise<WebSocket> {
    if (this.socket?.readyState === 1) return Promise.resolve(this.socket);
    this.opening ??= this.dial().finally(() => (this.opening = undefined));
    return this.opening;
  }

  private async dial(): Promise<WebSocket> {
    const url = urlOf(this.where.url);
    const address = await authorise(this.where, `${socketURL(url)}/streaming`);
    return new Promise((resolve, reject) => {
      const socket = new this.Socket(address, [protocol]);
      socket.onopen = () => {
        this.socket = socket;
        this.heard = Date.now();
        this.beat = setInterval(() => this.watch(), quietMs / 2);
        resolve(socket);
      };
      socket.onmessage = (e: MessageEvent) => {
        this.heard = Date.now();
        this.receive(String(e.data));
      };
      socket.onclose = (e: CloseEvent) => {
        reject(unreachable(url, e)); // only counts before it was open
        if (this.socket === socket) this.lost();
      };
    });
  }

  private receive(data: string): void {
    const frame = JSON.parse(data) as ServerFrame & { id?: string };
    const job = frame.id === undefined ? undefined : this.jobs.get(frame.id);
    if (!job) return; // a pong, or a generation that went elsewhere
    if (frame.type === 'error' && frame.refused === 'stop') return; // it had ended by itself
    try {
      job.take(frame);
      if (ends(frame)) job.resolve();
    } catch (e) {
      this.jobs.delete(frame.id!);
      job.reject(e);
    }
  }

  /** watch asks a silent server whether it is there, and gives up one that stays silent. */
  private watch(): void {
    const silence = Date.now() - this.heard;
    if (silence > deadMs) {
      const old = this.socket;
      this.lost();
      setTimeout(() => old?.close(), lingerMs);
    } else if (silence > quietMs) {
      this.socket?.send(JSON.stringify({ v: 1, type: 'ping', t: Date.now() }));
    }
  }

  private lost(): void {
    this.forget();
    this.fail(new Lost('the connection to the server broke'));
  }

  private forget(): WebSocket | undefined {
    clearInterval(this.beat);
    const socket = this.socket;
    this.socket = undefined;
    if (socket) socket.onmessage = socket.onclose = null;
    return socket;
  }

  private fail(e: Error): void {
    const jobs = [...this.jobs.values()];
    this.jobs.clear();
    for (const job of jobs) job.reject(e);
  }
}

/** errorOfFrame is what a caller sees of an error frame. */
export function errorOfFrame(f: ErrorFrame): LLMError {
  return new LLMError(f.message, { code: f.code, param: f.param, retryable: f.retryable, requestId: f.requestId });
}
