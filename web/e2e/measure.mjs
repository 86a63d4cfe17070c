// Measures the console: the time of a first visit, and what a fast answer costs the
// page. Prints "name value" lines. The folder of smollm2.gguf is the argument.
import { spawn } from 'node:child_process';
import { launch, noBarrier, open, patience } from './browser.mjs';

const root = new URL('../..', import.meta.url).pathname;
const browser = await launch();

/** up starts the product and waits for the page's address. */
async function up(command, ...args) {
  const p = spawn(command, [...args, '--listen', '127.0.0.1:0'], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  const url = await new Promise((resolve, reject) => {
    let said = '';
    p.stdout.on('data', (d) => {
      said += d;
      const found = /Chat\s+(http\S+)/.exec(said);
      if (found) resolve(found[1]);
    });
    p.once('exit', () => reject(new Error(`${command} ended: ${said}`)));
  });
  return { url, stop: () => new Promise((resolve) => { p.once('exit', resolve); process.kill(-p.pid, 'SIGTERM'); }) };
}

/** firstWord is the time from the command to the first word in the page. */
async function firstWord() {
  const began = performance.now();
  const shoal = await up('go', 'run', './cmd/shoal', 'up');
  const chat = await open(browser, shoal.url, []);
  await chat.prompt.fill('Tell me a story.');
  await chat.ready();
  await chat.prompt.press('Enter');
  await chat.grown(1);
  const took = performance.now() - began;
  await chat.busy(false);
  await chat.page.close();
  await shoal.stop();
  return took / 1000;
}

/** pace has an answer written and watches the page's main thread. */
async function pace(models) {
  const shoal = await up('bin/shoal', 'up', 'smollm2', '--models', models, '--threads', '1', '--stages', '1');
  const chat = await open(browser, shoal.url, []);
  await chat.ready();
  await chat.options({ 'Most tokens': '1200', Temperature: '0' });
  await chat.page.evaluate(() => {
    window.longTasks = [];
    new PerformanceObserver((l) => window.longTasks.push(...l.getEntries().map((e) => e.duration))).observe({ type: 'longtask' });
  });
  const cdp = await chat.page.context().newCDPSession(chat.page);
  await cdp.send('Performance.enable');
  const busy = async () => {
    const { metrics } = await cdp.send('Performance.getMetrics');
    const of = (name) => metrics.find((m) => m.name === name).value;
    return [of('TaskDuration'), of('Timestamp')];
  };
  await chat.ask('Write a long story about a harbour, with many chapters.');
  await chat.grown(20);
  const [spent, at] = await busy();
  await chat.busy(false);
  const [spentEnd, end] = await busy();
  const stats = await chat.answers.last().locator('.stats').innerText();
  const rate = Number(/([\d.,]+) tokens\/s/.exec(stats)[1].replace(',', ''));
  const long = await chat.page.evaluate(() => window.longTasks);
  const serious = await noBarrier(chat.page, 'the chat');
  await chat.page.close();
  await shoal.stop();
  return { rate, share: (100 * (spentEnd - spent)) / (end - at), longest: Math.max(0, ...long), serious };
}

const words = [];
for (let i = 0; i < 3; i++) words.push(await firstWord());
console.log('start_to_first_word_s', words.sort((a, b) => a - b)[1].toFixed(2));
const p = await pace(process.argv[2]);
console.log('page_tokens_per_second', p.rate.toFixed(0));
console.log('page_main_thread_percent', p.share.toFixed(1));
console.log('page_longest_task_ms', p.longest.toFixed(0));
console.log('axe_serious', p.serious);
await browser.close();
