import type { Config } from './config.js';
import type { LogprobFrame, TimingsFrame, ToolCallFrame } from './frames.js';
import type { ProfileUpdate } from './profile.js';
import { LLMError, malformed } from './errors.js';

export type ImageInput =
  | Blob | File | ImageData | ImageBitmap | HTMLImageElement | HTMLCanvasElement | ArrayBuffer | Uint8Array | URL | string;

/** ChatMessage is a turn of a conversation, as OpenAI spells it. */
export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool';
  content: string | ContentPart[];
  [member: string]: unknown;
}

export type ContentPart = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };

/** EndpointConfig is what an object is made of; all of it is optional. */
export interface EndpointConfig {
  /** a name that the server resolves; absent: the server's model */
  modelPath?: string;
  modelType?: 'text' | 'vision' | 'audio' | 'multimodal';
  config?: Config;
  /** fill in what config leaves out from what the cluster offers */
  autoDetect?: boolean;
  url?: string;
  apiKey?: string | (() => Promise<string>);
  /** plain speaks the guide's simple protocol, also to servers that are not Shoal */
  transport?: 'auto' | 'websocket' | 'sse' | 'plain';
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
}

/** GenerateRequest asks for one answer: to a prompt or to a conversation. */
export interface GenerateRequest {
  prompt?: string;
  /** the same as prompt */
  text?: string;
  messages?: ChatMessage[];
  system?: string;
  /** continue the prompt as it is, without the model's chat template */
  raw?: boolean;
  /** tokens at most, 500 */
  maxTokens?: number;
  /** 0 is greedy; 0.7 */
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  stop?: string[];
  seed?: number;
  /** alternatives of each token to report, with its own log-probability */
  logprobs?: number;
  responseFormat?: object;
  tools?: object[];
  toolChoice?: string | object;
  imageData?: ImageInput;
  images?: ImageInput[];
  /** called once per committed token, in order; isLast at the end of a completed answer only */
  callback?(token: string, isLast: boolean): void;
  profilingCallback?(update: ProfileUpdate): void;
  onChunk?(chunk: TokenChunk): void;
  onProgress?(progress: Progress): void;
  signal?: AbortSignal;
}

/** Progress is what happens while no token comes. */
export interface Progress {
  phase: 'queued' | 'loading' | 'prefill' | 'recovering' | 'waiting' | 'reconnecting';
  done: number;
  total: number;
}

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'stopped';

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

/** Timings in milliseconds: three of the server, two of this side. */
export interface Timings extends TimingsFrame {
  /** from the call to the first token */
  firstTokenMs: number;
  totalMs: number;
}

/** TokenChunk is one committed token; the last may carry text that no token has. */
export interface TokenChunk {
  seq: number;
  text: string;
  /** 1, or 0 for an end without a token of its own */
  tokens: number;
  last?: boolean;
  reasoning?: boolean;
  toolCall?: ToolCallFrame;
  tokenId?: number;
  logprob?: number;
  topLogprobs?: LogprobFrame['top'];
  finishReason?: FinishReason;
  usage?: Usage;
  timings?: Timings;
  /** "node/device [first..end)" of each stage */
  route?: string[];
}

/** GenerationResult is a whole answer; it prints as its text. */
export interface GenerationResult {
  text: string;
  /** what the model thought before it answered */
  reasoning?: string;
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
  model: string;
  precision: string;
  requestId: string;
  toolCalls?: ToolCallFrame[];
  notes: string[];
  toString(): string;
}

const ownKeys = new Set([
  'prompt', 'text', 'messages', 'system', 'raw', 'maxTokens', 'temperature', 'topP', 'topK', 'minP', 'stop', 'seed', 'logprobs',
  'responseFormat', 'tools', 'toolChoice', 'imageData', 'images', 'callback', 'profilingCallback', 'onChunk', 'onProgress', 'signal',
]);

/** frameOptions are the members of a generate frame that a request makes. */
export async function frameOptions(req: GenerateRequest): Promise<Record<string, unknown>> {
  for (const key of Object.keys(req))
    if (!ownKeys.has(key)) throw new LLMError(`${key} is not an option of a generation.`, { code: 'unsupported_option', param: key });
  if (req.prompt !== undefined && req.text !== undefined && req.prompt !== req.text) throw malformed('text', 'means the same as prompt and says something else');
  const { system, raw, maxTokens, temperature, topP, topK, minP, stop, seed, tools } = req;
  const out: Record<string, unknown> = { system, raw, maxTokens, temperature, topP, topK, minP, stop, seed, tools };
  out.response_format = req.responseFormat;
  out.tool_choice = req.toolChoice;
  if (req.logprobs !== undefined) Object.assign(out, { logprobs: true, topLogprobs: req.logprobs });
  const images = [...(req.images ?? []), ...(req.imageData === undefined ? [] : [req.imageData])];
  const prompt = req.prompt ?? req.text;
  if (images.length > 0) out.messages = await withImages(prompt, req.messages, images);
  else if (req.messages) Object.assign(out, { messages: req.messages, prompt });
  else if (prompt === undefined) throw malformed('prompt', 'is missing');
  else out.prompt = prompt;
  return out;
}

/** withImages puts images into the last turn of a conversation. */
async function withImages(prompt: string | undefined, messages: ChatMessage[] | undefined, images: ImageInput[]): Promise<ChatMessage[]> {
  const { imageURL } = await import('./more.js');
  const parts: ContentPart[] = [];
  for (const image of images) parts.push({ type: 'image_url', image_url: { url: await imageURL(image) } });
  const turns: ChatMessage[] = [...(messages ?? []), ...(prompt === undefined ? [] : [{ role: 'user' as const, content: prompt }])];
  const last = turns.pop();
  if (!last) throw malformed('prompt', 'is missing');
  const content = typeof last.content === 'string' ? [{ type: 'text' as const, text: last.content }] : last.content;
  return [...turns, { ...last, content: [...parts, ...content] }];
}
