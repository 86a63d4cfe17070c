// The guide's server in Node: express and ws, and this SDK behind them. It is
// built from the sample and run in a process of its own on a free port; the SDK
// is also its client, over the plain protocol.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { WebSocket } from 'ws';
import { WebGPUStreamingInference } from '@shoal/sdk';

const here = dirname(fileURLToPath(import.meta.url));

/** start runs the sample and resolves with its process and its port. */
async function start(sample, url) {
  const folder = mkdtempSync(join(here, '.server-'));
  const file = join(folder, 'server.mjs');
  // as printed it listens on 8765 of every address
  const text = sample.replace('server.listen(8765, () => {', "server.listen(0, '127.0.0.1', () => { console.log('port', server.address().port);");
  const out = await build({
    absWorkingDir: here, stdin: { contents: text, resolveDir: here }, bundle: true, platform: 'node', format: 'esm', write: false, external: ['express', 'ws'],
    alias: { '@ipfs-accelerate/streaming': '@shoal/sdk' }, logLevel: 'error',
  });
  writeFileSync(file, out.outputFiles[0].text);
  const child = spawn(process.execPath, [file], { env: { ...process.env, SHOAL_URL: url }, stdio: ['ignore', 'pipe', 'inherit'] });
  const end = () => {
    child.kill();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const port = await new Promise((resolve, reject) => {
      child.stdout.on('data', (data) => {
        const found = /port (\d+)/.exec(String(data));
        if (found) resolve(found[1]);
      });
      child.on('exit', (code) => reject(new Error(`the server ended with ${code}`)));
    });
    return { port, end };
  } catch (e) {
    end();
    throw e;
  }
}

/** runServerSample serves one generation through the sample and returns what went wrong, or nothing. */
export async function runServerSample(sample, url) {
  const server = await start(sample, url);
  try {
    const calls = [];
    const client = new WebGPUStreamingInference({ url: `ws://127.0.0.1:${server.port}`, transport: 'plain', WebSocket });
    const r = await client.generate({ prompt: 'Hello', maxTokens: 20, temperature: 0, callback: (token, last) => calls.push([token, last]) });
    if (r.text !== calls.map(([t]) => t).join('')) return { message: 'the tokens are not the text' };
    if (!calls.at(-1)?.[1] || calls.length < 2) return { message: 'the answer has no end' };
    return undefined;
  } catch (e) {
    return { code: e.code, param: e.param, message: e.message };
  } finally {
    server.end();
  }
}
