// What the tests in a real browser share.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

export const patience = { timeout: 30_000 };

/** launch starts Chromium; problems gathers what pages of it complain of. */
export async function launch() {
  const browser = await chromium.launch({
    executablePath: process.env.SHOAL_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  return browser;
}

/** open shows the console of a gateway in a profile of its own. */
export async function open(browser, url, problems, options = {}) {
  const page = await (await browser.newContext({ viewport: { width: 1180, height: 780 }, ...options })).newPage();
  page.on('console', (m) => { if (m.type() === 'error') problems.push(m.text()); });
  page.on('pageerror', (e) => problems.push(String(e)));
  page.on('request', (r) => {
    if (!r.url().startsWith(url) && !/^(data|blob):/.test(r.url())) problems.push('foreign request ' + r.url());
  });
  await page.goto(url);
  return new Console(page);
}

/** Console is the page, as a person sees it. */
export class Console {
  constructor(page) {
    this.page = page;
    this.prompt = page.getByRole('textbox', { name: 'Your message' });
    this.log = page.getByRole('log');
    this.answers = page.getByRole('article', { name: 'Answer' });
    this.questions = page.getByRole('article', { name: 'You' });
  }

  button(name, from = this.page) { return from.getByRole('button', { name, exact: true }); }
  text(answer = this.answers.last()) { return answer.locator('.text').innerText(); }
  async ready() { await this.page.locator('.state[data-state=ready]').waitFor(patience); }
  async busy(want) { await this.page.locator(`[role=log][aria-busy=${want}]`).waitFor(patience); }

  /** options changes the settings of the conversation. */
  async options(values) {
    await this.button('Options of this conversation').click();
    for (const [label, value] of Object.entries(values)) await this.page.getByLabel(label, { exact: true }).fill(value);
    await this.page.keyboard.press('Escape');
    await this.page.locator('dialog[open]').waitFor({ ...patience, state: 'detached' });
  }

  /** ask sends a message. */
  async ask(text) {
    await this.prompt.fill(text);
    await this.button('Send').click();
  }

  /** answered asks and waits for the whole answer. */
  async answered(text) {
    const before = await this.answers.count();
    await this.ask(text);
    await this.page.waitForFunction((n) => document.querySelectorAll('.turn.assistant').length > n, before, patience);
    await this.busy(false);
    return this.text();
  }

  /** grown waits until the last answer has at least n letters. */
  async grown(n) {
    await this.page.waitForFunction((least) => ([...document.querySelectorAll('.turn.assistant .text')].at(-1)?.textContent.length ?? 0) >= least, n, patience);
  }
}

/** noBarrier fails where axe finds something serious. */
export async function noBarrier(page, what) {
  const { default: AxeBuilder } = await import('@axe-core/playwright');
  const { violations } = await new AxeBuilder({ page }).analyze();
  const serious = violations.filter((v) => ['serious', 'critical'].includes(v.impact));
  assert.deepEqual(serious.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(', ')}`), [], what);
  return serious.length;
}
