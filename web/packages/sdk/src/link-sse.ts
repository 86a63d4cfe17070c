import { errorOfResponse, LLMError, Lost } from './errors.js';
import { ends, type ClientFrame, type Link, type ServerFrame, type Take } from './frames.js';
import { ask, type Where } from './where.js';

/**
 * SSELink carries a generation over one streaming HTTP answer. Unlike a
 * WebSocket it can wait: what is not read stays with the server.
 */
export class SSELink implements Link {
  readonly kind = 'sse';
  readonly resumes = true;

  constructor(private readonly where: Where) {}

  async carry(frame: ClientFrame, take: Take): Promise<void> {
    const abort = new AbortController();
    const leave = () => void this.stop(frame.id!, true);
    const page = globalThis as { addEventListener?: typeof addEventListener; removeEventListener?: typeof removeEventListener };
    page.addEventListener?.('pagehide', leave); // a closed page is a stop, not a loss
    try {
      const res = await ask(this.where, '/streaming', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Accept: 'text/event-stream' },
        body: JSON.stringify(frame),
        signal: abort.signal,
      });
      if (!res.ok || !res.body) throw await errorOfResponse(res);
      if (!(await this.read(res.body, take))) throw new Lost('the answer broke off');
    } finally {
      page.removeEventListener?.('pagehide', leave);
      abort.abort(); // an answer that is not read to its end is let go
    }
  }

  /** read gives take every frame and reports whether the last one ended the generation. */
  private async read(body: ReadableStream<Uint8Array>, take: Take): Promise<boolean> {
    const reader = body.getReader();
    const text = new TextDecoder();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read().catch((e: unknown) => {
        throw new Lost('the answer broke off', { cause: e });
      });
      if (done) return false;
      rest += text.decode(value, { stream: true });
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        const frame = frameOf(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (!frame) continue;
        await take(frame);
        if (ends(frame)) return true;
      }
    }
  }

  async stop(id: string, keepalive = false): Promise<void> {
    try {
      await ask({ ...this.where, signal: undefined }, `/v1/cancel/${encodeURIComponent(id)}`, { method: 'POST', keepalive });
    } catch {
      // it has ended, or ends by itself once the server misses us
    }
  }
}

/** frameOf reads one event; comments and fields other than data carry nothing. */
function frameOf(event: string): ServerFrame | undefined {
  const data = event
    .split('\n')
    .filter((line) => line.startsWith('data:'))
    .map((line) => line.slice(5).trimStart())
    .join('\n');
  if (!data) return undefined;
  try {
    return JSON.parse(data) as ServerFrame;
  } catch (e) {
    throw new LLMError('The server sent something that is not a frame.', { code: 'bad_answer', cause: e });
  }
}
