/** Vue bindings of Shoal. */
export { useCluster, useStreamingLLM } from './composables.js';
export type { StreamingLLMOptions } from './composables.js';
export { StreamingLLM } from './streaming-llm.js';
