/** The web component <streaming-llm>. Importing this registers nothing: see ./define. */
export { StreamingLLM } from './streaming-llm.js';
export type { Stats, StreamingLLMEvents } from './streaming-llm.js';
