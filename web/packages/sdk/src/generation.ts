import { asLLMError, Lagging, LLMError, Lost } from './errors.js';
import type { AcceptedFrame, ClientFrame, CompleteFrame, Link, ProgressFrame, ServerFrame, TokenFrame, UsageFrame } from './frames.js';
import { errorOfFrame } from './link-socket.js';
import type { FinishReason, GenerationResult, Progress, Timings, TokenChunk, Usage } from './requests.js';

/** How long a stop waits for what is still on its way. */
const stopGraceMs = 200;
/** How long a broken connection is tried again: the server keeps an answer for 120 s. */
const patienceMs = 120_000;
/** Tokens that a slow consumer may leave unread, on a link that cannot wait and on one that can. */
const mostUnread = { websocket: 1024, sse: 256, plain: Infinity };

/** Listener is told what happens to a generation. */
export interface Listener {
  onChunk(chunk: TokenChunk): void;
  onFrame?(frame: ServerFrame): void;
  onProgress?(progress: Progress): void;
  onReconnect?(attempt: number): void;
  /** tokens given to onChunk that nobody has read yet */
  unread?(): number;
  /** resolves when much of that was read */
  room?(): Promise<void>;
}

/** Route gives the links that a generation may use. */
export interface Route {
  /** the link to begin with */
  first(): Link;
  /** another one when the first cannot reach the server at all */
  instead(of: Link): Link | undefined;
  /** one that waits for its reader */
  patient(): Link;
}

/** newID makes a name that nobody can guess: who knows it may read the answer. */
export function newID(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}

/**
 * Generation is one answer, from its request to exactly one of a result and an
 * error. Reconnects are invisible: tokens are numbered, so repeats are dropped
 * and a gap is fetched again.
 */
export class Generation {
  readonly id = newID();
  private readonly began = Date.now();
  private link?: Link;
  private seq = 0;
  private text = '';
  private reasoning = '';
  /** what arrives after a stop; it makes one last chunk */
  private rest = { text: '', tokens: 0 };
  /** the last token waits for the frame that confirms the end */
  private held?: TokenChunk;
  private accepted?: AcceptedFrame;
  private usage: Usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };
  private firstTokenAt = 0;
  /** the server has answered */
  private heard = false;
  /** attempts to reconnect since the last token, and when they began */
  private broke = { attempts: 0, at: 0 };
  private stopping = false;
  private done = false;
  private resolve!: (r: GenerationResult) => void;
  private reject!: (e: unknown) => void;
  /** the outcome; it is settled once */
  readonly result = new Promise<GenerationResult>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });

  constructor(private readonly listener: Listener) {
    this.result.catch(() => {}); // whoever asked for it hears of it
  }

  /** run sends the request and follows the answer to its end. */
  async run(route: Route, options: Record<string, unknown>): Promise<void> {
    if (this.done) return;
    try {
      await this.follow(route, options);
    } catch (e) {
      this.fail(this.stopping ? undefined : e);
    }
  }

  /** stop ends the answer: one last chunk, then the result says "stopped". */
  async stop(): Promise<void> {
    if (this.stopping || this.done) return;
    this.stopping = true;
    if (!this.link) return this.finishStopped();
    const grace = setTimeout(() => this.finishStopped(), stopGraceMs);
    await this.link.stop(this.id);
    await this.result.catch(() => {});
    clearTimeout(grace);
  }

  /** abort ends the answer with an error and no further chunk. */
  abort(cause?: unknown): void {
    this.fail(cause instanceof LLMError ? cause : new LLMError('The generation was aborted.', { code: 'aborted', cause }));
  }

  /** fail ends the answer with an error, or as stopped without one. */
  fail(e: unknown): void {
    if (this.done) return;
    if (e === undefined) return this.finishStopped();
    this.done = true;
    void this.link?.stop(this.id);
    this.reject(asLLMError(e));
  }

  /** follow carries the generation over as many connections as it takes. */
  private async follow(route: Route, options: Record<string, unknown>): Promise<void> {
    let link = (this.link = route.first());
    const generate = (): ClientFrame => ({ v: 1, type: 'generate', id: this.id, ...options, ...(link.resumes && { resumable: true }) });
    const resume = (): ClientFrame => ({ v: 1, type: 'resume', id: this.id, after_seq: this.seq });
    for (let frame = generate(); ; ) {
      const before = this.seq;
      try {
        return await link.carry(frame, (f) => this.take(f));
      } catch (e) {
        if (this.done) return;
        if (this.seq > before) this.broke = { attempts: 0, at: 0 };
        if (e instanceof Lagging) link = this.link = route.patient();
        else if (frame.type === 'generate' && is(e, 'server_unreachable')) {
          const instead = route.instead(link);
          if (!instead) throw e;
          link = this.link = instead;
          frame = generate();
          continue;
        } else if (frame.type === 'resume' && !this.heard && is(e, 'unknown_generation')) {
          frame = generate(); // it never arrived
          continue;
        } else if (e instanceof Lost || (frame.type === 'resume' && e instanceof LLMError && e.retryable)) await this.reconnect(e);
        else throw e;
        frame = resume();
      }
    }
  }

  /** reconnect waits until the next attempt is due; it throws when there have been enough. */
  private async reconnect(e: unknown): Promise<void> {
    const { broke } = this;
    broke.at ||= Date.now();
    if (this.stopping) throw e;
    if (!this.link?.resumes || Date.now() - broke.at > patienceMs)
      throw new LLMError('The connection to the server was lost, and with it the rest of the answer.', { code: 'connection_lost', retryable: true, cause: e });
    this.listener.onReconnect?.(++broke.attempts);
    this.listener.onProgress?.({ phase: 'reconnecting', done: broke.attempts, total: 0 });
    await this.listener.room?.();
    await backOff(broke.attempts);
  }

  private take(f: ServerFrame): void | Promise<void> {
    if (this.done) {
      if (f.type === 'accepted') void this.link?.stop(this.id); // the stop came before the request
      return;
    }
    if (f.type !== 'error') {
      this.heard = true;
      this.listener.onFrame?.(f);
    }
    switch (f.type) {
      case 'accepted':
        this.accepted ??= f;
        if (this.stopping) void this.link?.stop(this.id);
        return;
      case 'progress':
        return this.progress(f);
      case 'token':
        return this.tokens(f);
      case 'usage':
        return this.count(f);
      case 'complete':
        return this.stopping ? this.finishStopped() : this.complete(f);
      case 'stopped':
        if (this.stopping) return this.finishStopped();
        throw new LLMError(`The server ended the answer: ${f.reason}.`, { code: 'stopped', retryable: true, requestId: f.requestId });
      case 'error':
        if (this.stopping) return this.finishStopped();
        throw errorOfFrame(f);
    }
  }

  private progress(f: ProgressFrame): void {
    this.listener.onProgress?.({ phase: f.phase, done: f.done, total: f.total });
  }

  private count({ promptTokens, completionTokens, cachedTokens }: UsageFrame): void {
    this.usage = { promptTokens, completionTokens, cachedTokens };
  }

  /** tokens passes on what is new in a frame: repeats are dropped, a gap asks for a resume. */
  private tokens(f: TokenFrame): void | Promise<void> {
    if (f.seq <= this.seq) return;
    const first = f.seq - f.tokens + 1;
    if (first > this.seq + 1) throw new Lost('tokens are missing');
    this.firstTokenAt ||= Date.now();
    const pieces = f.pieces ?? [f.text];
    for (let i = this.seq + 1 - first; i < pieces.length; i++) {
      this.seq = first + i;
      const chunk = chunkOf(f, i, pieces[i]!);
      if (this.stopping) {
        if (!chunk.reasoning) this.rest.text += chunk.text;
        this.rest.tokens++;
      } else if (f.last && i === pieces.length - 1) this.held = chunk;
      else this.emit(chunk);
    }
    const unread = this.listener.unread?.() ?? 0;
    if (this.done || unread < mostUnread[this.link!.kind]) return;
    if (this.link!.kind === 'websocket') throw new Lagging();
    return this.listener.room!();
  }

  /** emit gives a chunk to the listener; one that throws ends the generation. */
  private emit(chunk: TokenChunk): void {
    if (chunk.reasoning) this.reasoning += chunk.text;
    else this.text += chunk.text;
    try {
      this.listener.onChunk(chunk);
    } catch (e) {
      this.fail(e);
    }
  }

  private complete(f: CompleteFrame): void {
    let held: TokenChunk = this.held ?? { seq: this.seq, text: '', tokens: 0 };
    if (held.reasoning && f.text) { // an answer that was held back is no thought
      this.emit(held);
      held = { seq: this.seq, text: '', tokens: 0 };
    }
    const end = this.ending(f.finishReason, f.timings);
    this.emit({ ...held, text: held.text + (f.text ?? ''), last: true, ...end, route: this.accepted?.route });
    if (this.done) return;
    this.done = true;
    this.resolve(this.resultOf(end, f.requestId, f));
  }

  private finishStopped(): void {
    if (this.done) return;
    if (this.held) this.rest = { text: this.held.text + this.rest.text, tokens: this.rest.tokens + 1 };
    const end = this.ending('stopped');
    this.emit({ seq: this.seq, ...this.rest, ...end, route: this.accepted?.route });
    if (this.done) return;
    this.done = true;
    this.resolve(this.resultOf(end));
  }

  private ending(finishReason: FinishReason, server = { queueMs: 0, promptMs: 0, predictedMs: 0, tokensPerSecond: 0 }) {
    const now = Date.now();
    const timings: Timings = { ...server, firstTokenMs: (this.firstTokenAt || now) - this.began, totalMs: now - this.began };
    const usage = { ...this.usage, completionTokens: this.usage.completionTokens || this.seq };
    return { finishReason, usage, timings };
  }

  private resultOf(end: ReturnType<Generation['ending']>, requestId?: string, plain: object = {}): GenerationResult {
    const { model, precision, toolCalls } = plain as { model?: string; precision?: string; toolCalls?: GenerationResult['toolCalls'] };
    const text = this.text;
    return {
      text,
      ...(this.reasoning && { reasoning: this.reasoning }),
      ...end,
      model: this.accepted?.model ?? model ?? '',
      precision: this.accepted?.precision ?? precision ?? '',
      requestId: requestId ?? this.accepted?.requestId ?? '',
      toolCalls,
      notes: this.accepted?.notes ?? [],
      toString: () => text,
    };
  }
}

function chunkOf(f: TokenFrame, i: number, text: string): TokenChunk {
  const lp = f.logprobs?.[i] ?? f.logprob;
  const chunk: TokenChunk = { seq: f.seq - f.tokens + 1 + i, text, tokens: 1 };
  const id = f.tokenIds?.[i] ?? f.tokenId;
  if (id !== undefined) chunk.tokenId = id;
  if (lp) Object.assign(chunk, { logprob: lp.logprob, topLogprobs: lp.top });
  if (f.reasoning) chunk.reasoning = true;
  if (f.toolCall) chunk.toolCall = f.toolCall;
  return chunk;
}

function is(e: unknown, code: string): boolean {
  return e instanceof LLMError && e.code === code;
}

/** backOff waits with full jitter, from 250 ms to 8 s, and less when the network comes back. */
async function backOff(attempt: number): Promise<void> {
  const page = globalThis as { addEventListener?: typeof addEventListener; removeEventListener?: typeof removeEventListener };
  await new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      page.removeEventListener?.('online', end);
      resolve();
    };
    const timer = setTimeout(end, Math.random() * Math.min(8_000, 250 * 2 ** (attempt - 1)));
    page.addEventListener?.('online', end);
  });
}
