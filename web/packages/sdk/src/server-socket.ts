import { asLLMError, type LLMError } from './errors.js';
import type { GenerationResult, TokenChunk } from './requests.js';

/** SocketLike is a server's end of a WebSocket: that of ws, of Deno, of Bun, or a browser's. */
export interface SocketLike {
  send(data: string): unknown;
  readonly bufferedAmount?: number;
  on?(event: 'close', listener: () => void): unknown;
  addEventListener?(event: 'close', listener: () => void): unknown;
}

/** Bytes that may wait in the socket before the generation waits too. */
const mostBuffered = 64 << 10;

/** writePlain writes an answer in the plain protocol, at the pace of its reader. */
export async function writePlain(ws: SocketLike, chunks: AsyncGenerator<TokenChunk, GenerationResult, void>): Promise<GenerationResult & { error?: LLMError }> {
  let open = true;
  const onClose = () => {
    open = false;
    void chunks.return(undefined as never);
  };
  if (ws.on) ws.on('close', onClose);
  else ws.addEventListener?.('close', onClose);
  const send = (message: object) => void (open && ws.send(JSON.stringify(message)));
  let text = '';
  try {
    for (;;) {
      const next = await chunks.next();
      if (next.done) return next.value ? finish(next.value, send) : stoppedResult(text);
      text += next.value.text;
      if (next.value.tokens > 0) send({ type: 'token', token: next.value.text, seq: next.value.seq });
      while (open && (ws.bufferedAmount ?? 0) > mostBuffered) await new Promise((resolve) => setTimeout(resolve, 5));
    }
  } catch (e) {
    const error = asLLMError(e);
    send({ type: 'error', code: error.code, message: error.message, param: error.param, retryable: error.retryable, requestId: error.requestId });
    return { ...stoppedResult(text), error };
  }
}

function finish(result: GenerationResult, send: (m: object) => void): GenerationResult {
  const { text, finishReason, usage, timings, model, precision, requestId } = result;
  if (finishReason === 'stopped') send({ type: 'stopped', reason: 'server', requestId });
  else send({ type: 'complete', text, finishReason, usage, timings, model, precision, requestId });
  return result;
}

/** stoppedResult is the answer of a client that left, or of an error. */
function stoppedResult(text: string): GenerationResult {
  return {
    text, finishReason: 'stopped', usage: { promptTokens: 0, completionTokens: 0, cachedTokens: 0 },
    timings: { queueMs: 0, promptMs: 0, predictedMs: 0, tokensPerSecond: 0, firstTokenMs: 0, totalMs: 0 },
    model: '', precision: '', requestId: '', notes: [], toString: () => text,
  };
}
