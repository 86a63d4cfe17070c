import type { ClusterReport, StageReport } from './cluster.js';
import { precisionName, type Config, type DeviceKind } from './config.js';
import { LLMError, refuse } from './errors.js';
import { deviceKind, kindOf, loading, type ReadyReport } from './variant.js';

/**
 * settle holds the options that name a variant against the pipelines that
 * serve the model: each is met by all of them, or refused by name.
 */
export function settle(report: ReadyReport, cluster: ClusterReport, config: Config): void {
  const pipelines = (cluster.pipelines ?? []).filter((p) => p.state === 'ready').map((p) => p.plan.stages);
  if (config.quantization !== undefined && precisionName(config.quantization) !== report.precision)
    throw new LLMError(`${report.model} is served in ${report.precision}, not in ${precisionName(config.quantization)}.`, {
      code: 'variant_not_served',
      param: 'config.quantization',
    });
  if (config.totalShards !== undefined && !pipelines.every((stages) => stages.length === config.totalShards))
    throw refuse('config.totalShards', `The pipelines of this cluster have ${stagesOf(pipelines)} stages, not ${config.totalShards}.`);
  settleLoading(report, config);
  settleKinds(report, cluster, pipelines, config);
  if (config.computeTransferOverlap === false)
    throw refuse('config.computeTransferOverlap', 'Sending and receiving never wait for the device here; that cannot be turned off.');
  if (config.reducedModelSize && Object.keys(cluster.models).length > 1)
    throw refuse('config.reducedModelSize', 'Several models are served here; name the smaller one with modelPath.');
  if (config.reducedModelSize) report.notes.push(`${report.model} is the only variant served, and so the smallest`);
}

function settleLoading(report: ReadyReport, config: Config): void {
  const asked = loading.filter((key) => config[key] !== undefined);
  if (asked.length > 0) report.notes.push(`${report.model} was loaded before: ${asked.join(', ')} had nothing to act on`);
}

function stagesOf(pipelines: StageReport[][]): string {
  return [...new Set(pipelines.map((s) => s.length))].join(' and ') || 'no';
}

function settleKinds(report: ReadyReport, cluster: ClusterReport, pipelines: StageReport[][], config: Config): void {
  const offered = new Set(Object.values(cluster.nodes).flatMap((n) => n.devices.map((d) => kindOf(d.kind))));
  const used = new Set(pipelines.flat().map((s) => deviceKind(cluster, s)));
  if (config.computeShaders === false && used.has('webgpu'))
    throw refuse('config.computeShaders', 'Pipelines of this cluster compute on GPUs.');
  if (config.metalOptimizations) report.notes.push('metalOptimizations acts on stages whose GPU is driven by Metal; this route has none it knows of');
  if (config.fallbackPreference) settlePreference(report, offered, used, config.fallbackPreference);
  const webgl = config.fallbacks?.webgl;
  if (webgl) report.notes.push('fallbacks.webgl is in force on WebGL devices only, and no stage has one');
  settleCPU(report, cluster, config);
}

function settlePreference(report: ReadyReport, offered: Set<DeviceKind>, used: Set<DeviceKind>, order: DeviceKind[]): void {
  for (const kind of order)
    if (!offered.has(kind)) report.skipped.push({ kind, reason: kind === 'webnn' ? 'no device of a cluster is driven by WebNN' : 'no node offers one' });
  const first = order.find((kind) => offered.has(kind));
  if (!first || [...used].some((kind) => !order.includes(kind)) || !used.has(first))
    throw refuse('config.fallbackPreference', `Pipelines of this cluster compute on ${[...used].join(' and ')}.`);
}

function settleCPU(report: ReadyReport, cluster: ClusterReport, config: Config): void {
  const wasm = config.fallbacks?.wasm;
  const cpu = report.route.filter((s) => s.kind === 'wasm');
  if (!wasm || cpu.length === 0) return;
  const threads = cpu.map((s) => cluster.nodes[s.node]?.devices.find((d) => d.index === s.device)?.threads ?? 1);
  if (wasm.threads === false && threads.some((n) => n > 1))
    throw refuse('config.fallbacks.wasm.threads', 'CPU stages of this cluster compute on several threads.');
  if (wasm.simd === false) throw refuse('config.fallbacks.wasm.simd', 'CPU stages use the widest instructions their machine has.');
  if (wasm.memoryGrowthStrategy === 'eager')
    throw refuse('config.fallbacks.wasm.memoryGrowthStrategy', 'KV pages are taken one by one as an answer grows.');
  report.notes.push(`CPU stages compute on ${threads.join(', ')} threads`);
}
