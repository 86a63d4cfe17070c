// The React hooks and component in a real browser against a running gateway:
//   SHOAL_URL=… node --test hooks.browser.mjs
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { bundle, conversation, launch, open } from '../../../testing/browser.mjs';

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

test('a conversation: send, stop, regenerate, and unmount stops', async () => {
  const page = await open(browser, await bundle(`
    import { StrictMode, useState } from 'react';
    import { createRoot } from 'react-dom/client';
    import { useCluster, useStreamingLLM } from '../src/index.ts';
    window.finished = [];
    function Conversation() {
      const { cluster } = useCluster();
      const { messages, sendMessage, regenerate, stop, status } = useStreamingLLM({ onFinish: (e) => window.finished.push(e) });
      const options = () => (window.stopAtFirst ? { onChunk: () => void stop() } : {});
      return <>
        <p id="cluster" data-ready={cluster?.ready} />
        <ul id="chat" data-status={status}>{messages.map((m) => <li key={m.id}>{m.content}</li>)}</ul>
        <button id="send" onClick={() => sendMessage('Tell me a long story about a fox and a bear.', options())}>send</button>
        <button id="regenerate" onClick={() => regenerate()}>regenerate</button>
      </>;
    }
    function App() {
      const [shown, show] = useState(true);
      return <>{shown && <Conversation />}<button id="unmount" onClick={() => show(false)}>unmount</button></>;
    }
    createRoot(document.getElementById('app')).render(<StrictMode><App /></StrictMode>);
  `, import.meta.dirname));
  await conversation(page);
});

test('the component answers', async () => {
  const page = await open(browser, await bundle(`
    import { createRoot } from 'react-dom/client';
    import { StreamingLLM } from '../src/index.ts';
    createRoot(document.getElementById('app')).render(<StreamingLLM modelPath="models/llama-7b" modelType="text" />);
  `, import.meta.dirname));
  await page.locator('textarea').fill('Hello');
  await page.getByRole('button', { name: 'Generate' }).click();
  await page.locator('.output[aria-busy=false]:not(:text("Output will appear here"))').waitFor({ timeout: 30_000 });
  assert.ok((await page.locator('.output').textContent()).length > 0);
  assert.equal(await page.locator('.status').textContent(), 'Model loaded: llama-7b');
});
