import type { Client } from './client.js';
import { getCluster, type ClusterReport } from './cluster.js';
import { LLMError } from './errors.js';
import type { GenerateRequest } from './requests.js';
import { deviceKind } from './variant.js';

const MB = 1 << 20;
/** Positions of one page of a KV cache. */
const pageTokens = 64;

/** StageMemory is what one stage holds, in bytes. */
export interface StageMemory {
  node: string;
  layers: [number, number];
  kind: string;
  weightBytes: number;
  /** the KV pages of all its sessions */
  kvBytes: number;
  /** of one page of 64 positions */
  pageBytes: number;
  totalBytes: number;
}

/** MemoryReport is in mebibytes, summed over the stages of one pipeline. */
export interface MemoryReport {
  /** in buffers of GPUs, and of CPUs */
  peakWebGPUBufferMB: number;
  peakCPUBufferMB: number;
  /** the pages of this generation */
  kvCacheMB: number;
  modelWeightsMB: number;
  /** weights, this generation's pages, and the stages' buffers */
  totalEstimatedMB: number;
  /** the same weights and pages with 16 bits a value */
  originalFP16MB: number;
  memoryReductionPercent: number;
  stages: StageMemory[];
}

/** memoryOf reads the stages of the pipeline that answers; one of them when a shard is given. */
export function memoryOf(cluster: ClusterReport, shard?: number): StageMemory[] {
  const pipeline = cluster.pipelines?.find((p) => p.state === 'ready');
  const speeds = pipeline?.speed?.stages ?? [];
  const stages = (pipeline?.plan.stages ?? []).map((s, i): StageMemory => {
    const m = speeds[i];
    const pageBytes = m?.pageBytes ?? 0;
    return {
      node: `${s.node}/${s.device}`,
      layers: [s.first, s.end],
      kind: deviceKind(cluster, s),
      weightBytes: m?.weightBytes ?? 0,
      kvBytes: pageBytes * pipeline!.plan.pages,
      pageBytes,
      totalBytes: m?.bytesMeasured || m?.bytes || 0,
    };
  });
  return shard === undefined ? stages : stages.slice(shard, shard + 1);
}

/** measureMemory runs a generation and reads what the stages held for it. */
export async function measureMemory(client: Client, req: GenerateRequest): Promise<MemoryReport> {
  const result = await client.generate(req);
  const cluster = await getCluster(client.cfg);
  const stages = memoryOf(cluster, client.config.shardId);
  const { parameters } = cluster.models[result.model] ?? {};
  if (stages.length === 0 || !parameters)
    throw new LLMError('The server does not say what its stages hold.', { code: 'no_memory_report' });
  const total = (pick: (s: StageMemory) => number) => stages.reduce((n, s) => n + pick(s), 0);
  const pages = Math.ceil((result.usage.promptTokens + result.usage.completionTokens) / pageTokens);
  const kv = pages * total((s) => s.pageBytes);
  const weights = total((s) => s.weightBytes);
  const buffers = total((s) => Math.max(0, s.totalBytes - s.weightBytes - s.kvBytes));
  const share = stages.length === memoryOf(cluster).length ? 1 : weights / memoryOf(cluster).reduce((n, s) => n + s.weightBytes, 0);
  const fp16 = 2 * parameters * share + kv;
  return {
    peakWebGPUBufferMB: total((s) => (s.kind === 'webgpu' ? s.totalBytes : 0)) / MB,
    peakCPUBufferMB: total((s) => (s.kind === 'webgpu' ? 0 : s.totalBytes)) / MB,
    kvCacheMB: kv / MB,
    modelWeightsMB: weights / MB,
    totalEstimatedMB: (weights + kv + buffers) / MB,
    originalFP16MB: fp16 / MB,
    memoryReductionPercent: 100 * (1 - (weights + kv) / fp16),
    stages,
  };
}
