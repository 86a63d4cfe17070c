import { authorise, getJSON, socketURL, urlOf, type Where } from './where.js';

/** The document of GET /v1/cluster, as far as this package reads it: docs/streaming.md of the server. */
export interface ClusterReport {
  v: number;
  timeMs: number;
  cluster: string;
  epoch: number;
  ready: boolean;
  reason: string;
  nodes: Record<string, NodeReport>;
  models: Record<string, ModelReport>;
  pipelines?: PipelineReport[];
  links?: Record<string, Record<string, { delaySeconds: number; bytesPerSecond: number }>>;
  explanation: string;
  sessions: { running: number; waiting: number };
  totals: { requests: number; promptTokens: number; generatedTokens: number; failed: number };
  rates: { requests: number; promptTokens: number; generatedTokens: number };
  events: { number: number; timeMs: number; kind: string; node: string; text: string }[];
}

export interface NodeReport {
  address: string;
  state: string;
  reason: string;
  version: string;
  devices: { index: number; kind: string; name: string; numericsClass: string; memoryBytes: number; threads: number }[];
}

export interface ModelReport {
  state: 'loading' | 'ready' | 'failed';
  reason?: string;
  precision: string;
  context: number;
  layers: number;
  stages: string[];
  fingerprint: string;
  architecture: string;
  parameters: number;
  aliases: string[];
  /** positions that a picture takes; 0: the model reads text alone */
  picture_rows?: number;
}

export interface StageReport {
  node: string;
  device: number;
  first: number;
  end: number;
  embed: boolean;
  head: boolean;
}

export interface StageSpeedReport {
  decodeSeconds: number;
  decodeSecondsMeasured: number;
  prefillSeconds: number;
  hopSeconds: number;
  bytes: number;
  bytesMeasured: number;
  /** weights on the stage, and one page of 64 positions of its KV cache */
  weightBytes: number;
  pageBytes: number;
}

export interface PipelineReport {
  id: number;
  epoch: number;
  state: string;
  running: number;
  freePages: number;
  plan: { stages: StageReport[]; context: number; pages: number; slots: number; rows: number };
  speed?: { tokenSeconds: number; tokenSecondsMeasured: number; stages: StageSpeedReport[] };
}

/** getCluster reads the document once. */
export function getCluster(where: Where): Promise<ClusterReport> {
  return getJSON<ClusterReport>(where, '/v1/cluster');
}

/** merge applies a JSON Merge Patch (RFC 7396) without changing target. */
export function merge(target: unknown, patch: unknown): unknown {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch;
  const out: Record<string, unknown> = typeof target === 'object' && target !== null && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete out[key];
    else out[key] = merge(out[key], value);
  }
  return out;
}

/** What a watcher of the cluster is told. */
export interface ClusterWatcher {
  onReport(report: ClusterReport): void;
  /** the connection broke (false) or works (true) */
  onConnected?(connected: boolean): void;
}

const pollMs = 2_000;

/**
 * watchCluster keeps a copy of the cluster's document up to date until the
 * returned function is called: over a WebSocket, or by asking again and again
 * where there is none. It reconnects by itself.
 */
export function watchCluster(where: Where & { WebSocket?: typeof WebSocket }, watcher: ClusterWatcher): () => void {
  const Socket = where.WebSocket ?? globalThis.WebSocket;
  let ended = false;
  let socket: WebSocket | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let wait = 250;
  const again = (ms: number) => {
    if (!ended) timer = setTimeout(Socket ? connect : poll, ms);
  };
  const poll = async () => {
    const report = await getCluster(where).catch(() => undefined);
    if (ended) return;
    watcher.onConnected?.(report !== undefined);
    if (report) watcher.onReport(report);
    again(pollMs);
  };
  const connect = async () => {
    try {
      const address = await authorise(where, `${socketURL(urlOf(where.url))}/v1/cluster/stream`);
      if (ended) return;
      let report: unknown;
      socket = new Socket!(address, ['shoal.v1.json']);
      socket.onopen = () => {
        wait = 250;
        watcher.onConnected?.(true);
      };
      socket.onmessage = (e: MessageEvent) => {
        const m = JSON.parse(String(e.data)) as { type: string; cluster?: unknown; patch?: unknown };
        report = m.type === 'snapshot' ? m.cluster : merge(report, m.patch);
        watcher.onReport(report as ClusterReport);
      };
      socket.onclose = () => lost();
    } catch {
      lost();
    }
  };
  const lost = () => {
    if (ended) return;
    watcher.onConnected?.(false);
    again(Math.random() * wait);
    wait = Math.min(wait * 2, 8_000);
  };
  void (Socket ? connect() : poll());
  return () => {
    ended = true;
    clearTimeout(timer);
    if (socket) socket.onclose = socket.onmessage = null;
    socket?.close(1000);
  };
}
