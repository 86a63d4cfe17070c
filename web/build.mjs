// Builds the packages into their dist folders, the files that the gateway serves
// under /sdk/ into services/gateway/sdk/dist, and its console into
// services/gateway/page/dist. `node build.mjs --check` fails when the committed
// files are not what this makes.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const web = dirname(fileURLToPath(import.meta.url));
const gateway = join(web, '../services/gateway');
const shared = {
  absWorkingDir: web, bundle: true, minify: true, target: 'es2022', platform: 'browser', legalComments: 'eof', logLevel: 'warning', write: false,
};

/** make bundles entry points and returns the files by name. */
async function make(entryPoints, options) {
  const { outputFiles } = await build({ ...shared, entryPoints, outdir: '/out', ...options });
  return Object.fromEntries(outputFiles.map((f) => [f.path.replace('/out/', ''), f.text]));
}

const esm = { format: 'esm', splitting: true, chunkNames: '[name]' };
const packages = {
  sdk: await make(['packages/sdk/src/index.ts', 'packages/sdk/src/chat.ts'], esm),
  element: {
    ...(await make(['packages/element/src/index.ts', 'packages/element/src/define.ts'], { ...esm, external: ['@shoal/sdk', '@shoal/sdk/chat', 'lit'] })),
    ...(await make(['packages/element/src/streaming-llm-element.ts'], { format: 'esm', external: ['@shoal/sdk'] })),
  },
  react: await make(['packages/react/src/index.ts'], { ...esm, external: ['@shoal/sdk', '@shoal/sdk/chat', 'react'] }),
  vue: await make(['packages/vue/src/index.ts'], { ...esm, external: ['@shoal/sdk', '@shoal/sdk/chat', 'vue'] }),
};
/** What pages take straight from a gateway: modules that need no import map, and one classic script. */
const forPages = {
  ...packages.sdk,
  ...(await make(['packages/sdk/src/index.ts'], { format: 'iife', globalName: 'shoal', entryNames: 'shoal' })),
  ...(await make(['packages/element/src/streaming-llm-element.ts'], { format: 'esm', plugins: [besideSDK()] })),
};

/** The console: a document, a script, a style sheet. */
const console_ = {
  'index.html': readFileSync(join(web, 'apps/console/index.html'), 'utf8'),
  ...(await make(['apps/console/src/main.tsx'], {
    format: 'esm', splitting: true, chunkNames: 'console-[name]', entryNames: 'console', jsx: 'automatic', jsxImportSource: 'preact', target: 'es2022',
    alias: { '@shoal/sdk': './packages/sdk/src/index.ts' },
  })),
};
const committed = { 'sdk/dist': forPages, 'page/dist': console_ };

/** besideSDK lets the element import the SDK from the file beside it. */
function besideSDK() {
  return { name: 'beside-sdk', setup: (b) => b.onResolve({ filter: /^@shoal\/sdk$/ }, () => ({ path: './index.js', external: true })) };
}

function write(folder, files) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
}

/** gzip is how many kibibytes files are on the wire. */
function gzip(...texts) {
  return texts.reduce((n, text) => n + gzipSync(text, { level: 9 }).length, 0) / 1024;
}

/** closure is a file with the chunks that it imports at once. */
function closure(files, name, seen = new Set()) {
  if (seen.has(name)) return [];
  seen.add(name);
  const imports = [...files[name].matchAll(/(?:from|import)"\.\/([^"]+)"/g)].map((m) => m[1]);
  return [files[name], ...imports.flatMap((i) => (files[i] ? closure(files, i, seen) : []))];
}

const sizes = {
  sdk_core_kib_gzip: gzip(...closure(packages.sdk, 'index.js')),
  element_kib_gzip: gzip(packages.element['streaming-llm-element.js']),
  console_kib_gzip: gzip(...closure(console_, 'console.js'), console_['console.css'], console_['index.html']),
};
const limits = { sdk_core_kib_gzip: 12, element_kib_gzip: 25, console_kib_gzip: 150 };

if (process.argv.includes('--check')) {
  for (const [folder, files] of Object.entries(committed)) {
    const at = join(gateway, folder);
    const there = existsSync(at) ? readdirSync(at) : [];
    const wrong = [...new Set([...there, ...Object.keys(files)])].filter(
      (name) => !there.includes(name) || files[name] !== readFileSync(join(at, name), 'utf8'),
    );
    if (wrong.length > 0) {
      console.error(`services/gateway/${folder} is not what web/ builds (${wrong.join(', ')}): run make web and commit`);
      process.exit(1);
    }
  }
} else {
  for (const [name, files] of Object.entries(packages)) write(join(web, 'packages', name, 'dist'), files);
  for (const [folder, files] of Object.entries(committed)) write(join(gateway, folder), files);
  execFileSync('npx', ['tsc', '-b', ...Object.keys(packages).map((name) => `packages/${name}`), 'apps/console'], { cwd: web, stdio: 'inherit' });
}
mkdirSync(join(web, '../.tmp/web'), { recursive: true });
for (const [name, size] of Object.entries(sizes)) {
  writeFileSync(join(web, '../.tmp/web', name), size.toFixed(2));
  console.log(`${name} ${size.toFixed(2)} of ${limits[name]}`);
  if (size > limits[name]) {
    console.error(`${name} is over its limit`);
    process.exitCode = 1;
  }
}
