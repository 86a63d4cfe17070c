import { LLMError, Lost } from './errors.js';
import { ends, type ClientFrame, type Link, type ServerFrame, type Take } from './frames.js';
import { authorise, socketURL, unreachable, urlOf, type Where } from './where.js';

/** PlainFrame is a message of the plain protocol, which servers other than Shoal speak too. */
interface PlainFrame {
  type?: string;
  token?: string;
  seq?: number;
  text?: string;
  usage?: { promptTokens?: number; completionTokens?: number };
  [member: string]: unknown;
}

/**
 * PlainLink speaks the plain protocol: one socket per generation, no resume,
 * and closing is the only way to stop. An address that begins with ws is used
 * as it stands; another is a Shoal gateway's.
 */
export class PlainLink implements Link {
  readonly kind = 'plain';
  readonly resumes = false;
  private readonly open = new Map<string, WebSocket>();

  constructor(
    private readonly where: Where,
    private readonly Socket: typeof WebSocket,
  ) {}

  async carry(frame: ClientFrame, take: Take): Promise<void> {
    const url = urlOf(this.where.url);
    const own = this.where.url?.startsWith('ws');
    const address = own ? this.where.url! : await authorise(this.where, `${socketURL(url)}/streaming`);
    const { v, type, id, resumable, ...request } = frame;
    const socket = new this.Socket(address);
    const reader = new PlainReader();
    this.open.set(id!, socket);
    try {
      await new Promise<void>((resolve, reject) => {
        let opened = false;
        socket.onopen = () => {
          opened = true;
          socket.send(JSON.stringify(request));
        };
        socket.onclose = (e) => reject(opened ? new Lost('the connection to the server broke') : unreachable(url, e));
        socket.onmessage = (e: MessageEvent) => {
          try {
            for (const f of reader.read(String(e.data))) {
              void take(f);
              if (ends(f)) resolve();
            }
          } catch (error) {
            reject(error);
          }
        };
      });
    } finally {
      this.open.delete(id!);
      socket.onclose = null;
      socket.close();
    }
  }

  async stop(id: string): Promise<void> {
    this.open.get(id)?.close();
  }
}

/** PlainReader makes rich frames of one generation's plain messages. */
class PlainReader {
  private seq = 0;
  private text = '';

  read(data: string): ServerFrame[] {
    const m = JSON.parse(data) as PlainFrame;
    switch (m.type) {
      case 'token':
        this.seq = m.seq ?? this.seq + 1;
        this.text += m.token ?? '';
        return [{ type: 'token', seq: this.seq, text: m.token ?? '', tokens: 1 }];
      case 'complete': {
        const whole = m.text ?? this.text;
        const held = whole.startsWith(this.text) ? whole.slice(this.text.length) : '';
        const usage = { promptTokens: m.usage?.promptTokens ?? 0, completionTokens: m.usage?.completionTokens ?? this.seq };
        return [
          { type: 'usage', cachedTokens: 0, ...usage },
          { timings: noTimings, finishReason: 'stop', ...m, type: 'complete', text: held } as ServerFrame,
        ];
      }
      case 'stopped':
      case 'error':
        return [m as unknown as ServerFrame];
    }
    throw new LLMError('The server sent something that is not of the plain protocol.', { code: 'bad_answer' });
  }
}

const noTimings = { queueMs: 0, promptMs: 0, predictedMs: 0, tokensPerSecond: 0 };
