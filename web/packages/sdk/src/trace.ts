import type { ServerFrame, TimingsFrame } from './frames.js';
import type { GenerationResult, TokenChunk } from './requests.js';

/** Times kept of one generation at most. */
const most = 4_096;

/** Step is a part of a generation as this side saw it. */
export interface Step {
  name: string;
  timeMs: number;
  rows: number;
  node: string;
}

/** Trace is what is remembered of one generation, for profiles and debugging. */
export class Trace {
  readonly began = performance.now();
  tokens = 0;
  firstTokenMs = 0;
  /** milliseconds between tokens */
  readonly gaps: number[] = [];
  readonly steps: Step[] = [];
  route: string[] = [];
  timings?: TimingsFrame;
  /** settles with the generation and never rejects */
  ended: Promise<GenerationResult | undefined> = Promise.resolve(undefined);
  private lastToken = 0;
  private lastFrame = this.began;

  follow(result: Promise<GenerationResult>): void {
    this.ended = result.catch(() => undefined);
  }

  chunk(chunk: TokenChunk): void {
    if (chunk.timings) this.timings = chunk.timings;
    if (chunk.tokens === 0) return;
    const now = performance.now();
    this.tokens += chunk.tokens;
    this.firstTokenMs ||= now - this.began;
    if (this.lastToken && this.gaps.length < most) this.gaps.push(now - this.lastToken);
    this.lastToken = now;
  }

  /** frame notes what took the time since the last frame, and returns it. */
  frame(f: ServerFrame): Step | undefined {
    const now = performance.now();
    const timeMs = now - this.lastFrame;
    this.lastFrame = now;
    const step = this.stepOf(f, timeMs);
    if (step) {
      this.steps.push(step);
      if (this.steps.length > most) this.steps.shift();
    }
    return step;
  }

  private stepOf(f: ServerFrame, timeMs: number): Step | undefined {
    const node = this.route[0] ?? '';
    if (f.type === 'accepted') {
      this.route = f.route;
      return { name: 'queue', timeMs, rows: 0, node };
    }
    if (f.type === 'progress') return { name: f.phase, timeMs, rows: f.done, node };
    if (f.type === 'token') return { name: 'decode', timeMs, rows: f.tokens, node: this.route.at(-1) ?? '' };
    return undefined;
  }
}
