import type { TokenChunk } from './requests.js';

/** Below this length a queue that was full takes more. */
const low = 64;

/** ChunkQueue is what lies between a generation and one reader of it. */
export class ChunkQueue implements AsyncIterable<TokenChunk> {
  private items: TokenChunk[] = [];
  private ended = false;
  private error: unknown;
  private wake?: () => void;
  private waiting: (() => void)[] = [];

  get length(): number {
    return this.items.length;
  }

  push(chunk: TokenChunk): void {
    this.items.push(chunk);
    this.wake?.();
  }

  /** end lets the reader finish what is there, and then throws error if there is one. */
  end(error?: unknown): void {
    this.ended = true;
    this.error = error;
    this.wake?.();
    this.free();
  }

  /** room resolves when the reader has caught up. */
  room(): Promise<void> {
    if (this.items.length <= low || this.ended) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  private free(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TokenChunk, void, void> {
    try {
      for (;;) {
        const chunk = this.items.shift();
        if (this.items.length <= low) this.free();
        if (chunk) {
          yield chunk;
          continue;
        }
        if (this.error !== undefined) throw this.error;
        if (this.ended) return;
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      this.ended = true;
      this.free();
    }
  }
}
