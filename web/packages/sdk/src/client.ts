import { checkConfig, type Config } from './config.js';
import { getCluster, type ClusterReport, type ModelReport } from './cluster.js';
import { ChunkQueue } from './queue.js';
import { DebugLog, type DebugCallbacks } from './debug.js';
import { asLLMError, LLMError, refuse } from './errors.js';
import { Generation } from './generation.js';
import { Links } from './links.js';
import { Trace } from './trace.js';
import { frameOptions, type EndpointConfig, type GenerateRequest, type GenerationResult, type TokenChunk } from './requests.js';
import { kindOf, serverConfig, type ReadyReport } from './variant.js';

const keys = ['modelPath', 'modelType', 'config', 'autoDetect', 'url', 'apiKey', 'transport', 'fetch', 'WebSocket'];
const pollMs = 500;

/**
 * Client is what all objects of this package stand on: a server, a model, a
 * config, and the generations that run. Making one does no I/O.
 */
export class Client {
  readonly log: DebugLog;
  readonly debug: Partial<DebugCallbacks>[] = [];
  /** the last generation, for profiles */
  trace?: Trace;
  report?: ReadyReport;
  reconnects = 0;
  private readonly links: Links;
  private readonly running = new Map<string, Generation>();
  private effective?: Config;
  private readying?: Promise<ReadyReport>;
  private closed = false;

  /** It throws an LLMError when an option is unknown or malformed. */
  constructor(readonly cfg: EndpointConfig) {
    for (const key of Object.keys(cfg))
      if (!keys.includes(key)) throw new LLMError(`${key} is not an option.`, { code: 'unsupported_option', param: key });
    checkConfig(cfg.config ?? {});
    this.links = new Links(cfg);
    this.log = new DebugLog(this.config);
  }

  /** transport is what a generation would begin with now. */
  get transport(): string {
    return this.links.first().kind;
  }

  /** config is what is in force: what the caller said, and what was detected. */
  get config(): Config {
    return this.effective ?? this.cfg.config ?? {};
  }

  /** ready resolves when the model can answer and every option of a variant is met. */
  ready(): Promise<ReadyReport> {
    this.readying ??= this.prepare().catch((e: unknown) => {
      this.readying = undefined; // the next call tries again
      throw asLLMError(e);
    });
    return this.readying;
  }

  private async prepare(): Promise<ReadyReport> {
    const began = Date.now();
    if (this.cfg.transport === 'plain') return (this.report = unasked(this.cfg));
    let alreadyLoaded = true;
    for (;;) {
      const cluster = await getCluster(this.cfg);
      const found = findModel(cluster, this.cfg.modelPath);
      if (found && found[1].state === 'failed')
        throw new LLMError(`${found[0]} could not be loaded: ${found[1].reason ?? 'no reason was given'}.`, { code: 'model_failed' });
      if (found && found[1].state === 'ready') return this.settle(cluster, found, { alreadyLoaded, waitedMs: Date.now() - began });
      if (this.closed) throw new LLMError('This object was closed.', { code: 'aborted' });
      alreadyLoaded = false;
      await new Promise((resolve) => setTimeout(resolve, pollMs));
    }
  }

  private async settle(cluster: ClusterReport, [name, model]: [string, ModelReport], load: { alreadyLoaded: boolean; waitedMs: number }): Promise<ReadyReport> {
    const { modelType, autoDetect, config } = this.cfg;
    if (modelType && modelType !== 'text')
      throw new LLMError(`${name} serves text; it cannot serve ${modelType}.`, { code: 'unsupported_model_type', param: 'modelType' });
    if (autoDetect) {
      const { fillIn } = await import('./more.js');
      this.effective = fillIn(cluster, name, config);
    }
    const report = reportOf(cluster, name, model, load);
    if (Object.keys(this.config).length > 0) (await import('./more.js')).settle(report, cluster, this.config);
    const wish = this.config.kvCacheConfig?.maxSeqLen;
    if (wish) report.kv.maxSeqLen = Math.min(Math.ceil(wish), model.context);
    this.log.add('info', { event: 'ready', model: name, precision: model.precision, route: model.stages });
    return (this.report = report);
  }

  /** start begins an answer; chunks go to onChunk. */
  start(req: GenerateRequest, onChunk: (c: TokenChunk) => void, queue?: ChunkQueue): Generation {
    const trace = new Trace();
    this.trace = trace;
    const generation = new Generation({
      onChunk: (chunk) => {
        this.watchChunk(chunk, trace);
        req.onChunk?.(chunk);
        onChunk(chunk);
      },
      onFrame: (frame) => this.watchFrame(trace.frame(frame)),
      onProgress: req.onProgress,
      onReconnect: (attempt) => {
        this.reconnects++;
        this.log.add('warn', { event: 'reconnect', attempt });
      },
      unread: queue && (() => queue.length),
      room: queue && (() => queue.room()),
    });
    trace.follow(generation.result);
    this.running.set(generation.id, generation);
    const abort = () => generation.abort(req.signal!.reason);
    req.signal?.addEventListener('abort', abort);
    generation.result
      .catch((e: LLMError) => {
        this.log.add('error', { event: 'error', code: e.code, message: e.message });
        for (const d of this.debug) d.onError?.(e);
      })
      .finally(() => {
        this.running.delete(generation.id);
        req.signal?.removeEventListener('abort', abort);
      });
    if (req.signal?.aborted) abort();
    void this.run(generation, req, trace);
    return generation;
  }

  private async run(generation: Generation, req: GenerateRequest, trace: Trace): Promise<void> {
    try {
      const report = await this.ready();
      const { config } = this;
      if (req.profilingCallback && !config.enableProfiling)
        throw refuse('profilingCallback', 'profilingCallback needs the config option enableProfiling: true.');
      const options = await frameOptions(req);
      if (config.debug && config.debugTokens) Object.assign(options, { tokenIds: true, logprobs: true });
      const server = serverConfig(config);
      if (Object.keys(server).length > 0) options.config = server;
      if (this.cfg.modelPath && this.cfg.transport !== 'plain') options.model = this.cfg.modelPath;
      if (req.profilingCallback) {
        const { reportProfile } = await import('./more.js');
        reportProfile(this, trace, generation.result, req.profilingCallback);
      }
      this.log.add('debug', { event: 'generate', id: generation.id, model: report.model, config: server });
      await generation.run(this.links, options);
    } catch (e) {
      generation.fail(e);
    }
  }

  /** generate runs an answer to its end, by the rules of callbacks. */
  async generate(req: GenerateRequest): Promise<GenerationResult> {
    const { callback } = req;
    const whole = this.config.streamingInference === false;
    let text = '';
    const generation = this.start(req, (c) => {
      text += said(c);
      if (!whole) callback?.(said(c), c.last === true);
      else if (c.finishReason) callback?.(text, c.last === true);
    });
    return generation.result; // a promise of its own: who does not await it hears of a failure all the same
  }

  /** chunks is an answer at the pace of its reader; leaving the loop stops it. */
  async *chunks(req: GenerateRequest): AsyncGenerator<TokenChunk, GenerationResult, void> {
    const queue = new ChunkQueue();
    const { callback } = req;
    const generation = this.start(req, (c) => {
      callback?.(said(c), c.last === true);
      queue.push(c);
    }, queue);
    generation.result.then(() => queue.end(), (e: unknown) => queue.end(e));
    try {
      for await (const chunk of queue) yield chunk;
      return await generation.result;
    } finally {
      await generation.stop();
    }
  }

  /** tokens is chunks as strings, one per committed token. */
  async *tokens(req: GenerateRequest): AsyncGenerator<string, GenerationResult, void> {
    const chunks = this.chunks(req);
    try {
      for (;;) {
        const next = await chunks.next();
        if (next.done) return next.value;
        if (next.value.tokens > 0 || next.value.text) yield said(next.value);
      }
    } finally {
      await chunks.return(undefined as never);
    }
  }

  /** stop ends one generation, or all of this object; it never rejects. */
  async stop(id?: string): Promise<void> {
    const which = id === undefined ? [...this.running.values()] : [this.running.get(id)];
    await Promise.all(which.map((g) => g?.stop()));
  }

  /** close stops everything and lets nothing begin. */
  async close(): Promise<void> {
    this.closed = true;
    await this.stop();
    this.links.release();
  }

  private watchChunk(chunk: TokenChunk, trace: Trace): void {
    trace.chunk(chunk);
    const { debug, debugTokens } = this.config;
    if (!debug) return;
    this.log.add('debug', { event: 'token', seq: chunk.seq, ...(debugTokens && { text: chunk.text }) });
    if (!debugTokens || chunk.tokens === 0) return;
    const probability = chunk.logprob === undefined ? undefined : Math.exp(chunk.logprob);
    for (const d of this.debug) d.onTokenGeneration?.({ token: chunk.text, tokenId: chunk.tokenId, probability });
  }

  private watchFrame(step: { name: string; timeMs: number; rows: number; node: string } | undefined): void {
    const { debug, debugInference } = this.config;
    if (!step || !debug) return;
    this.log.add('debug', { event: 'step', ...step });
    if (debugInference) for (const d of this.debug) d.onInferenceStep?.(step);
  }
}

/** findModel resolves a name the way the server does: exactly, or as an alias. */
function findModel(cluster: ClusterReport, name: string | undefined): [string, ModelReport] | undefined {
  const all = Object.entries(cluster.models);
  const found = name === undefined ? all[0] : all.find(([n, m]) => n === name || m.aliases.includes(name));
  if (!found && all.length > 0)
    throw new LLMError(`No model here is called ${name}; served are ${all.map(([n]) => n).join(', ')}.`, { code: 'model_not_found', param: 'modelPath' });
  return found;
}

function reportOf(cluster: ClusterReport, name: string, model: ModelReport, load: { alreadyLoaded: boolean; waitedMs: number }): ReadyReport {
  const stages = cluster.pipelines?.find((p) => p.state === 'ready')?.plan.stages ?? [];
  return {
    model: name,
    precision: model.precision,
    kv: { maxSeqLen: model.context },
    contextLength: model.context,
    route: stages.map((s) => {
      const device = cluster.nodes[s.node]?.devices.find((d) => d.index === s.device);
      return { node: s.node, device: s.device, kind: kindOf(device?.kind), deviceName: device?.name ?? '', layers: [s.first, s.end] };
    }),
    alreadyLoaded: load.alreadyLoaded,
    skipped: [],
    notes: [],
    load: { waitedMs: load.waitedMs },
  };
}

/** unasked is the report of a server that speaks the plain protocol alone and cannot say more. */
function unasked(cfg: EndpointConfig): ReadyReport {
  return {
    model: cfg.modelPath ?? '', precision: '', kv: { maxSeqLen: 0 }, contextLength: 0, route: [], alreadyLoaded: true, skipped: [],
    notes: ['the plain protocol does not say what serves'], load: { waitedMs: 0 },
  };
}

/** said is a chunk's part of the answer: what the model thought before it is none. */
function said(c: TokenChunk): string {
  return c.reasoning ? '' : c.text;
}
