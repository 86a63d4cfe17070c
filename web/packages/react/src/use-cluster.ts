import { watchCluster, type ClusterReport, type Where } from '@shoal/sdk';
import { useEffect, useState } from 'react';

/** useCluster is the cluster's document, kept up to date while the component is mounted. */
export function useCluster({ url, apiKey }: Pick<Where, 'url' | 'apiKey'> = {}): { cluster?: ClusterReport; connected: boolean } {
  const [cluster, onReport] = useState<ClusterReport>();
  const [connected, onConnected] = useState(false);
  useEffect(() => watchCluster({ url, apiKey }, { onReport, onConnected }), [url, apiKey]);
  return { cluster, connected };
}
