// The element in a real browser against a running gateway (SHOAL_URL):
//   node --test element.browser.mjs
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import AxeBuilder from '@axe-core/playwright';
import { readFileSync } from 'node:fs';
import { launch, open as show, url } from '../../../testing/browser.mjs';

const manifest = JSON.parse(readFileSync(new URL('../custom-elements.json', import.meta.url), 'utf8'));
let browser, page;

before(async () => {
  browser = await launch();
  page = await show(browser, '<form><streaming-llm name="prompt"></streaming-llm></form><script type="module" src="/sdk/streaming-llm-element.js"></script>');
});
after(() => browser?.close());

/** open loads the page anew and notes the element's events as they pass the document. */
async function open(attributes = {}) {
  await page.goto(`${url}/test/`);
  await page.evaluate(async (attributes) => {
    await customElements.whenDefined('streaming-llm');
    window.events = [];
    for (const name of ['model-ready', 'token', 'generation-complete', 'generation-stopped', 'error'])
      document.addEventListener(name, (e) => events.push({ name, detail: JSON.parse(JSON.stringify(e.detail)), composed: e.composed }));
    window.element = document.querySelector('streaming-llm');
    for (const [k, v] of Object.entries(attributes)) element.setAttribute(k, v);
  }, attributes);
}
const heard = (name) => page.waitForFunction((name) => window.events.find((e) => e.name === name)?.detail, name, { timeout: 30_000 }).then((h) => h.jsonValue());
const count = (name) => page.evaluate((name) => window.events.filter((e) => e.name === name).length, name);
const ends = async () => (await count('generation-complete')) + (await count('generation-stopped')) + (await count('error'));

test('it waits for a model, loads it, and answers', async () => {
  await open();
  assert.equal(await page.locator('.output').innerText(), 'Output will appear here');
  await page.evaluate(() => (element.modelPath = 'models/llama-7b'));
  const ready = await heard('model-ready');
  assert.equal(ready.route.length, 2);
  assert.equal(await page.locator('.status').innerText(), 'Model loaded: llama-7b');
  await page.locator('textarea').fill('Hello');
  await page.getByRole('button', { name: 'Generate' }).click();
  const { text, usage } = await heard('generation-complete');
  assert.equal(await page.locator('.output').innerText(), text.trim());
  assert.equal(await page.evaluate(() => events.filter((e) => e.name === 'token').map((e) => e.detail.token).join('')), text);
  assert.equal(await page.evaluate(() => events.filter((e) => e.name === 'token' && e.detail.isLast).length), 1);
  assert.ok(usage.completionTokens > 0);
  assert.equal(await ends(), 1);
  assert.equal(await count('model-ready'), 1);
  assert.ok(await page.evaluate(() => events.every((e) => e.composed)));
});

test('stop keeps what there is and says who stopped', async () => {
  await open({ 'model-path': 'models/llama-7b' });
  await heard('model-ready');
  await page.evaluate(() => {
    element.addEventListener('token', () => void element.stop(), { once: true });
    void element.generate('Tell me a long story about a fox and a bear.');
  });
  const { text, reason } = await heard('generation-stopped');
  assert.equal(reason, 'user');
  assert.equal(await page.evaluate(() => element.messages.at(-1).content), text);
  assert.equal(await ends(), 1);
});

test('taking the element away stops its answer', async () => {
  await open({ 'model-path': 'models/llama-7b' });
  await heard('model-ready');
  const reason = await page.evaluate(() => new Promise((resolve) => {
    element.addEventListener('generation-stopped', (e) => resolve(e.detail.reason));
    element.addEventListener('token', () => element.remove(), { once: true });
    void element.generate('Tell me a long story about a fox and a bear.');
  }));
  assert.equal(reason, 'removed');
});

test('a model that is not served is an error that says so', async () => {
  await open({ 'model-path': 'nothing-like-it' });
  const { message } = await heard('error');
  assert.match(message, /^Failed to load model: No model here is called nothing-like-it/);
  assert.equal(await page.getByRole('alert').innerText(), message);
  assert.ok(await page.evaluate(() => element.matches(':state(error)')));
});

test('a form sends the prompt', async () => {
  await open();
  await page.locator('textarea').fill('in a form');
  assert.equal(await page.evaluate(() => new FormData(document.forms[0]).get('prompt')), 'in a form');
});

for (const theme of ['light', 'dark'])
  test(`axe finds nothing in ${theme}`, async () => {
    await open({ 'model-path': 'models/llama-7b', theme });
    await page.evaluate((theme) => (document.body.style.background = theme === 'dark' ? '#111' : '#fff'), theme);
    await heard('model-ready');
    await page.evaluate(() => element.generate('Hello'));
    const { violations } = await new AxeBuilder({ page }).include('streaming-llm').analyze();
    assert.deepEqual(violations.map((v) => `${v.impact}: ${v.id}: ${v.nodes.map((n) => n.target).join()}`), []);
  });

test('the keyboard is enough', async () => {
  await open({ 'model-path': 'models/llama-7b' });
  await heard('model-ready');
  await page.keyboard.press('Tab');
  await page.keyboard.type('Hello');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  const { text } = await heard('generation-complete');
  assert.equal(await page.locator('.output').innerText(), text.trim());
});

test('the manifest is what the element has', async () => {
  await open({ 'model-path': 'models/llama-7b' });
  await heard('model-ready');
  const empty = await page.evaluate(() => [...element.shadowRoot.querySelectorAll('slot')].map((s) => s.name));
  await page.evaluate(() => element.generate('Hello'));
  const [declared] = manifest.modules[0].declarations;
  const names = (list) => list.map((x) => x.name).sort();
  const has = await page.evaluate(() => {
    const root = element.shadowRoot;
    const parts = [...root.querySelectorAll('[part]')].flatMap((e) => [...e.part]);
    return {
      attributes: element.constructor.observedAttributes,
      parts, members: ['config', 'apiKeyProvider', 'value', 'messages', 'status', 'stats', 'generate', 'stop', 'clear'].filter((m) => m in element || m === 'apiKeyProvider'),
    };
  });
  assert.deepEqual(names(declared.attributes), [...has.attributes].sort());
  assert.deepEqual(names(declared.slots), empty.sort());
  assert.deepEqual(names(declared.members), [...has.members].sort());
  assert.deepEqual(names(declared.cssParts), [...new Set(has.parts)].sort());
});

test('properties and attributes mirror each other', async () => {
  await open({ 'max-tokens': '7', temperature: '0.2' });
  assert.deepEqual(await page.evaluate(async () => {
    element.theme = 'dark';
    await element.updateComplete;
    return [element.maxTokens, element.temperature, element.getAttribute('theme'), element.getAttribute('model-type')];
  }), [7, 0.2, 'dark', 'text']);
});
