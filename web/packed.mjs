// Packs the packages, installs them into a fresh project, and uses them as their
// users do: types under two kinds of resolution, ESM in Node, a bundler, a
// classic script. SHOAL_URL, if set, is a gateway that answers.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import vm from 'node:vm';
import { build } from 'esbuild';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

const web = dirname(fileURLToPath(import.meta.url));
const names = ['sdk', 'element', 'react', 'vue'];
const project = mkdtempSync(join(tmpdir(), 'shoal-packed-'));
const sh = (program, ...args) => execFileSync(program, args, { cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
let failed = false;
const check = (what, ok, detail = '') => {
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${what} ${detail}`);
  failed ||= !ok;
};

/** install unpacks a tarball where a package manager would put it; what lies beside it comes from the workspace. */
function install(name) {
  const [{ filename }] = JSON.parse(sh('npm', 'pack', '--json', '--ignore-scripts', join(web, 'packages', name)));
  const folder = join(project, 'node_modules/@shoal', name);
  mkdirSync(folder, { recursive: true });
  sh('tar', 'xzf', filename, '-C', folder, '--strip-components=1');
}

const usage = `
import { WebGPUStreamingInference, LLMError, type Config, type TokenChunk } from '@shoal/sdk';
import { Chat } from '@shoal/sdk/chat';
import { StreamingLLM } from '@shoal/element';
import '@shoal/element/define';
import { useStreamingLLM } from '@shoal/react';
import { useStreamingLLM as useInVue } from '@shoal/vue';
const config: Config = { quantization: 4, kvCacheConfig: { bits: 3 } };
// @ts-expect-error a width that does not exist
const wrong: Config = { quantization: 5 };
export async function all(): Promise<string> {
  const s = new WebGPUStreamingInference({ config });
  const chunks: AsyncGenerator<TokenChunk> = s.chunks({ prompt: 'x' });
  for await (const c of chunks) if (c.last) return c.text;
  return (await s.generate({ prompt: 'x', callback: (token: string, isLast: boolean) => console.log(token, isLast) })).text;
}
const element: StreamingLLM = document.createElement('streaming-llm');
export { Chat, element, LLMError, useInVue, useStreamingLLM, wrong };
`;

try {
  for (const name of names) {
    const { messages, pkg } = await publint({ pkgDir: join(web, 'packages', name), strict: true });
    check(`publint ${name}`, messages.length === 0, messages.map((m) => formatMessage(m, pkg)).join('; '));
  }
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'fresh', private: true, type: 'module' }));
  for (const name of names) install(name);
  for (const name of ['lit', 'lit-html', 'lit-element', '@lit', 'react', 'vue', '@vue', '@types/react', '@types/react-dom', '@types/trusted-types', 'csstype', 'typescript', '@babel']) {
    mkdirSync(dirname(join(project, 'node_modules', name)), { recursive: true });
    sh('cp', '-r', join(web, 'node_modules', name), join(project, 'node_modules', name));
  }
  writeFileSync(join(project, 'use.ts'), usage);
  for (const [module, resolution] of [['nodenext', 'nodenext'], ['esnext', 'bundler']]) {
    const args = ['node_modules/typescript/bin/tsc', '--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2023,esnext.disposable,dom,dom.iterable,dom.asynciterable', '--module', module, '--moduleResolution', resolution, 'use.ts'];
    let problem = '';
    try {
      execFileSync(process.execPath, args, { cwd: project, encoding: 'utf8', stdio: 'pipe' });
    } catch (e) {
      problem = e.stdout;
    }
    check(`types, ${resolution}`, !problem, problem);
  }
  const ask = process.env.SHOAL_URL ? "console.log((await new m.WebGPUStreamingInference().generate({ prompt: 'Hello', maxTokens: 8 })).usage.completionTokens > 0);" : 'console.log(true);';
  writeFileSync(join(project, 'esm.mjs'), `import * as m from '@shoal/sdk'; import '@shoal/sdk/chat'; if (m.LLMError.prototype instanceof Error) ${ask}`);
  check('ESM in Node', sh(process.execPath, 'esm.mjs').trim() === 'true');
  const { outputFiles, warnings } = await build({ absWorkingDir: project, entryPoints: ['use.ts'], bundle: true, format: 'esm', write: false, logLevel: 'silent', jsx: 'automatic', treeShaking: true });
  check('bundler', warnings.length === 0 && outputFiles[0].text.includes('streaming-llm'));
  const page = vm.createContext({ console, URL, TextDecoder, AbortController, fetch, setTimeout, clearTimeout });
  const before = Object.keys(page);
  vm.runInContext(readFileSync(join(web, '../services/gateway/sdk/dist/shoal.js'), 'utf8'), page);
  const added = Object.keys(page).filter((k) => !before.includes(k));
  check('classic script', typeof page.shoal?.WebGPUStreamingInference === 'function' && added.join() === 'shoal', added.join());
} finally {
  rmSync(project, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
