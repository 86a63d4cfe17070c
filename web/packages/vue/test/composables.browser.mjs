// The Vue composables and component in a real browser against a running gateway:
//   SHOAL_URL=… node --test composables.browser.mjs
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { bundle, conversation, launch, open } from '../../../testing/browser.mjs';

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

test('a conversation: send, stop, regenerate, and unmount stops', async () => {
  const page = await open(browser, await bundle(`
    import { createApp, h, ref } from 'vue';
    import { useCluster, useStreamingLLM } from '../src/index.ts';
    window.finished = [];
    const Conversation = {
      setup() {
        const { cluster } = useCluster();
        const { messages, sendMessage, regenerate, stop, status } = useStreamingLLM({ onFinish: (e) => window.finished.push(e) });
        const options = () => (window.stopAtFirst ? { onChunk: () => void stop() } : {});
        return () => [
          h('p', { id: 'cluster', 'data-ready': String(cluster.value?.ready) }),
          h('ul', { id: 'chat', 'data-status': status.value }, messages.value.map((m) => h('li', { key: m.id }, m.content))),
          h('button', { id: 'send', onClick: () => sendMessage('Tell me a long story about a fox and a bear.', options()) }, 'send'),
          h('button', { id: 'regenerate', onClick: () => regenerate() }, 'regenerate'),
        ];
      },
    };
    const shown = ref(true);
    createApp({ render: () => [shown.value ? h(Conversation) : null, h('button', { id: 'unmount', onClick: () => (shown.value = false) }, 'unmount')] }).mount('#app');
  `, import.meta.dirname));
  await conversation(page);
});

test('the component answers', async () => {
  const page = await open(browser, await bundle(`
    import { createApp } from 'vue';
    import { StreamingLLM } from '../src/index.ts';
    createApp(StreamingLLM, { modelPath: 'models/llama-7b' }).mount('#app');
  `, import.meta.dirname));
  await page.locator('textarea').fill('Hello');
  await page.getByRole('button', { name: 'Generate' }).click();
  await page.locator('.output[aria-busy=false]:not(:text("Output will appear here"))').waitFor({ timeout: 30_000 });
  assert.ok((await page.locator('.output').textContent()).length > 0);
  assert.equal(await page.locator('.status').textContent(), 'Model loaded: llama-7b');
});
