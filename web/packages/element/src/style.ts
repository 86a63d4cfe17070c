import { css } from 'lit';

/** style is the element's look; pages change it with --sllm-* properties and parts. */
export const style = css`
  :host {
    display: block;
    color-scheme: light dark;
    font-family: var(--sllm-font, system-ui, -apple-system, sans-serif);
    --accent: var(--sllm-accent, light-dark(#23683a, #6fc58a));
    --on-accent: var(--sllm-on-accent, light-dark(#fff, #10241a));
    --line: var(--sllm-line, light-dark(#c9c9c9, #4a4a4a));
    --surface: var(--sllm-surface, light-dark(#f7f7f7, #1e1e1e));
    --ink: var(--sllm-ink, light-dark(#1c1c1c, #ececec));
    --problem: var(--sllm-problem, light-dark(#b3261e, #ff8a80));
    color: var(--ink);
  }
  :host([hidden]) {
    display: none;
  }
  :host([theme='light']) {
    color-scheme: light;
  }
  :host([theme='dark']) {
    color-scheme: dark;
  }
  .container {
    max-width: var(--sllm-width, 800px);
    margin: 0 auto;
  }
  textarea {
    box-sizing: border-box;
    width: 100%;
    height: 120px;
    padding: 10px;
    margin-bottom: 10px;
    border: 1px solid var(--line);
    border-radius: 4px;
    background: transparent;
    color: inherit;
    font: inherit;
  }
  .buttons {
    display: flex;
    gap: 10px;
    margin-bottom: 20px;
  }
  button {
    padding: 8px 16px;
    border: none;
    border-radius: 4px;
    background: var(--accent);
    color: var(--on-accent);
    font: inherit;
    cursor: pointer;
  }
  button:disabled {
    background: var(--line);
    color: var(--ink);
    opacity: 0.6;
    cursor: not-allowed;
  }
  :is(button, textarea):focus-visible {
    outline: 2px solid var(--accent);
    outline-offset: 2px;
  }
  .output {
    min-height: 200px;
    max-height: 400px;
    padding: 15px;
    margin-bottom: 15px;
    overflow-y: auto;
    border: 1px solid var(--line);
    border-radius: 4px;
    background: var(--surface);
    white-space: pre-wrap;
    overflow-wrap: break-word;
  }
  .message-user {
    color: color-mix(in srgb, var(--ink) 70%, transparent);
    margin-bottom: 8px;
  }
  .error {
    margin: 10px 0;
    color: var(--problem);
  }
  .status,
  .stats {
    font-size: 0.9em;
    color: color-mix(in srgb, var(--ink) 80%, transparent);
  }
`;
