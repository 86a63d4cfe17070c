// The SDK as the gateway (SHOAL_URL) serves it, where pages use it:
//   node --test page.browser.mjs
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, open } from '../../../testing/browser.mjs';

let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

/** Each is a page that puts an answer's text and transport into window.done. */
const ask = "const s = new WebGPUStreamingInference(); const text = (await s.generate({ prompt: 'Hello', maxTokens: 12, temperature: 0 })).text; const { transport } = s.getDebugInfo();";
const pages = {
  'a module': `<script type="module">import { WebGPUStreamingInference } from '/sdk/index.js'; ${ask} window.done = { text, transport };</script>`,
  'a classic script': `<script src="/sdk/shoal.js"></script><script>const { WebGPUStreamingInference } = shoal; (async () => { ${ask} window.done = { text, transport }; })();</script>`,
  'a worker': `<script>
    const code = "import { WebGPUStreamingInference } from '" + location.origin + "/sdk/index.js'; ${ask} postMessage({ text, transport });";
    new Worker(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })), { type: 'module' }).onmessage = (e) => (window.done = e.data);
  </script>`,
};

for (const [name, body] of Object.entries(pages))
  test(`${name} has an answer over a WebSocket, with no address given`, async () => {
    const page = await open(browser, body);
    const done = await (await page.waitForFunction(() => window.done, undefined, { timeout: 30_000 })).jsonValue();
    assert.ok(done.text.length > 0);
    assert.equal(done.transport, 'websocket');
    await page.close();
  });

test('importing the SDK leaves no trace in the page', async () => {
  const page = await open(browser, '');
  const added = await page.evaluate(async () => {
    const before = Object.keys(window);
    await import('/sdk/index.js');
    return Object.keys(window).filter((k) => !before.includes(k));
  });
  assert.deepEqual(added, []);
  await page.close();
});
