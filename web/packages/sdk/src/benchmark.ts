import { Client } from './client.js';
import { type Config, type Precision, precisionName } from './config.js';
import { asLLMError, LLMError, malformed } from './errors.js';
import { measureMemory } from './memory.js';
import type { EndpointConfig } from './requests.js';
import type { Where } from './where.js';

/** BenchmarkOptions say what is combined with what. */
export interface BenchmarkOptions extends Where {
  modelPath?: string;
  modelType?: EndpointConfig['modelType'];
  precisions?: Precision[];
  /** values of options to try, each in combination with the others */
  features?: Partial<Record<keyof Config, unknown[]>>;
  /** tokens in, about */
  promptLengths?: number[];
  /** tokens out */
  generateLengths?: number[];
  iterations?: number;
  onProgress?(done: number, total: number): void;
  transport?: EndpointConfig['transport'];
}

/** BenchmarkRun is one generation. */
export interface BenchmarkRun {
  precision: string;
  features: Config;
  promptTokens: number;
  generatedTokens: number;
  iteration: number;
  /** milliseconds, as the caller saw it */
  timeToFirstToken: number;
  /** after the first */
  tokensPerSecond: number;
}

export interface Spread {
  median: number;
  min: number;
  max: number;
}

export interface PrecisionResult {
  /** medians over the runs of the best features */
  timeToFirstToken: number;
  tokensPerSecond: number;
  memoryMB: number;
  peakMemoryMB: number;
  optimalConfig: Config;
  spread: { timeToFirstToken: Spread; tokensPerSecond: Spread };
}

export interface BenchmarkReport {
  /** those that were measured */
  precisions: string[];
  results: Record<string, PrecisionResult>;
  runs: BenchmarkRun[];
  /** what was left out, and why */
  skipped: { what: string; reason: string }[];
  getRecommendation(): { config: Config; precision: string; reason: string; toString(): string };
}

/** Generations of one benchmark at most: it counts against the key's limits. */
const mostRuns = 5_000;
/** How often a run that was refused for the moment is tried again, and how long after. */
const mostRefused = 10;
const refusedMs = 1_000;

/** benchmark measures every combination on the cluster. */
export async function benchmark(o: BenchmarkOptions): Promise<BenchmarkReport> {
  const lengths = (list: number[] | undefined, otherwise: number[], name: string) => {
    if (list?.some((n) => !Number.isInteger(n) || n < 1) || list?.length === 0) throw malformed(name, 'must be whole numbers of at least 1');
    return list ?? otherwise;
  };
  const prompts = lengths(o.promptLengths, [32], 'promptLengths');
  const outs = lengths(o.generateLengths, [32], 'generateLengths');
  const [iterations] = lengths([o.iterations ?? 3], [], 'iterations') as [number];
  const b = new Benchmark(o);
  const precisions = await b.precisions();
  const combinations = await b.combinations(precisions[0]);
  const total = precisions.length * combinations.length * prompts.length * outs.length * iterations;
  if (total > mostRuns) throw malformed('iterations', `makes ${total} runs of this benchmark; at most ${mostRuns} are allowed`);
  let done = 0;
  for (const precision of precisions)
    for (const features of combinations)
      for (const prompt of prompts)
        for (const out of outs)
          for (let iteration = 1; iteration <= iterations; iteration++) {
            await b.run(precision, features, prompt, out, iteration);
            o.onProgress?.(++done, total);
          }
  return b.report(precisions, combinations);
}

class Benchmark {
  private readonly runs: BenchmarkRun[] = [];
  private readonly skipped: { what: string; reason: string }[] = [];
  private readonly memory = new Map<string, { now: number; peak: number }>();
  private readonly tooLong = new Set<string>();

  constructor(private readonly o: BenchmarkOptions) {}

  private client(config: Config): Client {
    const { modelPath, modelType, url, apiKey, fetch, transport } = this.o;
    return new Client({ modelPath, modelType, url, apiKey, fetch, transport, config });
  }

  /** precisions are those that are served, with the reasons for the others. */
  async precisions(): Promise<string[]> {
    const own = async () => [(await this.client({}).ready()).precision as Precision];
    const wanted = (this.o.precisions ?? (await own())).map(precisionName);
    const served: string[] = [];
    for (const p of wanted) if (await this.serves(p, { quantization: p as Precision })) served.push(p);
    return served;
  }

  /** combinations are all of the features' values that the cluster honours. */
  async combinations(precision: string | undefined): Promise<Config[]> {
    if (precision === undefined) return [];
    let all: Config[] = [{}];
    for (const [key, values] of Object.entries(this.o.features ?? {})) {
      const honoured: unknown[] = [];
      for (const value of values!) {
        const config = { quantization: precision as Precision, [key]: value } as Config;
        if (await this.serves(`${key}: ${JSON.stringify(value)}`, config)) honoured.push(value);
      }
      if (honoured.length > 0) all = all.flatMap((c) => honoured.map((v) => ({ ...c, [key]: v })));
    }
    return all;
  }

  /** serves asks for one token with a config. */
  private async serves(what: string, config: Config): Promise<boolean> {
    try {
      await patiently(() => this.client(config).generate({ prompt: 'a', maxTokens: 1, signal: this.o.signal }));
      return true;
    } catch (e) {
      const error = asLLMError(e);
      if (error.code !== 'unsupported_option' && error.code !== 'variant_not_served') throw error;
      this.skipped.push({ what, reason: error.message });
      return false;
    }
  }

  async run(precision: string, features: Config, promptTokens: number, generate: number, iteration: number): Promise<void> {
    const lengths = `${promptTokens} tokens in, ${generate} out`;
    if (this.tooLong.has(lengths)) return;
    const client = this.client({ ...features, quantization: precision as Precision });
    const prompt = 'word '.repeat(promptTokens).trim();
    try {
      const { kv } = await client.ready();
      if (promptTokens + generate > kv.maxSeqLen)
        throw new LLMError(`The model's context has ${kv.maxSeqLen} positions.`, { code: 'context_length_exceeded' });
      const request = { prompt, raw: true, maxTokens: generate, temperature: 0, seed: iteration, signal: this.o.signal };
      const known = this.memory.get(precision);
      const result = await patiently(() => client.generate(request));
      if (!known) await this.weigh(precision, client);
      const { firstTokenMs, totalMs } = result.timings;
      const { completionTokens } = result.usage;
      this.runs.push({
        precision, features, iteration,
        promptTokens: result.usage.promptTokens,
        generatedTokens: completionTokens,
        timeToFirstToken: firstTokenMs,
        tokensPerSecond: totalMs > firstTokenMs ? (1_000 * (completionTokens - 1)) / (totalMs - firstTokenMs) : 0,
      });
    } catch (e) {
      const error = asLLMError(e);
      if (error.code !== 'context_length_exceeded') throw error;
      this.tooLong.add(lengths);
      this.skipped.push({ what: lengths, reason: error.message });
    }
  }

  private async weigh(precision: string, client: Client): Promise<void> {
    const m = await measureMemory(client, { prompt: 'memory', maxTokens: 1, signal: this.o.signal });
    this.memory.set(precision, { now: m.totalEstimatedMB, peak: m.peakWebGPUBufferMB + m.peakCPUBufferMB });
  }

  report(precisions: string[], combinations: Config[]): BenchmarkReport {
    const { runs, skipped } = this;
    const measured = precisions.filter((p) => runs.some((r) => r.precision === p));
    const results = Object.fromEntries(measured.map((p) => [p, this.resultOf(p, combinations)]));
    return { precisions: measured, results, runs, skipped, getRecommendation: () => recommend(results) };
  }

  private resultOf(precision: string, combinations: Config[]): PrecisionResult {
    const scored = combinations
      .map((features) => {
        const mine = this.runs.filter((r) => r.precision === precision && r.features === features);
        return { features, ttft: spread(mine.map((r) => r.timeToFirstToken)), rate: spread(mine.map((r) => r.tokensPerSecond)) };
      })
      .sort((a, b) => b.rate.median - a.rate.median);
    const best = scored[0]!;
    const memory = this.memory.get(precision)!;
    return {
      timeToFirstToken: best.ttft.median,
      tokensPerSecond: best.rate.median,
      memoryMB: memory.now,
      peakMemoryMB: memory.peak,
      optimalConfig: { ...best.features, quantization: precision as Precision },
      spread: { timeToFirstToken: best.ttft, tokensPerSecond: best.rate },
    };
  }
}

/** patiently asks again, a few times, when the cluster is too busy to answer. */
async function patiently<T>(ask: () => Promise<T>): Promise<T> {
  for (let refused = 0; ; ) {
    try {
      return await ask();
    } catch (e) {
      if (!asLLMError(e).retryable || ++refused > mostRefused) throw e;
      await new Promise((resolve) => setTimeout(resolve, refusedMs));
    }
  }
}

function spread(values: number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1] ?? 0, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0 };
}

function recommend(results: Record<string, PrecisionResult>): ReturnType<BenchmarkReport['getRecommendation']> {
  const all = Object.entries(results).sort(([, a], [, b]) => b.tokensPerSecond - a.tokensPerSecond);
  if (all.length === 0) throw new LLMError('Nothing was measured, so nothing can be recommended; see skipped.', { code: 'no_runs' });
  const [precision, best] = all[0]!;
  const others = all.length > 1 ? `the fastest of ${all.length} precisions` : 'the only precision served';
  const reason = `${precision} is ${others}: ${best.tokensPerSecond.toFixed(1)} tokens/s, first token after ${Math.round(best.timeToFirstToken)} ms, ${best.memoryMB.toFixed(1)} MB.`;
  return { config: best.optimalConfig, precision, reason, toString: () => reason };
}
