import { WebPlatformAccelerator, LLMError, type ChatMessage, type Config, type Endpoint, type EndpointConfig } from '@shoal/sdk';
import { html, LitElement, nothing, type PropertyDeclarations, type PropertyValues } from 'lit';
import { style } from './style.js';

/** Stats of the answer that runs or ran last. */
export interface Stats {
  tokens: number;
  tokensPerSecond: number;
  /** to the first token, in milliseconds */
  firstTokenMs: number;
}

/** StreamingLLMEvents are the details of the events; exactly one of the last three ends each generation. */
export interface StreamingLLMEvents {
  'model-ready': { model: string; capabilities: { precision: string; contextLength: number }; route: unknown[] };
  token: { token: string; isLast: boolean; seq: number; tokensPerSecond: number };
  'generation-complete': { text: string; usage: unknown; timings: unknown; finishReason: string };
  'generation-stopped': { text: string; reason: 'user' | 'disconnected' | 'removed' };
  error: { message: string; error: LLMError };
}

type Status = 'waiting' | 'loading' | 'ready' | 'generating' | 'error';

/**
 * <streaming-llm> is a prompt, an answer that streams, and a way to stop it.
 *
 * A conversation is kept in messages; what is shown is its last turn. Removing
 * the element stops its answer.
 */
export class StreamingLLM extends LitElement {
  static override styles = style;
  static formAssociated = true;
  static override properties: PropertyDeclarations = {
    modelPath: { type: String, attribute: 'model-path', reflect: true },
    modelType: { type: String, attribute: 'model-type', reflect: true },
    maxTokens: { type: Number, attribute: 'max-tokens', reflect: true },
    temperature: { type: Number, reflect: true },
    url: { type: String, reflect: true },
    endpoint: { type: String, reflect: true },
    system: { type: String, reflect: true },
    placeholder: { type: String, reflect: true },
    theme: { type: String, reflect: true },
    readonly: { type: Boolean, reflect: true },
    config: { attribute: false },
    status: { state: true },
    output: { state: true },
    problem: { state: true },
    asked: { state: true },
    stats: { state: true },
  };

  declare modelPath: string | null;
  declare modelType: string;
  declare maxTokens: number;
  declare temperature: number;
  /** the server's address; absent: the page's origin */
  declare url: string | null;
  /** the same as url */
  declare endpoint: string | null;
  declare system: string | null;
  declare placeholder: string;
  declare theme: 'light' | 'dark' | null;
  declare readonly: boolean;
  declare config: Config | undefined;
  declare status: Status;
  declare stats: Stats | undefined;
  private declare output: string;
  private declare problem: string;
  private declare asked: string;
  /** fetches a key when one is needed; never an attribute, for those can be read by anyone */
  apiKeyProvider?: () => Promise<string>;
  /** the conversation so far */
  messages: ChatMessage[] = [];

  private readonly internals = this.attachInternals();
  private accelerator?: WebPlatformAccelerator;
  private answer?: Endpoint;
  private loads = 0;
  private model = '';
  private ending: 'user' | 'disconnected' | 'removed' = 'disconnected';

  constructor() {
    super();
    this.modelPath = this.url = this.endpoint = this.system = this.theme = null;
    this.modelType = 'text';
    this.maxTokens = 500;
    this.temperature = 0.7;
    this.placeholder = 'Enter your prompt here...';
    this.readonly = false;
    this.status = 'waiting';
    this.output = this.problem = this.asked = '';
  }

  /** value is the prompt; a form sends it under the element's name. */
  get value(): string {
    return this.field?.value ?? '';
  }

  set value(text: string) {
    if (this.field) this.field.value = text;
    this.internals.setFormValue(text);
  }

  private get field(): HTMLTextAreaElement | null {
    return this.renderRoot?.querySelector('textarea') ?? null;
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.end('removed');
  }

  override connectedCallback(): void {
    super.connectedCallback();
    if (this.hasUpdated && this.modelPath && !this.answer) void this.load();
  }

  protected override willUpdate(changed: PropertyValues): void {
    const reload = ['modelPath', 'modelType', 'url', 'endpoint', 'config'].some((name) => changed.has(name));
    if (reload && this.modelPath) void this.load();
    if (changed.has('status'))
      for (const state of ['loading', 'ready', 'generating', 'error'])
        if (state === this.status) this.internals.states.add(state);
        else this.internals.states.delete(state);
  }

  /** load makes a new handle and waits until the model can answer. */
  private async load(): Promise<void> {
    const load = ++this.loads;
    this.end('removed');
    this.status = 'loading';
    this.problem = '';
    try {
      this.accelerator = new WebPlatformAccelerator({
        modelPath: this.modelPath!,
        modelType: this.modelType as EndpointConfig['modelType'],
        url: this.url ?? this.endpoint ?? undefined,
        apiKey: this.apiKeyProvider,
        config: this.config,
        autoDetect: true,
      });
      this.answer = this.accelerator.createEndpoint();
      const report = await this.answer.ready();
      if (load !== this.loads) return;
      this.model = report.model;
      this.status = 'ready';
      const { precision, contextLength, route } = report;
      this.tell('model-ready', { model: report.model, capabilities: { precision, contextLength }, route });
    } catch (e) {
      if (load === this.loads) this.fail('Failed to load model: ', e);
    }
  }

  /** end stops what runs and lets go of the model. */
  private end(reason: 'removed'): void {
    if (this.status === 'generating') this.ending = reason;
    void this.accelerator?.close();
    this.accelerator = this.answer = undefined;
    if (this.status !== 'error') this.status = 'waiting';
  }

  /** generate answers a prompt, the field's if none is given. */
  async generate(prompt = this.value): Promise<void> {
    const text = prompt.trim();
    if (!this.answer || this.status === 'loading' || this.status === 'generating' || !text) return;
    const turns: ChatMessage[] = [...this.messages, { role: 'user', content: text }];
    this.messages = turns;
    this.asked = text;
    this.output = this.problem = '';
    this.stats = undefined;
    this.status = 'generating';
    this.ending = 'disconnected';
    const { system, maxTokens, temperature } = this;
    try {
      const chunks = this.answer.chunks({ messages: turns, system: system ?? undefined, maxTokens, temperature });
      const began = performance.now();
      let first = 0;
      let tokens = 0;
      for await (const c of chunks) {
        first ||= performance.now();
        this.output += c.text;
        tokens += c.tokens;
        const seconds = (performance.now() - first) / 1_000;
        this.stats = { tokens, tokensPerSecond: seconds > 0 ? (tokens - 1) / seconds : 0, firstTokenMs: first - began };
        if (c.finishReason === 'stopped') this.finish('generation-stopped', { text: this.output, reason: this.ending });
        else this.tell('token', { token: c.text, isLast: c.last === true, seq: c.seq, tokensPerSecond: this.stats.tokensPerSecond });
        if (c.last) this.finish('generation-complete', { text: this.output, usage: c.usage, timings: c.timings, finishReason: c.finishReason! });
      }
    } catch (e) {
      this.fail('Generation error: ', e);
    }
  }

  private finish<K extends 'generation-complete' | 'generation-stopped'>(event: K, detail: StreamingLLMEvents[K]): void {
    this.messages = [...this.messages, { role: 'assistant', content: this.output }];
    if (this.status === 'generating') this.status = 'ready';
    this.tell(event, detail);
  }

  /** stop ends the answer; what there is of it stays. */
  async stop(): Promise<void> {
    if (this.status !== 'generating') return;
    this.ending = 'user';
    await this.accelerator?.stopGeneration();
  }

  /** clear forgets the conversation. */
  clear(): void {
    this.messages = [];
    this.output = this.problem = this.asked = '';
    this.stats = undefined;
  }

  private fail(prefix: string, e: unknown): void {
    const error = e instanceof LLMError ? e : new LLMError(String(e), { code: 'internal_error', cause: e });
    this.problem = prefix + error.message;
    this.status = prefix.startsWith('Failed') ? 'error' : 'ready';
    this.tell('error', { message: this.problem, error });
  }

  private tell<K extends keyof StreamingLLMEvents>(name: K, detail: StreamingLLMEvents[K]): void {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  protected override updated(): void {
    const log = this.renderRoot.querySelector('.output');
    if (log && this.status === 'generating') log.scrollTop = log.scrollHeight;
  }

  private submitted(e: Event): void {
    e.preventDefault();
    void this.generate();
  }

  private empty(): unknown {
    const text = {
      waiting: 'Output will appear here', loading: 'Loading model...', ready: 'Model loaded. Ready to generate.', generating: '', error: 'Output will appear here',
    };
    return html`<slot name="empty">${text[this.status]}</slot>`;
  }

  protected override render(): unknown {
    const busy = this.status === 'generating';
    const able = this.status === 'ready';
    return html`
      <div class="container">
        <slot name="header"></slot>
        ${this.readonly
          ? nothing
          : html`<form part="composer" @submit=${this.submitted}>
              <textarea part="input" aria-label="Prompt" placeholder=${this.placeholder} @input=${() => this.internals.setFormValue(this.value)}></textarea>
              <div class="buttons">
                <button part="send" type="submit" ?disabled=${!able}>Generate</button>
                <button part="stop" type="button" class="stop-btn" ?disabled=${!busy} @click=${this.stop}>Stop</button>
              </div>
            </form>`}
        <div class="message-user" part="message message-user" ?hidden=${!this.asked}>${this.asked}</div>
        <div class="output" part="transcript" role="log" tabindex="0" aria-label="Answer" aria-busy=${busy}>${this.output ? html`<span part="message message-assistant">${this.output}</span>` : this.empty()}</div>
        <div class="error" role="alert" ?hidden=${!this.problem}>${this.problem}</div>
        <div class="status" part="status" role="status" ?hidden=${!this.model}>Model loaded: ${(this.modelPath ?? '').split('/').pop()}</div>
        <div class="stats" part="stats" ?hidden=${!this.stats}>${this.stats ? `${this.stats.tokens} tokens, ${this.stats.tokensPerSecond.toFixed(0)} tokens/s, first after ${this.stats.firstTokenMs.toFixed(0)} ms` : nothing}</div>
        <slot name="footer"></slot>
      </div>
    `;
  }
}
