import { expect, test } from 'vitest';
import { blocks, inline, pieces, type Inline } from '../src/chat/markdown.js';

const text = (of: Inline[]): string => of.map((x) => ('of' in x ? text(x.of) : x.text)).join('');

test('blocks are told apart', () => {
  const doc = blocks('# Title\nA *word* and `code`.\n\n- one\n- two\n  1. deep\n\n> said\n\n```go\nfunc main() {}\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---');
  expect(doc.map((b) => b.kind)).toEqual(['heading', 'paragraph', 'list', 'quote', 'code', 'table', 'rule']);
  expect(doc[2]).toMatchObject({ ordered: false, items: [[{ kind: 'paragraph' }], [{ kind: 'paragraph' }, { kind: 'list', ordered: true }]] });
  expect(doc[4]).toEqual({ kind: 'code', language: 'go', text: 'func main() {}' });
  expect(doc[5]).toMatchObject({ rows: [[[{ text: '1' }], [{ text: '2' }]]] });
});

test('only addresses of the web become links, and HTML stays text', () => {
  for (const bad of ['[x](javascript:alert(1))', '[x](data:text/html,hi)', '<img src=x onerror=alert(1)>', '[x](  vbscript:x)', '<script>alert(1)</script>'])
    expect(inline(bad).every((x) => x.kind === 'text'), bad).toBe(true);
  expect(inline('[x](https://example.com/a_b)')).toEqual([{ kind: 'link', href: 'https://example.com/a_b', of: [{ kind: 'text', text: 'x' }] }]);
  expect(inline('see https://example.com.')[1]).toMatchObject({ kind: 'link', href: 'https://example.com' });
});

test('a code block that is not closed yet is code to the end', () => {
  expect(blocks('```js\nlet a = 1;\n\nlet b')).toEqual([{ kind: 'code', language: 'js', text: 'let a = 1;\n\nlet b' }]);
  expect(pieces('before\n\n```js\nlet a;\n\nlet b;\n```\n\nafter')).toEqual(['before', '```js\nlet a;\n\nlet b;\n```', 'after']);
});

test('no text is lost and none takes long, however odd', () => {
  let seed = 7;
  const next = (n: number) => (seed = (seed * 48271) % 2147483647) % n;
  const parts = ['*', '**', '_', '`', '```', '~~', '[', '](', ')', '# ', '- ', '1. ', '> ', '|', '\n', '\n\n', '  ', 'word', ' ', '\\', '<', 'https://a.b', '---'];
  for (let i = 0; i < 3000; i++) {
    const doc = Array.from({ length: next(24) }, () => parts[next(parts.length)]).join('');
    for (const piece of pieces(doc)) blocks(piece);
    const line = doc.replaceAll('\n', ' ');
    const words = (s: string) => s.match(/word/g)?.length ?? 0;
    expect(words(text(inline(line))) + words(JSON.stringify(inline(line)).replace(/"text":"(?:[^"\\]|\\.)*"/g, '')), line).toBeGreaterThanOrEqual(words(line));
  }
  blocks('*'.repeat(20_000)); // a runaway pattern would take hours
  blocks('[x]('.repeat(5_000));
  blocks('> '.repeat(500) + 'deep');
});
