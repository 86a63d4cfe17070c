// Drives the console of a running gateway (SHOAL_URL) in headless Chromium, as a
// person would. SHOAL_SCREENSHOTS names a folder for pictures of it.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { join } from 'node:path';
import { launch, noBarrier, open, patience } from './browser.mjs';
import { Cable } from './proxy.mjs';

const pictures = process.env.SHOAL_SCREENSHOTS;
const problems = [];
let browser, cable, chat, page, url;

before(async () => {
  assert.ok(process.env.SHOAL_URL, 'SHOAL_URL must name a running gateway');
  cable = await Cable.to(process.env.SHOAL_URL);
  ({ url } = cable);
  browser = await launch();
  chat = await open(browser, url, problems);
  page = chat.page;
});
after(async () => {
  await browser?.close();
  cable?.close();
});

const picture = async (name) => {
  if (pictures) await page.screenshot({ path: join(pictures, name + '.png') });
};

test('it says which model answers', async () => {
  await chat.ready();
  await page.getByText(/answers from \d+ stages? on \d+ node/).waitFor(patience);
});

/** drop lets a picture fall on the composer. */
const drop = () => page.evaluate(async () => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 40, height: 30 });
  canvas.getContext('2d').fillRect(5, 5, 20, 10);
  const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([blob], 'a.png', { type: 'image/png' }));
  document.querySelector('.composer').dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
});

test('a picture is shown to a model that reads some, and to no other', async () => {
  const { data } = await (await fetch(`${url}/v1/models`)).json();
  await drop();
  if (!data[0].shoal.picture_rows) {
    await page.getByRole('alert').getByText('reads text alone').waitFor(patience);
    return;
  }
  await page.getByRole('img', { name: 'Picture 1' }).waitFor(patience);
  await chat.button('Remove picture 1').click();
  await page.getByRole('img', { name: 'Picture 1' }).waitFor({ ...patience, state: 'detached' });
  await drop();
  await page.getByRole('img', { name: 'Picture 1' }).waitFor(patience);
  await chat.answered('What is this?');
  await chat.questions.last().getByRole('img', { name: 'Picture 1' }).waitFor(patience);
});

test('an answer grows token by token and Stop ends it', async () => {
  await chat.options({ 'Most tokens': '100000', Temperature: '0' });
  // A fast cluster could be done before anybody sees its answer grow: so the network
  // is slow. The page itself presses the button once the text has grown three times.
  cable.pace = 200;
  const grown = page.evaluate(() => new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('the text did not grow')), 20_000);
    const lengths = [];
    const observer = new MutationObserver(() => {
      const length = document.querySelector('.turn.assistant .text')?.textContent.length ?? 0;
      if (length > (lengths.at(-1) ?? 0)) lengths.push(length);
      const stop = document.querySelector('button.stop');
      if (lengths.length < 3 || !stop) return;
      observer.disconnect();
      stop.click();
      resolve(lengths);
    });
    observer.observe(document.querySelector('[role=log]'), { subtree: true, childList: true, characterData: true });
  }));
  await chat.ask('Tell me a long story about the sea.');
  const lengths = await grown;
  cable.pace = 0;
  assert.ok(lengths[0] < lengths[1] && lengths[1] < lengths[2], `the text grows: ${lengths}`);
  await chat.busy(false);
  assert.match(await chat.answers.last().locator('.stats').innerText(), /tokens.*to the first token.*stopped/);
  const stopped = await chat.text();
  await chat.options({ 'Most tokens': '12' });
  assert.equal(await chat.text(), stopped, 'no text comes after Stop');
});

test('an answer is written again as a branch, and branches can be gone through', async () => {
  await chat.answered('And a short one about a lamp.');
  const answer = chat.answers.last();
  await chat.button('Regenerate', answer).click();
  await answer.getByText('2/2').waitFor(patience);
  await chat.busy(false);
  await chat.button('Branch before', answer).click();
  await answer.getByText('1/2').waitFor(patience);
});

test('what was said can be said differently', async () => {
  const question = chat.questions.last();
  await chat.button('Edit', question).click();
  const box = page.getByRole('textbox', { name: 'Edit what you said' });
  await box.fill('And a short one about a boat.');
  await box.press('Control+Enter');
  await question.getByText('2/2').waitFor(patience);
  await chat.busy(false);
  assert.match(await question.innerText(), /about a boat/);
  await chat.button('Branch before', question).click();
  await question.getByText('about a lamp').waitFor(patience);
  await chat.button('Branch after', question).click();
});

test('a cut answer goes on where it stopped', async () => {
  const answer = chat.answers.last();
  const cut = await chat.text();
  await chat.button('Continue', answer).click();
  await chat.busy(false);
  assert.ok((await chat.text()).startsWith(cut.slice(0, 20)), 'what there was stays');
});

test('a conversation is there after a reload, can be found, and deleted', async () => {
  const said = await chat.text();
  await page.reload();
  await chat.ready();
  assert.equal(await chat.answers.count(), 0);
  const list = page.getByRole('navigation', { name: 'Conversations' });
  await list.getByRole('searchbox').fill('boat');
  await list.getByRole('button', { name: /^Tell me a long story/ }).click();
  assert.equal(await chat.text(), said);
  const download = page.waitForEvent('download');
  await chat.button('Export', list).click();
  const kept = await readFile(await (await download).path(), 'utf8');
  assert.equal(JSON.parse(kept).chats.length, 1);
  page.once('dialog', (d) => void d.accept());
  await list.getByRole('button', { name: /^Delete Tell me/ }).click();
  await list.getByText('Nothing found').waitFor(patience);
  await page.locator('.sidebar input[type=file]').setInputFiles({ name: 'chats.json', mimeType: 'application/json', buffer: Buffer.from(kept) });
  await list.getByRole('button', { name: /^Tell me a long story/ }).click();
  assert.equal(await chat.text(), said);
  await list.getByRole('searchbox').fill('');
});

test('all of it works by keyboard alone', async () => {
  await page.keyboard.press('Control+Shift+o');
  await page.keyboard.press('Escape');
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('/');
  await chat.options({ 'Most tokens': '8' });
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('/');
  await page.keyboard.type('Good morning');
  await page.keyboard.press('Enter');
  await chat.answers.last().waitFor(patience);
  await chat.busy(false);
  assert.ok((await chat.text()).length > 0, 'an answer');
  await page.keyboard.press('ArrowUp');
  await page.getByRole('textbox', { name: 'Edit what you said' }).waitFor(patience);
  await page.keyboard.press('Escape');
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Shortcuts' }).waitFor(patience);
  await page.keyboard.press('Escape');
  const links = page.getByRole('navigation', { name: 'Pages' }).getByRole('link');
  await page.evaluate(() => document.querySelector('.top a').focus());
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Nodes' }).waitFor(patience);
  assert.equal(await links.nth(1).getAttribute('aria-current'), 'page');
  assert.equal(await page.getByRole('alert').count(), 0, 'no error');
});

test('the cluster shows every stage, node and model', async () => {
  await page.goto(url + '/#cluster');
  const stages = page.locator('.map .stage');
  await stages.first().waitFor(patience);
  assert.ok((await stages.count()) >= 1);
  for (const s of await stages.allInnerTexts()) assert.match(s, /layers \d+–\d+/);
  assert.match(await page.getByRole('region', { name: 'Models' }).innerText(), /tiny|fake|smollm2/);
});

test('nobody is kept out: axe finds nothing serious, light and dark, chat and cluster', async () => {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.goto(url + '/#cluster');
    await page.getByRole('heading', { name: 'Nodes' }).waitFor(patience);
    await noBarrier(page, `the cluster, ${colorScheme}`);
    await picture('cluster-' + colorScheme);
    await page.goto(url + '/#chat');
    await page.getByRole('navigation', { name: 'Conversations' }).getByRole('button', { name: /^Tell me a long story/ }).click();
    await noBarrier(page, `the chat, ${colorScheme}`);
    await picture('chat-' + colorScheme);
    await chat.button('Settings').click();
    await noBarrier(page, `settings, ${colorScheme}`);
    await page.keyboard.press('Escape');
  }
});

test('it reads well on a telephone', async () => {
  await page.setViewportSize({ width: 390, height: 780 });
  for (const [colorScheme, at] of ['light', 'dark'].flatMap((c) => [[c, '#chat'], [c, '#cluster']])) {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    await page.goto(url + '/' + at);
    await page.locator(at === '#chat' ? '.composer' : '.map').waitFor(patience);
    if (at === '#chat') {
      await chat.button('Conversations').click();
      await page.getByRole('navigation', { name: 'Conversations' }).getByRole('button', { name: /^Tell me a long story/ }).click();
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(wide, false, `${at}: nothing is wider than the screen`);
    await noBarrier(page, `${at} on a telephone`);
    await picture(`telephone-${at.slice(1)}-${colorScheme}`);
  }
  await page.goto(url + '/#chat');
  await chat.button('Conversations').click();
  await page.getByRole('navigation', { name: 'Conversations' }).getByRole('button', { name: 'New chat' }).click();
  await chat.prompt.waitFor(patience);
});

test('nothing went wrong meanwhile', () => {
  assert.deepEqual(problems, []);
});
