import { getCluster, type ClusterReport } from './cluster.js';
import type { Config, Precision } from './config.js';
import type { Where } from './where.js';

export interface OptimalOptions extends Where {
  goal?: 'latency' | 'throughput' | 'memory';
}

const classes: string[] = ['fp16', 'int8', 'int4', 'int3', 'int2'];

/** conservative is what any server honours. */
const conservative: Config = { streamingInference: true, adaptiveBatchSize: true };

/**
 * optimalConfig makes a config of options that the cluster honours for a
 * model. Without a server it is a conservative one; it never rejects.
 */
export async function optimalConfig(model: string | undefined, modelType: string | undefined, o: OptimalOptions): Promise<Config> {
  if (modelType && modelType !== 'text') return { ...conservative };
  try {
    const cluster = await getCluster(o);
    const name = Object.entries(cluster.models).find(([n, m]) => model === undefined || n === model || m.aliases.includes(model))?.[0];
    return name === undefined ? { ...conservative } : configFor(cluster, name, o);
  } catch {
    return { ...conservative };
  }
}

/** fillIn adds what a caller left out; what he said wins, also under an option's other name. */
export function fillIn(cluster: ClusterReport, name: string, config: Config = {}): Config {
  const found = configFor(cluster, name, {});
  if (config.lowLatencyMode !== undefined) delete found.latencyOptimized;
  return { ...found, ...config };
}

/** configFor chooses for a model that the cluster serves. */
function configFor(cluster: ClusterReport, name: string, { goal = 'latency' }: OptimalOptions): Config {
  const config: Config = { ...conservative, tokenPredictionEnabled: goal !== 'throughput' };
  const { precision } = cluster.models[name]!;
  if (classes.includes(precision)) config.quantization = precision as Precision;
  if (goal !== 'memory') config.latencyOptimized = goal === 'latency';
  return config;
}
