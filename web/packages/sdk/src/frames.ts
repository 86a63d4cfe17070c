/** Frames of the rich protocol, subprotocol shoal.v1.json: docs/streaming.md of the server. */

export interface ClientFrame {
  v: 1;
  type: 'generate' | 'resume' | 'stop' | 'ping';
  id?: string;
  after_seq?: number;
  [option: string]: unknown;
}

export interface AcceptedFrame {
  type: 'accepted';
  requestId: string;
  model: string;
  precision: string;
  fingerprint: string;
  seed: number;
  maxTokens: number;
  promptTokens: number;
  kv: { maxSeqLen: number };
  route: string[];
  notes: string[];
}

export interface ProgressFrame {
  type: 'progress';
  phase: 'queued' | 'loading' | 'prefill' | 'recovering' | 'waiting';
  done: number;
  total: number;
  notes?: string[];
}

export interface LogprobFrame {
  logprob: number;
  top?: { tokenId: number; text: string; logprob: number }[];
}

export interface ToolCallFrame {
  index: number;
  id?: string;
  name?: string;
  arguments?: string;
}

export interface TokenFrame {
  type: 'token';
  seq: number;
  text: string;
  tokens: number;
  pieces?: string[];
  last?: boolean;
  reasoning?: boolean;
  toolCall?: ToolCallFrame;
  tokenId?: number;
  tokenIds?: number[];
  logprob?: LogprobFrame;
  logprobs?: LogprobFrame[];
}

export interface UsageFrame {
  type: 'usage';
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

export interface TimingsFrame {
  queueMs: number;
  promptMs: number;
  predictedMs: number;
  tokensPerSecond: number;
}

export interface CompleteFrame {
  type: 'complete';
  finishReason: 'stop' | 'length' | 'tool_calls';
  text?: string;
  toolCalls?: ToolCallFrame[];
  timings: TimingsFrame;
  requestId?: string;
}

export interface StoppedFrame {
  type: 'stopped';
  reason: string;
  timings?: TimingsFrame;
  requestId?: string;
}

export interface ErrorFrame {
  type: 'error';
  code: string;
  message: string;
  param?: string;
  retryable?: boolean;
  refused?: string;
  requestId?: string;
}

export type ServerFrame =
  | AcceptedFrame
  | ProgressFrame
  | TokenFrame
  | UsageFrame
  | CompleteFrame
  | StoppedFrame
  | ErrorFrame;

/** ends reports whether a frame is the last of its generation. */
export function ends(f: ServerFrame): boolean {
  return f.type === 'complete' || f.type === 'stopped' || f.type === 'error';
}

/** Take receives frames in order; a promise asks the link to wait with the next. */
export type Take = (f: ServerFrame) => void | Promise<void>;

/**
 * Link carries generations to a server. carry ends with the terminal frame; it
 * rejects with Lost when the connection broke, with whatever take threw, and
 * with an LLMError when the server could not be asked.
 */
export interface Link {
  readonly kind: 'websocket' | 'sse' | 'plain';
  /** whether a lost generation can be fetched again */
  readonly resumes: boolean;
  carry(frame: ClientFrame, take: Take): Promise<void>;
  /** stop ends a generation on the server; it never rejects. */
  stop(id: string): Promise<void>;
}
