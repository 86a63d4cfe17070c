import { detect, type Capabilities } from './capabilities.js';
import { getCluster, type ClusterReport } from './cluster.js';
import { Client } from './client.js';
import { asLLMError } from './errors.js';
import { preferStreamingHTTP } from './links.js';
import { authorise, socketURL, urlOf, type Where } from './where.js';

export interface DiagnosticOptions extends Where {
  features?: ('webgpu' | 'webnn' | 'wasm' | 'streaming')[];
  reportLevel?: 'summary' | 'detailed';
  modelPath?: string;
}

/** Issue is something that is wrong or missing. */
export interface Issue {
  id: string;
  status: 'error' | 'warning' | 'info';
  description: string;
  recommendedAction: string;
  fixable: boolean;
  /** where it was found, for a fix */
  where?: Where;
}

/** Check is one thing that was looked at. */
export interface Check {
  name: string;
  ok: boolean;
  detail: string;
}

export interface DiagnosticReport {
  issues: Issue[];
  fixableIssues: Issue[];
  manualFixIssues: Issue[];
  /** name and version, memory and cores */
  browserInfo: string;
  webgpuSupport: 'full' | 'partial' | 'none';
  webnnSupport: 'full' | 'none';
  wasmSupport: 'full' | 'partial' | 'none';
  /** left on the cluster for models and caches */
  estimatedAvailableMemoryMB: number;
  /** with reportLevel "detailed": everything that was looked at */
  checks?: Check[];
}

export interface FixResult {
  id: string;
  applied: boolean;
  detail: string;
}

/** What the guide's tables advise, by issue. */
const advice = {
  server_unreachable: 'Start a server with "shoal up", or name a running one with the option url.',
  model_path: 'Check the model path against GET /v1/models, or have the operator add an alias.',
  memory: 'Use a lower precision or a smaller model, or let another machine join.',
  webgpu_off: 'Nothing needs to be done, for the cluster computes; to use WebGPU for other things, update the browser and turn hardware acceleration on.',
  webnn_none: 'Nothing needs to be done: the cluster computes.',
  wasm_simd: 'Update the browser.',
  slow_start: 'The first answer waits for the model; look at the load on the cluster page.',
  token_latency: 'Set latencyOptimized, and look for the slowest stage or link with getPerformanceProfile().',
  websocket_blocked: 'A proxy lets no WebSocket through; use transport "sse", which needs none.',
  origin: 'The operator can allow this page with --allowed-origin.',
  not_ready: 'Look at the cluster page for what is missing.',
} as const;

type IssueID = keyof typeof advice;

/** diagnose looks at this platform and at the cluster; it never rejects. */
export async function diagnose(o: DiagnosticOptions): Promise<DiagnosticReport> {
  const d = new Diagnosis(o);
  const features = o.features ?? ['webgpu', 'webnn', 'wasm', 'streaming'];
  const capabilities = await detect(o);
  const cluster = await d.cluster();
  if (features.includes('webgpu')) d.webgpu(capabilities);
  if (features.includes('webnn')) d.webnn(capabilities);
  if (features.includes('wasm')) d.wasm(capabilities, cluster);
  if (cluster) d.model(cluster);
  if (cluster && features.includes('streaming')) await d.streaming();
  return d.report(capabilities, cluster);
}

class Diagnosis {
  private readonly issues: Issue[] = [];
  private readonly checks: Check[] = [];

  constructor(private readonly o: DiagnosticOptions) {}

  private check(name: string, ok: boolean, detail: string, issue?: IssueID, status: Issue['status'] = 'warning', fixable = false): void {
    this.checks.push({ name, ok, detail });
    if (ok || !issue) return;
    const { url, apiKey } = this.o;
    this.issues.push({ id: issue, status, description: detail, recommendedAction: advice[issue], fixable, ...(fixable && { where: { url, apiKey } }) });
  }

  async cluster(): Promise<ClusterReport | undefined> {
    try {
      const cluster = await getCluster(this.o);
      this.check('server', true, `a Shoal gateway answers at ${urlOf(this.o.url)}`);
      this.check('cluster ready', cluster.ready, cluster.ready ? 'answers are possible' : cluster.reason, 'not_ready', 'error');
      return cluster;
    } catch (e) {
      const error = asLLMError(e);
      this.check('server', false, error.message, error.code === 'origin_not_allowed' ? 'origin' : 'server_unreachable', 'error');
      return undefined;
    }
  }

  webgpu({ webgpu }: Capabilities): void {
    this.check('WebGPU', webgpu.available, webgpu.available ? `${webgpu.adapter}` : `WebGPU cannot be used here: ${webgpu.reason}.`, 'webgpu_off', 'info');
    if (webgpu.available) this.check('compute shaders', webgpu.computeShaders, webgpu.computeShaders ? 'a shader ran' : 'A compute shader did not give the right result.', 'webgpu_off', 'info');
  }

  webnn({ webnn }: Capabilities): void {
    this.check('WebNN', webnn.available, webnn.available ? 'a context could be made' : 'WebNN cannot be used here.', 'webnn_none', 'info');
  }

  wasm({ wasm }: Capabilities, cluster: ClusterReport | undefined): void {
    this.check('WebAssembly SIMD', wasm.simd, wasm.simd ? 'a SIMD module is valid' : 'This browser has no WebAssembly SIMD.', 'wasm_simd', 'info');
    const cpus = Object.values(cluster?.nodes ?? {}).flatMap((n) => n.devices.filter((d) => d.kind === 'cpu'));
    this.check('CPU devices', true, `the cluster has ${cpus.length}`);
  }

  model(cluster: ClusterReport): void {
    const { modelPath } = this.o;
    const names = Object.entries(cluster.models).flatMap(([name, m]) => [name, ...m.aliases]);
    const found = modelPath === undefined || names.includes(modelPath);
    this.check('model', found, found ? `served are ${names.join(', ')}` : `No model here is called ${modelPath}.`, 'model_path', 'error');
    const free = memoryLeft(cluster);
    this.check('memory', free > 0, `${Math.round(free)} MB are left on the cluster`, 'memory');
  }

  /** streaming asks for a few tokens over each transport and times them. */
  async streaming(): Promise<void> {
    const began = Date.now();
    if (typeof WebSocket !== 'undefined') {
      const opened = await opensSocket(this.o).catch(() => false);
      this.check('WebSocket', opened, opened ? `open after ${Date.now() - began} ms` : 'A WebSocket to the server does not open, although the server answers.', 'websocket_blocked', 'warning', true);
    }
    const client = new Client({ url: this.o.url, apiKey: this.o.apiKey, fetch: this.o.fetch, modelPath: this.o.modelPath, transport: 'sse' });
    try {
      const r = await client.generate({ prompt: 'Hello', maxTokens: 8, temperature: 0 });
      const { firstTokenMs, totalMs } = r.timings;
      const perToken = (totalMs - firstTokenMs) / Math.max(1, r.usage.completionTokens - 1);
      this.check('first token', firstTokenMs < 5_000, `the first token came after ${firstTokenMs} ms`, 'slow_start');
      this.check('token latency', perToken < 250, `a token took ${perToken.toFixed(1)} ms`, 'token_latency');
    } catch (e) {
      this.check('generation', false, asLLMError(e).message, 'not_ready', 'error');
    }
  }

  report(c: Capabilities, cluster: ClusterReport | undefined): DiagnosticReport {
    const { issues } = this;
    return {
      issues,
      fixableIssues: issues.filter((i) => i.fixable),
      manualFixIssues: issues.filter((i) => !i.fixable),
      browserInfo: `${c.browser} ${c.version}, ${c.cores} cores${c.memoryGB ? `, ${c.memoryGB} GB` : ''}`,
      webgpuSupport: c.webgpu.computeShaders ? 'full' : c.webgpu.available ? 'partial' : 'none',
      webnnSupport: c.webnn.available ? 'full' : 'none',
      wasmSupport: c.wasm.simd && c.wasm.threads ? 'full' : c.wasm.available ? 'partial' : 'none',
      estimatedAvailableMemoryMB: cluster ? Math.round(memoryLeft(cluster)) : 0,
      ...(this.o.reportLevel === 'detailed' && { checks: this.checks }),
    };
  }
}

/** memoryLeft is what the devices may use and no stage does, in mebibytes. */
function memoryLeft(cluster: ClusterReport): number {
  const all = Object.values(cluster.nodes).flatMap((n) => n.devices.map((d) => d.memoryBytes));
  const used = (cluster.pipelines ?? []).flatMap((p) => p.speed?.stages ?? []).map((s) => s.bytesMeasured || s.bytes);
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
  return (sum(all) - sum(used)) / (1 << 20);
}

async function opensSocket(where: Where): Promise<boolean> {
  const address = await authorise(where, `${socketURL(urlOf(where.url))}/streaming`);
  return new Promise((resolve) => {
    const socket = new WebSocket(address, ['shoal.v1.json']);
    const end = (opened: boolean) => {
      clearTimeout(timer);
      resolve(opened);
      socket.close(1000);
    };
    const timer = setTimeout(() => end(false), 5_000);
    socket.onopen = () => end(true);
    socket.onerror = () => end(false);
  });
}

/** fix applies what is safe on this side. Doing it twice changes nothing more. */
export function fix(issues: Issue[]): FixResult[] {
  return issues.map(({ id, fixable, where }) => {
    if (!fixable || id !== 'websocket_blocked') return { id, applied: false, detail: 'this needs a person' };
    preferStreamingHTTP(urlOf(where?.url));
    return { id, applied: true, detail: `objects for ${urlOf(where?.url)} use streaming HTTP from now on, unless their transport says otherwise` };
  });
}
