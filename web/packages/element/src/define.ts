/** Registers <streaming-llm>, unless the page has registered one of its own. */
import { StreamingLLM } from './streaming-llm.js';

if (!customElements.get('streaming-llm')) customElements.define('streaming-llm', StreamingLLM);

declare global {
  interface HTMLElementTagNameMap {
    'streaming-llm': StreamingLLM;
  }
}
