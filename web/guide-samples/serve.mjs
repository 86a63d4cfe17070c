// Shows the guide's samples to people: each is a page, and what is not a page goes
// to the gateway at SHOAL_URL.
//   SHOAL_URL=http://127.0.0.1:8080 node serve.mjs [PORT]
import { readdirSync } from 'node:fs';
import http from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cases } from './cases.mjs';
import { documentOf, page, source } from './documents.mjs';

const gateway = new URL(process.env.SHOAL_URL ?? 'http://127.0.0.1:8080');
const names = readdirSync(join(dirname(fileURLToPath(import.meta.url)), 'samples')).filter((name) => !cases[name.replace(/\.\w+$/, '')].node);

/** pages are documents by path; they are made when they are asked for. */
const pages = { '/': () => `<!doctype html><title>Samples of the guide</title><ul>${names.map((n) => `<li><a href="/${n}/">${n}</a>`).join('')}</ul>` };
for (const name of names) {
  const c = cases[name.replace(/\.\w+$/, '')];
  pages[`/${name}/`] = () => documentOf(name, c, source(name));
  const routes = typeof c.routes === 'function' ? c.routes(source(name), page) : (c.routes ?? {});
  for (const [path, [, body]] of Object.entries(routes)) pages[path] = () => body;
  pages[`/${name}/streaming-llm-element.js`] = () => "import '/sdk/streaming-llm-element.js';";
}

/** forward asks the gateway, as a program on this machine would. */
function forward(req) {
  const { origin, ...headers } = req.headers;
  return http.request({ host: gateway.hostname, port: gateway.port, path: req.url, method: req.method, headers: { ...headers, host: gateway.host } });
}

const server = http.createServer(async (req, res) => {
  const make = pages[req.url];
  if (make) {
    res.setHeader('Content-Type', req.url.endsWith('.js') ? 'text/javascript' : 'text/html; charset=utf-8');
    return res.end(await make());
  }
  const upstream = forward(req);
  upstream.on('response', (answer) => {
    res.writeHead(answer.statusCode, answer.headers);
    answer.pipe(res);
  });
  upstream.on('error', () => res.writeHead(502).end());
  res.on('close', () => upstream.destroy()); // a page that leaves stops its answer
  req.pipe(upstream);
});
server.on('upgrade', (req, socket, head) => {
  const upstream = forward(req);
  upstream.on('upgrade', (answer, other, first) => {
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${answer.rawHeaders.map((h, i) => h + (i % 2 ? '\r\n' : ': ')).join('')}\r\n`);
    socket.write(first);
    other.write(head);
    socket.pipe(other).pipe(socket);
    for (const [a, b] of [[socket, other], [other, socket]]) a.on('close', () => b.destroy()).on('error', () => {});
  });
  upstream.on('response', () => socket.destroy()).on('error', () => socket.destroy());
  upstream.end();
});
server.listen(Number(process.argv[2] ?? 8765), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`));
