// What the console does when something breaks in the middle of an answer: the
// network, a machine. And that its map follows the cluster.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, open, patience } from './browser.mjs';
import { Cable } from './proxy.mjs';
import { Cluster } from './cluster.mjs';

let browser, cluster, whole;
const question = 'Tell me a story about a lighthouse and a whale.';
const greedy = { Temperature: '0', 'Most tokens': '600' };

before(async () => {
  browser = await launch();
  cluster = await Cluster.start(2, 3);
  const calm = await open(browser, cluster.url, []);
  await calm.ready();
  await calm.options(greedy);
  whole = await calm.answered(question);
  await calm.page.close();
});
after(async () => {
  await browser?.close();
  await cluster?.stop();
});

test('the network is gone for ten seconds: no token is lost and none comes twice', async () => {
  const cable = await Cable.to(cluster.url);
  try {
    const chat = await open(browser, cable.url, []);
    await chat.ready();
    await chat.options(greedy);
    cable.cutAfter('"type":"token"', 40);
    await chat.ask(question);
    await chat.page.getByRole('status').getByText(/cannot be reached/).waitFor(patience);
    const had = (await chat.text()).length;
    assert.ok(had > 0 && had < whole.length, `${had} of ${whole.length} letters came before the cut`);
    await chat.page.waitForTimeout(10_000);
    cable.mend();
    await chat.busy(false);
    assert.equal(await chat.page.getByRole('alert').count(), 0);
    assert.equal(await chat.text(), whole);
    await chat.page.close();
  } finally {
    cable.close();
  }
});

test('a machine dies in the middle of an answer, and the answer goes on', async () => {
  const chat = await open(browser, cluster.url, []);
  await chat.ready();
  await chat.options(greedy);
  const { pipelines } = await cluster.report();
  const { node } = pipelines[0].plan.stages[1];
  await chat.ask(question);
  await chat.grown(20);
  cluster.kill(node);
  await chat.busy(false);
  assert.equal(await chat.page.getByRole('alert').count(), 0);
  assert.equal(await chat.text(), whole);
  await chat.page.close();
});

test('the map follows machines that come and go', async () => {
  const chat = await open(browser, `${cluster.url}/#cluster`, []);
  const nodes = chat.page.getByRole('region', { name: 'Nodes' });
  cluster.shard('newcomer');
  await nodes.getByRole('row', { name: /newcomer.*ready/s }).waitFor(patience);
  await chat.page.getByRole('region', { name: 'Events' }).getByText('newcomer').first().waitFor(patience);
  cluster.kill('newcomer');
  await nodes.getByRole('row', { name: /newcomer.*lost/s }).or(chat.page.locator('main:not(:has-text("newcomer ready"))')).first().waitFor(patience);
  await cluster.until('it is known to be gone', (r) => r.nodes.newcomer?.state !== 'ready');
  await nodes.getByRole('row', { name: /newcomer.*ready/s }).waitFor({ ...patience, state: 'detached' });
  await chat.page.close();
});
