import { Client } from './client.js';
import { LLMError, asLLMError } from './errors.js';
import type { ChatMessage, EndpointConfig, FinishReason, GenerateRequest, Progress, TokenChunk } from './requests.js';

/** Message is a turn with an id of its own. */
export interface Message {
  id: string;
  role: ChatMessage['role'];
  content: string;
}

/** ChatState is what a page shows of a conversation; a new object after each change. */
export interface ChatState {
  messages: Message[];
  status: 'submitted' | 'streaming' | 'ready' | 'error';
  error?: LLMError;
  /** of the last answer */
  stats?: { tokens: number; tokensPerSecond: number; firstTokenMs: number };
  /** what happens before the first token */
  phase?: Progress;
  /** "node/device [first..end)" of each stage that answers */
  route: string[];
}

export interface ChatOptions extends EndpointConfig {
  system?: string;
  messages?: Message[];
  maxTokens?: number;
  temperature?: number;
  /** told when an answer has ended, and how */
  onFinish?(end: { message: Message; isAbort: boolean; isDisconnect: boolean; isError: boolean; finishReason?: FinishReason }): void;
}

/**
 * Chat is a conversation that a page can watch: the part that the bindings for
 * React, Vue and others share. Changes are told at most once per frame.
 */
export class Chat {
  private client?: Client;
  private state: ChatState;
  private readonly watchers = new Set<() => void>();
  private scheduled = false;
  private ids = 0;

  constructor(private options: ChatOptions = {}) {
    this.state = { messages: options.messages ?? [], status: 'ready', route: [] };
  }

  /** subscribe calls back after changes until the returned function is called. */
  readonly subscribe = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  /** snapshot is the state now; the same object until it changes. */
  readonly snapshot = (): ChatState => this.state;

  /** sendMessage adds a turn and answers it. It resolves when the answer has ended, and never rejects. */
  readonly sendMessage = async (message: string | { text: string }, more: Omit<GenerateRequest, 'prompt' | 'text' | 'messages'> = {}): Promise<void> => {
    if (this.busy) return;
    const content = typeof message === 'string' ? message : message.text;
    this.set({ messages: [...this.state.messages, this.turn('user', content)] });
    await this.answer(more);
  };

  /** regenerate answers the last user's turn, or the one before a given answer, again. */
  readonly regenerate = async ({ messageId }: { messageId?: string } = {}): Promise<void> => {
    if (this.busy) return;
    const { messages } = this.state;
    const from = messageId === undefined ? messages.length : messages.findIndex((m) => m.id === messageId);
    const last = messages.slice(0, from).findLastIndex((m) => m.role === 'user');
    if (last < 0) return;
    this.set({ messages: messages.slice(0, last + 1) });
    await this.answer({});
  };

  /** stop ends the answer; what there is of it stays. */
  readonly stop = async (): Promise<void> => {
    await this.client?.stop();
  };

  readonly setMessages = (messages: Message[] | ((now: Message[]) => Message[])): void => {
    this.set({ messages: typeof messages === 'function' ? messages(this.state.messages) : messages });
  };

  /** resumeStream answers a conversation whose last turn is the user's, as after a reload. */
  readonly resumeStream = async (): Promise<void> => {
    if (!this.busy && this.state.messages.at(-1)?.role === 'user') await this.answer({});
  };

  readonly clearError = (): void => {
    if (this.state.status === 'error') this.set({ status: 'ready', error: undefined });
  };

  /** update changes what the next answer is asked with, and who is told of its end. */
  readonly update = ({ system, maxTokens, temperature, onFinish }: ChatOptions): void => {
    this.options = { ...this.options, system, maxTokens, temperature, onFinish };
  };

  /** close stops what runs; the conversation stays. */
  readonly close = async (): Promise<void> => {
    const { client } = this;
    this.client = undefined;
    await client?.close();
  };

  private get busy(): boolean {
    return this.state.status === 'submitted' || this.state.status === 'streaming';
  }

  private turn(role: Message['role'], content: string): Message {
    return { id: `m${++this.ids}-${Date.now().toString(36)}`, role, content };
  }

  private async answer(more: GenerateRequest): Promise<void> {
    const { system, maxTokens, temperature } = this.options;
    const asked = this.state.messages.map(({ id, ...m }) => m as ChatMessage);
    let reply = this.turn('assistant', '');
    const began = Date.now();
    let end: TokenChunk | undefined;
    this.set({ status: 'submitted', error: undefined, stats: undefined, phase: undefined });
    const show = (chunk: TokenChunk) => {
      reply = { ...reply, content: reply.content + chunk.text };
      if (chunk.finishReason) end = chunk;
      const { messages, stats } = this.state;
      const kept = messages.at(-1)?.id === reply.id ? messages.slice(0, -1) : messages;
      this.set({ messages: [...kept, reply], status: 'streaming', phase: undefined, stats: grow(stats, chunk, began), ...(chunk.route && { route: chunk.route }) });
    };
    try {
      this.client ??= new Client(clientConfig(this.options));
      await this.client.start({ messages: asked, system, maxTokens, temperature, ...more, onProgress: (phase) => this.set({ phase }) }, show).result;
      this.set({ status: 'ready' });
      this.options.onFinish?.({ message: reply, isAbort: end?.finishReason === 'stopped', isDisconnect: false, isError: false, finishReason: end?.finishReason });
    } catch (e) {
      const error = asLLMError(e);
      const isAbort = error.code === 'aborted';
      this.set(isAbort ? { status: 'ready' } : { status: 'error', error });
      this.options.onFinish?.({ message: reply, isAbort, isDisconnect: error.code === 'connection_lost', isError: !isAbort });
    }
  }

  private set(change: Partial<ChatState>): void {
    this.state = { ...this.state, ...change };
    if (this.scheduled) return;
    this.scheduled = true;
    const tell = () => {
      this.scheduled = false;
      for (const watcher of this.watchers) watcher();
    };
    if (typeof requestAnimationFrame === 'function' && globalThis.document?.visibilityState === 'visible') requestAnimationFrame(tell);
    else setTimeout(tell, 16);
  }
}

/** clientConfig is the part of the options that a client is made of. */
function clientConfig(o: ChatOptions): EndpointConfig {
  const { modelPath, modelType, config, autoDetect, url, apiKey, transport, fetch, WebSocket } = o;
  return { modelPath, modelType, config, autoDetect, url, apiKey, transport, fetch, WebSocket };
}

function grow(stats: ChatState['stats'], chunk: TokenChunk, began: number): ChatState['stats'] {
  const now = Date.now();
  const firstTokenMs = stats?.firstTokenMs ?? now - began;
  const tokens = (stats?.tokens ?? 0) + chunk.tokens;
  const seconds = (now - began - firstTokenMs) / 1_000;
  return { tokens, firstTokenMs, tokensPerSecond: seconds > 0 ? (tokens - 1) / seconds : 0 };
}
