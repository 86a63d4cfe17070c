// The SDK against a running gateway (SHOAL_URL) over a network that breaks:
//   node --test resume.browser.mjs
import assert from 'node:assert/strict';
import net from 'node:net';
import { test } from 'node:test';
import { WebGPUStreamingInference } from '@shoal/sdk';
import { WebSocket } from 'ws';

const gateway = new URL(process.env.SHOAL_URL);
const prompt = { prompt: 'Tell me a long story about a fox and a bear.', temperature: 0, maxTokens: 300 };

/** breaking forwards to the gateway and cuts every connection to /streaming without a word after so many bytes of answer. */
async function breaking(bytes) {
  let cuts = 0;
  const server = net.createServer((client) => {
    const upstream = net.connect(Number(gateway.port), gateway.hostname);
    let streaming = false;
    let seen = 0;
    client.on('data', (data) => {
      streaming ||= data.includes('/streaming');
      upstream.write(data);
    });
    upstream.on('data', (data) => {
      client.write(data);
      seen += data.length;
      if (!streaming || seen < bytes) return;
      cuts++;
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    });
    for (const [a, b] of [[client, upstream], [upstream, client]]) a.on('close', () => b.destroy()).on('error', () => {});
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close(), cuts: () => cuts };
}

for (const transport of ['websocket', 'sse'])
  test(`over ${transport}, an answer whose connection is cut again and again is the same answer`, async () => {
    const whole = await new WebGPUStreamingInference({ url: gateway.origin, transport: 'sse' }).generate(prompt);
    const network = await breaking(3_000);
    try {
      const calls = [];
      const s = new WebGPUStreamingInference({ url: network.url, transport, WebSocket });
      const r = await s.generate({ ...prompt, callback: (token, isLast) => calls.push([token, isLast]) });
      assert.equal(r.text, whole.text);
      assert.equal(calls.map(([t]) => t).join(''), whole.text);
      assert.deepEqual(calls.map(([, last]) => last).filter(Boolean), [true]);
      assert.equal(r.usage.completionTokens, whole.usage.completionTokens);
      assert.ok(network.cuts() > 0, 'the network never broke');
      assert.ok(s.getDebugInfo().reconnects > 0);
      await s.close();
    } finally {
      network.close();
    }
  });
