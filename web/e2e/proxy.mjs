// A way to a server that can be cut like a cable, with no close frame and no answer,
// and that can be slow.
import { createServer, connect } from 'node:net';

export class Cable {
  static async to(url) {
    const c = new Cable();
    const target = new URL(url);
    c.sockets = new Set();
    c.down = false;
    c.pace = 0; // bytes every 10 ms; 0 is all at once
    c.cutAfter('', Infinity);
    c.server = createServer((near) => {
      if (c.down) return near.destroy();
      const far = connect(Number(target.port), target.hostname);
      c.sockets.add(near).add(far);
      near.on('data', (d) => far.write(d));
      const pass = async (d) => {
        if (c.pace === 0) return near.write(d);
        far.pause();
        for (let i = 0, n; i < d.length; i += n) {
          n = c.pace || d.length;
          near.write(d.subarray(i, i + n));
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        return far.resume();
      };
      far.on('data', (d) => {
        if (c.down) return;
        void pass(d);
        if (c.left < Infinity) c.left -= d.toString('latin1').split(c.word).length - 1;
        if (c.left <= 0) c.cut(100);
      });
      for (const [one, other] of [[near, far], [far, near]]) {
        one.on('error', () => {});
        one.on('close', () => { c.sockets.delete(one); other.destroy(); });
      }
    });
    await new Promise((resolve) => c.server.listen(0, '127.0.0.1', resolve));
    c.url = `http://127.0.0.1:${c.server.address().port}`;
    return c;
  }

  /** cutAfter cuts once a word came back so many more times. */
  cutAfter(word, times) {
    this.word = word;
    this.left = times;
  }

  /** cut lets nothing through any more; what was on its way arrives within some milliseconds. */
  cut(milliseconds = 0) {
    this.down = true;
    this.left = Infinity;
    setTimeout(() => { for (const s of this.sockets) s.resetAndDestroy(); }, milliseconds);
  }

  mend() { this.down = false; }

  close() {
    this.cut();
    this.server.close();
  }
}
