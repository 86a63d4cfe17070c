// Runs every sample of the guide in headless Chromium (one in Node) against
// running gateways: SHOAL_URL_INT4 and SHOAL_URL_INT8. A sample either does its
// work, or is refused by the name of an option that is not served yet; then the
// rest of it is run without that option. Anything else fails.
//   node run.mjs [NUMBER...]
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { launch } from '../testing/browser.mjs';
import { cases, landing } from './cases.mjs';
import { documentOf, page, source } from './documents.mjs';
import { runServerSample } from './node-server.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const servers = { int4: process.env.SHOAL_URL_INT4, int8: process.env.SHOAL_URL_INT8 };
const names = readdirSync(join(here, 'samples'));

/** run runs one text of a sample and returns what went wrong, or nothing. */
async function run(browser, name, c, text) {
  const url = servers[c.server ?? 'int4'];
  if (c.node) return runServerSample(text, url);
  const context = await browser.newContext();
  const fulfil = (path, type, body) => context.route(url + path, (route) => route.fulfill({ contentType: type, body }));
  try {
    await fulfil('/guide/', 'text/html', await documentOf(name, c, text));
    await fulfil('/guide/streaming-llm-element.js', 'text/javascript', "import '/sdk/streaming-llm-element.js';");
    const routes = typeof c.routes === 'function' ? c.routes(text, page) : (c.routes ?? {});
    for (const [path, [type, body]] of Object.entries(routes)) await fulfil(path, type, body);
    const tab = await context.newPage();
    await tab.goto(`${url}/guide/`);
    const timeout = c.patience ?? 60_000;
    const check = typeof c.check === 'string' ? c.check : `(${c.check})()`;
    const acting = c.act ? c.act(tab).catch((e) => tab.evaluate((m) => problems.push({ message: m }), String(e))) : undefined;
    const end = await tab.waitForFunction(`problems.length > 0 || (${check})`, undefined, { timeout, polling: 50 }).catch(() => undefined);
    await acting;
    const [problem] = await tab.evaluate(() => problems);
    if (!end) return { message: `nothing happened in ${timeout / 1000} s; it printed: ${(await tab.evaluate(() => lines)).slice(-5).join(' | ')}` };
    return problem;
  } finally {
    await context.close();
  }
}

/** reasonFor is why an option is refused today, or nothing. */
function reasonFor(problem) {
  const param = problem.param ?? /config\.[A-Za-z.]+/.exec(problem.message)?.[0];
  return landing[param] && `${param}: ${landing[param]}`;
}

async function judge(browser, name) {
  const c = cases[name.replace(/\.\w+$/, '')];
  if (!c) return { failed: 'it has no case' };
  const text = source(name);
  const problem = await run(browser, name, c, text);
  if (!problem) return {};
  const reason = reasonFor(problem);
  if (!reason) return { failed: problem.message };
  if (!c.without) return { reason };
  const rest = text.split('\n').filter((line) => !c.without.test(line)).join('\n');
  const more = await run(browser, name, c, rest);
  return more ? { failed: `without what is not served: ${more.message}` } : { reason, rest: true };
}

const wanted = process.argv.slice(2);
const browser = await launch();
const results = [];
for (const name of names) {
  if (wanted.length > 0 && !wanted.includes(name.slice(0, 2))) continue;
  const r = await judge(browser, name).catch((e) => ({ failed: String(e) }));
  const what = r.failed ? `FAILED: ${r.failed}` : r.reason ? `not yet: ${r.reason}${r.rest ? '; the rest of it runs' : ''}` : 'runs';
  console.log(`${name.padEnd(56)} ${what}`);
  results.push({ name, ...r });
}
await browser.close();

const ran = results.filter((r) => !r.failed && !r.reason).length;
console.log(`${ran} of ${results.length} samples run as printed`);
if (wanted.length === 0) {
  const out = join(here, '../../.tmp/web');
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'guide_samples_run'), String(ran));
  writeFileSync(join(out, 'guide_samples_total'), String(results.length));
  writeFileSync(join(here, '../../docs/guide-samples.md'), documentFor(results));
}
process.exitCode = results.some((r) => r.failed) ? 1 : 0;

function documentFor(all) {
  const rows = all.map((r) => `| ${r.name.replace(/\.\w+$/, '')} | ${r.failed ? 'fails' : r.reason ? 'not yet' : 'runs'} | ${r.reason ?? ''}${r.rest ? '; without it, the sample runs' : ''} |`);
  return `# The guide's samples

What \`make guide-samples\` found when it ran every code sample of the streaming guide in headless Chromium against \`shoal up\`: ${ran} of ${all.length} run as printed.
A sample that asks for what is not served yet is refused by the option's name.

| sample | | why |
|---|---|---|
${rows.join('\n')}
`;
}
