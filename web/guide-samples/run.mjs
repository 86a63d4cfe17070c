// Runs every sample of the guide in headless Chromium (one in Node) against
// running gateways: SHOAL_URL_INT4 and SHOAL_URL_INT8. A sample either does its
// work, or is refused by the name of an option that is not served yet; then the
// rest of it is run without that option. Anything else fails.
//   node run.mjs [NUMBER...]
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { compileTemplate, parse, rewriteDefault } from 'vue/compiler-sfc';
import { launch } from '../testing/browser.mjs';
import { cases, landing } from './cases.mjs';
import { runServerSample } from './node-server.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const servers = { int4: process.env.SHOAL_URL_INT4, int8: process.env.SHOAL_URL_INT8 };
const names = readdirSync(join(here, 'samples'));
const source = (name) => readFileSync(join(here, 'samples', name), 'utf8');

const importMap = JSON.stringify({ imports: { '@ipfs-accelerate/web-platform': '/sdk/index.js', '@ipfs-accelerate/streaming': '/sdk/index.js' } });
/** listening notes, before the sample runs, what it prints and what goes wrong. */
const listening = `<script>
  window.lines = []; window.problems = [];
  for (const level of ['log', 'warn', 'error']) { const print = console[level]; console[level] = (...a) => { lines.push(a.map(String).join(' ')); a.forEach(note); print(...a); }; }
  function note(e) { if (e instanceof Error) problems.push({ code: e.code, param: e.param, message: e.message }); }
  addEventListener('error', (e) => note(e.error ?? e.detail?.error)); addEventListener('unhandledrejection', (e) => note(e.reason));
</script>`;
const imports = `
import { WebPlatformAccelerator, createWebEndpoint, getOptimalConfig } from '@ipfs-accelerate/web-platform';
import { WebGPUStreamingInference, createStreamingEndpoint } from '@ipfs-accelerate/streaming';
`;

/** page is a document that runs a module; a closing tag in the code would end the script. */
const page = (code, body = '') => `<!doctype html><html lang="en"><meta charset="utf-8"><title>sample</title><link rel="icon" href="data:,">
<script type="importmap">${importMap}</script>${listening}<body>${body}<script type="module">${withImports(code).replaceAll('</script', '<\\/script')}</script></body></html>`;

function withImports(code) {
  return code.includes("'@ipfs-accelerate/") || code.includes('"@ipfs-accelerate/') ? code : imports + code;
}

/** bundled makes one module of a component, its framework, and an entry that mounts it. */
async function bundled(entry, files) {
  const out = await build({
    stdin: { contents: entry, resolveDir: here, loader: 'js' },
    bundle: true, format: 'esm', write: false, jsx: 'transform', logLevel: 'error', external: ['@ipfs-accelerate/*'],
    define: { 'process.env.NODE_ENV': '"production"', __VUE_OPTIONS_API__: 'true', __VUE_PROD_DEVTOOLS__: 'false', __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false' },
    plugins: [{
      name: 'samples',
      setup(b) {
        b.onResolve({ filter: /^sample:|components\/StreamingLLM$/ }, ({ path }) => ({ path: path.replace('./components/', 'sample:'), namespace: 'sample' }));
        b.onLoad({ filter: /.*/, namespace: 'sample' }, ({ path }) => ({ contents: files[path], loader: 'jsx', resolveDir: here }));
      },
    }],
  });
  return out.outputFiles[0].text;
}

const react = (which, component) => bundled(
  which === 'app'
    ? "import { createElement } from 'react'; import { createRoot } from 'react-dom/client'; import App from 'sample:App'; createRoot(document.getElementById('app')).render(createElement(App));"
    : "import { createElement } from 'react'; import { createRoot } from 'react-dom/client'; import C from 'sample:StreamingLLM'; createRoot(document.getElementById('app')).render(createElement(C, { modelPath: 'models/llama-7b', modelType: 'text' }));",
  { 'sample:App': source('25-react-integration.jsx'), 'sample:StreamingLLM': component },
);

function vue(text) {
  const { descriptor } = parse(text);
  const template = compileTemplate({ source: descriptor.template.content, filename: 'sample.vue', id: 'sample' });
  const component = `${rewriteDefault(descriptor.script.content, 'component')}\n${template.code}\ncomponent.render = render;\nexport default component;`;
  return bundled("import { createApp } from 'vue'; import C from 'sample:C'; createApp(C, { modelPath: 'models/llama-7b' }).mount('#app');", { 'sample:C': component });
}

/** documentOf is the page of a sample, or of what is left of it. */
async function documentOf(name, c, text) {
  const ending = name.split('.').pop();
  if (ending === 'html') return text.replace('<head>', `<head><script type="importmap">${importMap}</script>${listening}`);
  if (ending === 'vue') return page(await vue(text), c.body);
  if (c.react) return page(await react(c.react, c.react === 'app' ? source('24-react-integration.jsx') : text), c.body);
  return page([c.prelude, c.repair ? c.repair(text) : text, c.drive].filter(Boolean).join('\n'), c.body);
}

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
  if (!existsSync(out)) mkdirSync(out, { recursive: true });
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
