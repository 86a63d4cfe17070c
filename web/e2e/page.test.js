// Drives the page of a running gateway (SHOAL_URL) in headless Chromium, as a
// person would: type, read tokens as they come, stop. SHOAL_SCREENSHOTS names a
// folder for pictures of it.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const url = process.env.SHOAL_URL;
const pictures = process.env.SHOAL_SCREENSHOTS;
const executablePath = process.env.SHOAL_CHROMIUM ?? '/usr/bin/chromium';
const patience = { timeout: 20_000 };

let browser, page;
const problems = [];

before(async () => {
  assert.ok(url, 'SHOAL_URL must name a running gateway');
  browser = await chromium.launch({
    executablePath,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  page = await browser.newPage({ viewport: { width: 1180, height: 780 } });
  page.on('console', (m) => { if (m.type() === 'error') problems.push(m.text()); });
  page.on('pageerror', (e) => problems.push(String(e)));
  page.on('request', (r) => {
    if (!r.url().startsWith(url) && !r.url().startsWith('data:')) problems.push('foreign request ' + r.url());
  });
  await page.goto(url);
});

after(async () => { await browser?.close(); });

const picture = async (name) => {
  if (pictures) await page.screenshot({ path: join(pictures, name + '.png') });
};
const log = () => page.getByRole('log');
const answers = () => page.getByRole('article', { name: 'Answer' });
const text = () => answers().last().locator('.text').textContent();
const busy = (want) => page.locator(`[role=log][aria-busy=${want}]`).waitFor(patience);

/** settings changes fields of the settings. */
async function settings(values) {
  await page.locator('#settings summary').click();
  for (const [label, value] of Object.entries(values)) await page.getByLabel(label).fill(value);
  await page.keyboard.press('Escape');
}

/** longer waits until the last answer has more text than before. */
async function longer(than) {
  await page.waitForFunction((n) => {
    const all = document.querySelectorAll('.turn.assistant .text');
    return (all[all.length - 1]?.textContent.length ?? 0) > n;
  }, than, patience);
}

test('it shows which model answers and where', async () => {
  await page.locator('#state[data-state=ready]').waitFor(patience);
  const stages = await page.locator('#stages li').allTextContents();
  assert.ok(stages.length >= 1, 'at least one stage');
  for (const s of stages) assert.match(s, /\[\d+\.\.\d+\)$/);
  await picture('welcome');
});

test('an answer grows token by token and Stop ends it', async () => {
  await settings({ 'Most tokens': '100000', Temperature: '0' });
  await page.getByRole('textbox', { name: 'Your prompt' }).fill('Tell me a long story about the sea.');
  // A fast cluster could be done before a click from out here arrives, so the
  // page itself presses the button once the text has grown three times.
  const grown = page.evaluate(() => new Promise((resolve) => {
    const lengths = [];
    const observer = new MutationObserver(() => {
      const length = document.querySelector('.turn.assistant .text')?.textContent.length ?? 0;
      if (length > (lengths.at(-1) ?? 0)) lengths.push(length);
      if (lengths.length < 3) return;
      observer.disconnect();
      const stop = document.getElementById('stop');
      resolve({ lengths, offered: stop.checkVisibility() });
      stop.click();
    });
    observer.observe(document.getElementById('log'), { subtree: true, childList: true, characterData: true });
  }));
  await page.getByRole('button', { name: 'Send' }).click();
  const { lengths, offered } = await grown;
  assert.ok(offered, 'Stop is offered while the answer is written');
  assert.ok(lengths[0] < lengths[1] && lengths[1] < lengths[2], `the text grows: ${lengths}`);
  await busy(false);
  const stopped = await text();
  await page.waitForTimeout(500);
  assert.equal(await text(), stopped, 'no text comes after Stop');
  assert.match(await answers().last().locator('.stats').textContent(), /tokens.*to the first token.*stopped/);
  await page.getByRole('button', { name: 'Send' }).waitFor(patience);
});

test('the conversation goes on by keyboard alone', async () => {
  const before = await answers().count();
  await page.locator('#settings summary').focus();
  await page.keyboard.press('Enter');
  await page.getByLabel('Most tokens').fill('8');
  await page.keyboard.press('Escape');
  await page.getByRole('textbox', { name: 'Your prompt' }).focus();
  await page.keyboard.type('And then?');
  await page.keyboard.press('Enter');
  await page.waitForFunction((n) => document.querySelectorAll('.turn.assistant').length > n, before, patience);
  await busy(false);
  assert.ok((await text()).length > 0, 'an answer');
  assert.equal(await page.getByRole('alert').count(), 0, 'no error');
  await picture('conversation');
});

test('Escape stops, and a new chat is empty', async () => {
  await settings({ 'Most tokens': '100000' });
  const prompt = page.getByRole('textbox', { name: 'Your prompt' });
  await prompt.fill('Tell me a story about a small boat.');
  await prompt.press('Enter');
  await longer(120);
  await picture('writing');
  await page.keyboard.press('Escape');
  await busy(false);
  await page.getByRole('button', { name: 'New chat' }).click();
  assert.equal(await log().getByRole('article').count(), 0);
  await page.getByRole('heading', { level: 2 }).waitFor(patience);
});

test('it reads well in the dark and on a telephone', async () => {
  await page.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' });
  await page.setViewportSize({ width: 390, height: 780 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
  assert.equal(wide, false, 'nothing is wider than the screen');
  await picture('telephone');
});

test('nothing went wrong meanwhile', () => {
  assert.deepEqual(problems, []);
});
