// What the tests in a real browser share: Chromium, and pages of a running
// gateway's address (SHOAL_URL) with content of the test's own.
import assert from 'node:assert/strict';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

export const url = process.env.SHOAL_URL;

export function launch() {
  return chromium.launch({
    executablePath: process.env.SHOAL_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      // pages that a test itself serves have no address, and would count as strangers to this machine
      '--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets'],
  });
}

/** open shows a document under the gateway's address. */
export async function open(browser, body) {
  assert.ok(url, 'SHOAL_URL must name a running gateway');
  const page = await (await browser.newContext()).newPage();
  await page.route(`${url}/test/`, (route) => route.fulfill({ contentType: 'text/html', body: `<!doctype html><title>test</title><link rel="icon" href="data:,">${body}` }));
  await page.goto(`${url}/test/`);
  return page;
}

/** bundle makes one script of a module and all that it imports. */
export async function bundle(contents, resolveDir) {
  const out = await build({
    stdin: { contents, resolveDir, loader: 'tsx' }, bundle: true, format: 'iife', write: false, jsx: 'automatic', target: 'es2022', logLevel: 'error',
    define: { 'process.env.NODE_ENV': '"production"', __VUE_OPTIONS_API__: 'true', __VUE_PROD_DEVTOOLS__: 'false', __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false' },
  });
  return `<div id="app"></div><script>${out.outputFiles[0].text.replaceAll('</script', '<\\/script')}</script>`;
}

/** conversation drives a page with a #chat as the React and the Vue test make it, and checks what must hold for both. */
export async function conversation(page) {
  const patience = { timeout: 30_000, state: 'attached' };
  const chat = page.locator('#chat');
  const status = (want) => page.locator(`#chat[data-status=${want}]`).waitFor(patience);
  await page.locator('#cluster[data-ready=true]').waitFor(patience);
  await page.locator('#send').click();
  await status('ready');
  await page.waitForFunction(() => document.querySelectorAll('#chat li').length === 2, undefined, { timeout: 30_000 });
  const [asked, answer] = await chat.locator('li').allTextContents();
  assert.equal(asked, 'Tell me a long story about a fox and a bear.');
  assert.ok(answer.length > 0);

  await page.evaluate(() => (window.stopAtFirst = true)); // the page stops at the first token
  await page.locator('#send').click();
  await page.waitForFunction(() => document.querySelectorAll('#chat li').length === 4, undefined, { timeout: 30_000 });
  await status('ready');
  assert.equal(await page.evaluate(() => window.finished.at(-1).isAbort), true);

  await page.evaluate(() => (window.stopAtFirst = false));
  await page.locator('#regenerate').click();
  await page.waitForFunction(() => window.finished.length === 3, undefined, { timeout: 30_000 });
  assert.equal(await chat.locator('li').count(), 4);

  await page.evaluate(() => {
    document.getElementById('send').click();
    document.getElementById('unmount').click(); // long before the answer has ended
  });
  await page.waitForFunction(() => window.finished.length === 4, undefined, { timeout: 30_000 });
  assert.equal(await page.evaluate(() => window.finished.at(-1).isAbort), true);
}
