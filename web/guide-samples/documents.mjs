// Makes pages of samples: what a page of the guide's reader would hold, with the
// SDK taken from the gateway under the guide's names.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { compileTemplate, parse, rewriteDefault } from 'vue/compiler-sfc';

const here = dirname(fileURLToPath(import.meta.url));

/** source is a sample as the guide prints it. */
export const source = (name) => readFileSync(join(here, 'samples', name), 'utf8');

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
export const page = (code, body = '') => `<!doctype html><html lang="en"><meta charset="utf-8"><title>sample</title><link rel="icon" href="data:,">
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
export async function documentOf(name, c, text) {
  const ending = name.split('.').pop();
  if (ending === 'html') return text.replace('<head>', `<head><script type="importmap">${importMap}</script>${listening}`);
  if (ending === 'vue') return page(await vue(text), c.body);
  if (c.react) return page(await react(c.react, c.react === 'app' ? source('24-react-integration.jsx') : text), c.body);
  return page([c.prelude, c.repair ? c.repair(text) : text, c.drive].filter(Boolean).join('\n'), c.body);
}
