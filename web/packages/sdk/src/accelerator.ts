import type { BenchmarkOptions, BenchmarkReport } from './benchmark.js';
import type { Capabilities } from './capabilities.js';
import { Client } from './client.js';
import type { DiagnosticOptions, DiagnosticReport, FixResult, Issue } from './diagnostics.js';
import type { OptimalOptions } from './optimal.js';
import type { Config } from './config.js';
import type { EndpointConfig, GenerateRequest, GenerationResult, TokenChunk } from './requests.js';
import type { ReadyReport } from './variant.js';
import type { Where } from './where.js';

/** Endpoint is a function that answers, with the rest of what a model can do beside it. */
export interface Endpoint {
  /** the whole text; the request's callback hears each token */
  (req: GenerateRequest): Promise<string>;
  ready(): Promise<ReadyReport>;
  chunks(req: GenerateRequest): AsyncGenerator<TokenChunk, GenerationResult, void>;
  stop(id?: string): Promise<void>;
  close(): Promise<void>;
}

function endpointOf(client: Client): Endpoint {
  const call = async (req: GenerateRequest) => (await client.generate(req)).text;
  return Object.assign(call, {
    ready: () => client.ready(),
    chunks: (req: GenerateRequest) => client.chunks(req),
    stop: (id?: string) => client.stop(id),
    close: () => client.close(),
  });
}

/** WebPlatformAccelerator is the handle of a model that a cluster computes. */
export class WebPlatformAccelerator {
  private readonly clients: Client[] = [];

  /** It does no I/O; it throws an LLMError when an option is unknown or malformed. */
  constructor(private readonly cfg: EndpointConfig = {}) {
    new Client(cfg); // checks
  }

  /** createEndpoint begins to connect in the background; the first call waits for it. */
  createEndpoint(more: Partial<EndpointConfig> = {}): Endpoint {
    const client = new Client({ ...this.cfg, ...more });
    this.clients.push(client);
    client.ready().catch(() => {}); // the first call hears of it
    return endpointOf(client);
  }

  /** stopGeneration ends one generation, or all of this object's endpoints; it never rejects. */
  async stopGeneration(id?: string): Promise<void> {
    await Promise.all(this.clients.map((c) => c.stop(id)));
  }

  /** close stops everything. */
  async close(): Promise<void> {
    await Promise.all(this.clients.map((c) => c.close()));
  }

  /** detectCapabilities tells the truth about this platform by probing it, and what the cluster offers; it never rejects. */
  static async detectCapabilities(o: Where = {}): Promise<Capabilities> {
    return (await import('./more.js')).detect(o);
  }

  /** runBenchmark measures a model on the cluster. */
  static async runBenchmark(o: BenchmarkOptions = {}): Promise<BenchmarkReport> {
    return (await import('./more.js')).benchmark(o);
  }

  /** runDiagnostics looks for what is wrong on this side and on the cluster; it never rejects. */
  static async runDiagnostics(o: DiagnosticOptions = {}): Promise<DiagnosticReport> {
    return (await import('./more.js')).diagnose(o);
  }

  /** applyAutomaticFixes applies what is safe, and says what it did. */
  static async applyAutomaticFixes(issues: Issue[]): Promise<FixResult[]> {
    return (await import('./more.js')).fix(issues);
  }
}

/** createWebEndpoint resolves when the model is ready. */
export async function createWebEndpoint(cfg: EndpointConfig = {}): Promise<Endpoint> {
  const client = new Client(cfg);
  await client.ready();
  return endpointOf(client);
}

/** StreamingEndpoint streams answers; it connects at the first one. */
export interface StreamingEndpoint {
  generateStream(req: GenerateRequest): AsyncGenerator<string, GenerationResult, void>;
  chunks(req: GenerateRequest): AsyncGenerator<TokenChunk, GenerationResult, void>;
  stop(id?: string): Promise<void>;
  close(): Promise<void>;
}

/** createStreamingEndpoint makes one; it does no I/O. */
export function createStreamingEndpoint(cfg: EndpointConfig = {}): StreamingEndpoint {
  const client = new Client(cfg);
  return {
    generateStream: (req) => client.tokens(req),
    chunks: (req) => client.chunks(req),
    stop: (id) => client.stop(id),
    close: () => client.close(),
  };
}

/** getOptimalConfig makes a config of options that the cluster honours; without a server a conservative one. */
export async function getOptimalConfig(model?: string, modelType?: string, o: OptimalOptions = {}): Promise<Config> {
  return (await import('./more.js')).optimalConfig(model, modelType, o);
}
