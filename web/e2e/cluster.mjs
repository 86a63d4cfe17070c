// A cluster of real processes on loopback.
import { spawn, execFileSync } from 'node:child_process';
import { createServer } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const program = process.env.SHOAL_BIN ?? new URL('../../bin/shoal', import.meta.url).pathname;

async function freePort() {
  const s = createServer();
  await new Promise((resolve) => s.listen(0, '127.0.0.1', resolve));
  const { port } = s.address();
  await new Promise((resolve) => s.close(resolve));
  return `127.0.0.1:${port}`;
}

export class Cluster {
  static async start(stages, shards) {
    const c = new Cluster();
    c.dir = mkdtempSync(join(tmpdir(), 'shoal-e2e-'));
    c.processes = new Map();
    const key = join(c.dir, 'key');
    execFileSync(program, ['secret', key]);
    c.common = ['--cluster-secret-file', key, '--advertise', '127.0.0.1', '--admin-addr', '127.0.0.1:0'];
    c.gossip = await freePort();
    const web = await freePort();
    c.url = `http://${web}`;
    const any = '127.0.0.1:0';
    c.run('coordinator', 'coordinator', '--model', 'tiny', '--stages', `${stages}`, '--min-shards', `${stages}`, '--grpc-addr', any, '--gossip-addr', c.gossip);
    for (let i = 0; i < shards; i++) c.shard(`shard-${i}`);
    c.run('gateway', 'gateway', '--join', c.gossip, '--gossip-addr', any, '--grpc-addr', any, '--listen', web, '--grpc-listen', any);
    await c.until('it is ready', (r) => r.ready);
    return c;
  }

  run(name, role, ...args) {
    const p = spawn(program, [role, ...this.common, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    p.stderr.on('data', (d) => { said = (said + d).slice(-4000); });
    p.said = () => said;
    this.processes.set(name, p);
  }

  shard(name) {
    this.run(name, 'shard', '--join', this.gossip, '--node-id', name, '--grpc-addr', '127.0.0.1:0', '--gossip-addr', '127.0.0.1:0', '--threads', '1', '--state-dir', '', '--gpu-program', 'off');
  }

  kill(name) { this.processes.get(name).kill('SIGKILL'); }

  async report() {
    const r = await fetch(`${this.url}/v1/cluster`);
    return r.ok ? r.json() : undefined;
  }

  /** until waits for the cluster's report to be as wanted. */
  async until(what, holds) {
    let last;
    for (const end = Date.now() + 60_000; Date.now() < end; await new Promise((r) => setTimeout(r, 50))) {
      last = await this.report().catch(() => undefined);
      if (last && holds(last)) return last;
    }
    throw new Error(`until ${what}: ${JSON.stringify(last)?.slice(0, 500)}; ${[...this.processes].map(([n, p]) => `${n}: ${p.said().slice(-300)}`).join('; ')}`);
  }

  async stop() {
    for (const p of this.processes.values()) p.kill('SIGTERM');
    await Promise.all([...this.processes.values()].map((p) => new Promise((resolve) => {
      if (p.exitCode !== null || p.signalCode !== null) return resolve();
      const late = setTimeout(() => p.kill('SIGKILL'), 10_000);
      p.once('exit', () => { clearTimeout(late); resolve(); });
      return undefined;
    })));
    rmSync(this.dir, { recursive: true, force: true });
  }
}
