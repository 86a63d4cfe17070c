import { Client } from './client.js';
import { getCluster } from './cluster.js';
import type { DebugCallbacks, DebugInfo } from './debug.js';
import { asLLMError } from './errors.js';
import type { MemoryReport } from './memory.js';
import type { PerformanceProfile } from './profile.js';
import type { ChatMessage, EndpointConfig, GenerateRequest, GenerationResult, ImageInput, TokenChunk } from './requests.js';
import type { SocketLike } from './server-socket.js';
import type { ReadyReport } from './variant.js';

const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');

/** WebGPUStreamingInference streams answers of one model. Its generations run side by side. */
export class WebGPUStreamingInference {
  private readonly client: Client;

  /** It does no I/O; it throws an LLMError when an option is unknown or malformed. */
  constructor(cfg: EndpointConfig = {}) {
    this.client = new Client(cfg);
  }

  /** ready resolves when the model can answer. */
  ready(): Promise<ReadyReport> {
    return this.client.ready();
  }

  /** generate resolves with the whole answer; the request's callback hears each token. */
  generate(req: GenerateRequest): Promise<GenerationResult>;
  generate(input: string | ChatMessage[], options?: GenerateRequest): Promise<GenerationResult>;
  generate(input: GenerateRequest | string | ChatMessage[], options: GenerateRequest = {}): Promise<GenerationResult> {
    if (typeof input === 'string') return this.client.generate({ ...options, prompt: input });
    if (Array.isArray(input)) return this.client.generate({ ...options, messages: input });
    return this.client.generate(input);
  }

  /** generateStream yields one string per committed token. */
  generateStream(req: GenerateRequest): AsyncGenerator<string, GenerationResult, void> {
    return this.client.tokens(req);
  }

  /** chunks yields tokens with all that is known of them. */
  chunks(req: GenerateRequest): AsyncGenerator<TokenChunk, GenerationResult, void> {
    return this.client.chunks(req);
  }

  /** generateWithImage answers about an image. */
  generateWithImage(req: GenerateRequest & { imageData: ImageInput }): Promise<GenerationResult> {
    return this.client.generate(req);
  }

  /**
   * streamWebsocket runs a generation and writes the plain protocol's messages
   * to a server's socket. It resolves after the terminal message, also when
   * that is an error: then the result says so, for nobody else is to hear it.
   */
  async streamWebsocket(ws: SocketLike, prompt: string, maxTokens?: number, temperature?: number, more: GenerateRequest = {}): Promise<GenerationResult & { error?: Error }> {
    const { writePlain } = await import('./more.js');
    return writePlain(ws, this.client.chunks({ ...more, prompt, maxTokens, temperature }));
  }

  /** measureMemoryUsage runs that generation and reads what the stages held for it. */
  async measureMemoryUsage(req: GenerateRequest): Promise<MemoryReport> {
    return (await import('./more.js')).measureMemory(this.client, req);
  }

  /** getPerformanceProfile describes the last generation, once it has ended. */
  async getPerformanceProfile(): Promise<PerformanceProfile> {
    return (await import('./more.js')).profileOf(this.client);
  }

  /** setDebugCallbacks registers callbacks for what config.debug turns on; the function it returns removes them. */
  setDebugCallbacks(callbacks: Partial<DebugCallbacks>): () => void {
    const { client } = this;
    client.debug.push(callbacks);
    if (callbacks.onMemoryAllocation && client.config.debug) void reportMemory(client, callbacks.onMemoryAllocation);
    return () => {
      const at = client.debug.indexOf(callbacks);
      if (at >= 0) client.debug.splice(at, 1);
    };
  }

  /** getDebugInfo is a snapshot of this object. */
  getDebugInfo(): DebugInfo {
    const { config, report, reconnects, trace, transport } = this.client;
    return { config, ready: report, transport, reconnects, lastSteps: trace?.steps.slice(-32) ?? [] };
  }

  /** exportDebugLog is one JSON document per line, without secrets and, unless debugTokens is on, without text. */
  exportDebugLog(): string {
    return this.client.log.text();
  }

  /** stopGeneration ends one generation, or all of this object; it never rejects. */
  stopGeneration(id?: string): Promise<void> {
    return this.client.stop(id);
  }

  /** close stops everything. */
  close(): Promise<void> {
    return this.client.close();
  }

  [asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** reportMemory tells what the cluster holds for the model, stage by stage. */
async function reportMemory(client: Client, tell: DebugCallbacks['onMemoryAllocation']): Promise<void> {
  try {
    await client.ready();
    const { memoryOf } = await import('./more.js');
    for (const s of memoryOf(await getCluster(client.cfg), client.config.shardId)) {
      const where = `layers ${s.layers[0]} to ${s.layers[1] - 1}`;
      tell({ sizeBytes: s.weightBytes, purpose: `weights of ${where}`, node: s.node });
      tell({ sizeBytes: s.kvBytes, purpose: `KV pages of ${where}`, node: s.node });
      tell({ sizeBytes: Math.max(0, s.totalBytes - s.weightBytes - s.kvBytes), purpose: `activations of ${where}`, node: s.node });
    }
  } catch (e) {
    client.log.add('warn', { event: 'memory', message: asLLMError(e).message });
  }
}
