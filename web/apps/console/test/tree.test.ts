import { expect, test } from 'vitest';
import { asMarkdown, branches, exported, newChat, parseChats, path, withTurn, without, type Turn } from '../src/chat/tree.js';

let clock = 0;
const turn = (id: string, parent: string, role: Turn['role'] = 'user'): Turn => ({ id, parent, role, text: `text of ${id}`, reasoning: '', at: ++clock, route: [] });
const ids = (turns: Turn[]) => turns.map((t) => t.id);

function chat() {
  let c = newChat();
  for (const t of [turn('a', ''), turn('b', 'a', 'assistant'), turn('c', 'b'), turn('b2', 'a', 'assistant'), turn('d', 'b2')]) c = withTurn(c, t);
  return c;
}

test('the branch that was made last is shown, and another can be chosen', () => {
  const c = chat();
  expect(ids(path(c))).toEqual(['a', 'b2', 'd']);
  expect(ids(branches(c, 'a'))).toEqual(['b', 'b2']);
  expect(ids(path({ ...c, chosen: { ...c.chosen, a: 'b' } }))).toEqual(['a', 'b', 'c']);
});

test('what is deleted goes with all that follows it, and its branches stay', () => {
  const c = without(chat(), 'b2');
  expect(ids(path(c))).toEqual(['a', 'b', 'c']);
  expect(Object.keys(c.turns).sort()).toEqual(['a', 'b', 'c']);
});

test('an export can be read again, and nothing else can', () => {
  const c = chat();
  expect(parseChats(exported([c]))).toEqual([c]);
  for (const bad of ['', '[]', '{"shoal":"chats"}', '{"shoal":"chats","chats":[{"id":1}]}', '{"shoal":"chats","chats":[{"id":"x","title":"t","turns":{"a":{"id":"a"}}}]}'])
    expect(() => parseChats(bad)).toThrow(/file/);
  const shown = withTurn(c, { ...turn('e', 'd'), pictures: ['data:image/png;base64,AA=='] });
  expect(parseChats(exported([shown]))).toEqual([shown]);
  const elsewhere = withTurn(c, { ...turn('e', 'd'), pictures: ['https://example.com/a.png'] });
  expect(() => parseChats(exported([elsewhere]))).toThrow(/damaged/);
  expect(asMarkdown(c)).toContain('### You\n\ntext of a');
});
