import type { Config, LogLevel } from './config.js';
import type { LLMError } from './errors.js';
import type { ReadyReport } from './variant.js';

/** DebugCallbacks are told of what config.debug turns on. */
export interface DebugCallbacks {
  /** a part of a step, with where it was made and how many rows it had */
  onInferenceStep(step: { name: string; timeMs: number; rows: number; node: string }): void;
  /** memory that the cluster holds for this object */
  onMemoryAllocation(allocation: { sizeBytes: number; purpose: string; node: string }): void;
  onTokenGeneration(token: { token: string; tokenId?: number; probability?: number }): void;
  onError(error: LLMError): void;
}

/** DebugInfo is a snapshot of an object. */
export interface DebugInfo {
  config: Config;
  ready?: ReadyReport;
  transport: string;
  reconnects: number;
  lastSteps: { name: string; timeMs: number; rows: number; node: string }[];
}

const levels: LogLevel[] = ['error', 'warn', 'info', 'debug'];
const most = 2_000;
const secret = /key|token$|secret|ticket|authorization|password/i;

/** DebugLog keeps the last entries of what happened, without secrets and texts. */
export class DebugLog {
  private readonly entries: string[] = [];

  constructor(private readonly config: Config) {}

  add(level: LogLevel, entry: Record<string, unknown>): void {
    if (levels.indexOf(level) > levels.indexOf(this.config.logLevel ?? 'info')) return;
    const line = JSON.stringify({ timeMs: Date.now(), level, ...entry }, (key, value: unknown) => (secret.test(key) ? '[removed]' : value));
    this.entries.push(line);
    if (this.entries.length > most) this.entries.shift();
    if (this.config.debug) console[level](line);
  }

  /** text is one JSON document per line. */
  text(): string {
    return this.entries.join('\n');
  }
}
