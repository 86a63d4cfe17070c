import type { Client } from './client.js';
import { getCluster, type ClusterReport } from './cluster.js';
import type { Config } from './config.js';
import { memoryOf, type StageMemory } from './memory.js';
import type { GenerationResult } from './requests.js';
import type { Trace } from './trace.js';
import { LLMError } from './errors.js';

/** StageProfile is one stage as the cluster measures it: a decode step of one row. */
export interface StageProfile {
  node: string;
  device: string;
  layers: [number, number];
  ms: number;
  /** what a token spends outside this stage */
  waitMs: number;
}

/** HopProfile is the way from one stage to the next: one row of activations. */
export interface HopProfile {
  from: string;
  to: string;
  ms: number;
}

/** ProfileUpdate is the state of a generation that runs. */
export interface ProfileUpdate {
  tokens: number;
  tokensPerSecond: number;
  ttftMs: number;
  stages: StageProfile[];
  hops: HopProfile[];
  memory?: StageMemory[];
}

/** Bottleneck is something that takes time, with its share of the whole. */
export interface Bottleneck {
  kind: 'stage' | 'hop' | 'queue' | 'prefill' | 'client';
  where: string;
  ms: number;
  share: number;
  sentence: string;
}

/** Suggestion is a change of one option that may help. */
export interface Suggestion {
  key: keyof Config;
  from: unknown;
  to: unknown;
  expectedGain: string;
  reason: string;
}

/** Suggestions is a list that can put itself into a config. */
export interface Suggestions extends Array<Suggestion> {
  /** apply returns the config in force with the suggestions put in; the caller says for which model. */
  apply(model?: { modelPath?: string; modelType?: string }): Config;
}

/** PerformanceProfile is a finished generation, in milliseconds. */
export interface PerformanceProfile extends ProfileUpdate {
  queueMs: number;
  prefillMs: number;
  decodeMs: number;
  /** of the answer, as the caller saw it */
  interTokenMs: { p50: number; p99: number };
  steps: { name: string; timeMs: number; rows: number; node: string }[];
  findBottlenecks(): Bottleneck[];
  generateOptimizationSuggestions(): Suggestions;
}

/** reportProfile calls back at intervals while a generation runs, and once at its end. */
export function reportProfile(client: Client, trace: Trace, result: Promise<GenerationResult>, callback: (u: ProfileUpdate) => void): void {
  const report = async () => callback(await update(client, trace));
  const quietly = () => void report().catch((e: unknown) => client.log.add('warn', { event: 'profile', message: String(e) }));
  const timer = setInterval(quietly, client.config.reportIntervalMs ?? 1_000);
  const end = () => {
    clearInterval(timer);
    quietly();
  };
  result.then(end, end);
}

async function update(client: Client, trace: Trace): Promise<ProfileUpdate> {
  const detail = client.config.profilingDetail ?? 'high';
  const memory = client.config.trackMemoryUsage === true;
  const cluster = detail === 'low' && !memory ? undefined : await getCluster(client.cfg);
  const { stages, hops } = cluster && detail !== 'low' ? placesOf(cluster) : { stages: [], hops: [] };
  return { ...speedOf(trace), stages, hops, ...(cluster && memory && { memory: memoryOf(cluster, client.config.shardId) }) };
}

function speedOf(trace: Trace): { tokens: number; tokensPerSecond: number; ttftMs: number } {
  const decode = sum(trace.gaps);
  return {
    tokens: trace.tokens,
    tokensPerSecond: decode > 0 ? (1_000 * trace.gaps.length) / decode : 0,
    ttftMs: trace.firstTokenMs,
  };
}

/** placesOf reads what the cluster has measured of the first pipeline that answers. */
function placesOf(cluster: ClusterReport): { stages: StageProfile[]; hops: HopProfile[] } {
  const pipeline = cluster.pipelines?.find((p) => p.state === 'ready');
  const speeds = pipeline?.speed?.stages ?? [];
  const ms = speeds.map((s) => 1_000 * (s.decodeSecondsMeasured || s.decodeSeconds));
  const total = sum(ms) + sum(speeds.map((s) => 1_000 * s.hopSeconds));
  const stages = (pipeline?.plan.stages ?? []).map((s, i) => ({
    node: s.node,
    device: cluster.nodes[s.node]?.devices.find((d) => d.index === s.device)?.name ?? String(s.device),
    layers: [s.first, s.end] as [number, number],
    ms: ms[i] ?? 0,
    waitMs: Math.max(0, total - (ms[i] ?? 0)),
  }));
  const hops = stages.slice(1).map((to, i) => ({ from: stages[i]!.node, to: to.node, ms: 1_000 * (speeds[i]?.hopSeconds ?? 0) }));
  return { stages, hops };
}

/** profileOf waits for the last generation to end and describes it. */
export async function profileOf(client: Client): Promise<PerformanceProfile> {
  const { trace } = client;
  if (!trace) throw new LLMError('Nothing was generated yet, so there is no profile.', { code: 'no_profile' });
  await trace.ended;
  const places = placesOf(await getCluster(client.cfg));
  const sorted = [...trace.gaps].sort((a, b) => a - b);
  const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
  const profile: Omit<PerformanceProfile, 'findBottlenecks' | 'generateOptimizationSuggestions'> = {
    ...speedOf(trace),
    ...places,
    queueMs: trace.timings?.queueMs ?? 0,
    prefillMs: trace.timings?.promptMs ?? 0,
    decodeMs: trace.timings?.predictedMs ?? 0,
    interTokenMs: { p50: at(0.5), p99: at(0.99) },
    steps: trace.steps,
  };
  return {
    ...profile,
    findBottlenecks: () => bottlenecks(profile),
    generateOptimizationSuggestions: () => suggestions(profile, client.config),
  };
}

type Facts = Omit<PerformanceProfile, 'findBottlenecks' | 'generateOptimizationSuggestions'>;

/** bottlenecks shares out the time of the answer, worst first. */
function bottlenecks(p: Facts): Bottleneck[] {
  const list: Omit<Bottleneck, 'share' | 'sentence'>[] = [];
  const places = sum(p.stages.map((s) => s.ms)) + sum(p.hops.map((h) => h.ms));
  const part = (ms: number) => (places > 0 ? (p.decodeMs * ms) / places : 0);
  for (const s of p.stages) list.push({ kind: 'stage', where: `${s.node} [${s.layers.join('..')})`, ms: part(s.ms) });
  for (const h of p.hops) list.push({ kind: 'hop', where: `${h.from} → ${h.to}`, ms: part(h.ms) });
  list.push({ kind: 'queue', where: 'the queue', ms: p.queueMs }, { kind: 'prefill', where: 'the prompt', ms: p.prefillMs });
  const seen = sum(p.interTokenMs.p50 ? [p.interTokenMs.p50 * p.tokens] : []);
  list.push({ kind: 'client', where: 'the way to this client', ms: Math.max(0, seen - p.decodeMs) });
  const total = sum(list.map((b) => b.ms)) || 1;
  return list
    .filter((b) => b.ms > 0)
    .sort((a, b) => b.ms - a.ms)
    .map((b) => ({ ...b, share: b.ms / total, sentence: `${b.where} took ${b.ms.toFixed(1)} ms, ${Math.round((100 * b.ms) / total)} % of the answer.` }));
}

/** suggestions names options that this cluster honours and that act on the worst of it. */
function suggestions(p: Facts, config: Config): Suggestions {
  const list: Suggestion[] = [];
  const suggest = (key: keyof Config, to: unknown, expectedGain: string, reason: string) => {
    if (config[key] !== to) list.push({ key, from: config[key], to, expectedGain, reason });
  };
  const worst = bottlenecks(p)[0]?.kind;
  if (worst === 'prefill') suggest('adaptiveBatchSize', true, 'a sooner first token', 'most of the time went into the prompt');
  if (worst === 'stage' || worst === 'hop')
    suggest('tokenPredictionEnabled', true, 'fewer steps for the same tokens', 'every token passes all stages and hops; guessed tokens share a pass');
  if (worst === 'queue' || p.interTokenMs.p99 > 4 * p.interTokenMs.p50)
    suggest('latencyOptimized', true, 'steadier tokens beside other sessions', 'the answer waited for others');
  return Object.assign(list, {
    apply: () => ({ ...config, ...Object.fromEntries(list.map((s) => [s.key, s.to])) }),
  });
}

function sum(list: number[]): number {
  return list.reduce((a, b) => a + b, 0);
}
