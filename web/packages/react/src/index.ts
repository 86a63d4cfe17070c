/** React bindings of Shoal. */
export { useStreamingLLM } from './use-streaming-llm.js';
export type { Message, StreamingLLMOptions, StreamingLLMState } from './use-streaming-llm.js';
export { useCluster } from './use-cluster.js';
export { StreamingLLM } from './streaming-llm.js';
