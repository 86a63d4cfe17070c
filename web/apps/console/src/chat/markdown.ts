/** Inline is a run of text of one kind. */
export type Inline =
  | { kind: 'text' | 'code'; text: string }
  | { kind: 'strong' | 'em' | 'del'; of: Inline[] }
  | { kind: 'link'; href: string; of: Inline[] };

/** Block is a part of a document. */
export type Block =
  | { kind: 'paragraph'; of: Inline[] }
  | { kind: 'heading'; level: number; of: Inline[] }
  | { kind: 'code'; language: string; text: string }
  | { kind: 'quote'; of: Block[] }
  | { kind: 'list'; ordered: boolean; start: number; items: Block[][] }
  | { kind: 'table'; head: Inline[][]; rows: Inline[][][] }
  | { kind: 'rule' };

const fence = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/;
const bullet = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/;

/** pieces cuts a text into parts that can be rendered by themselves: text that grows changes only the last. */
export function pieces(text: string): string[] {
  const out: string[] = [];
  let part: string[] = [];
  let closing = '';
  for (const line of text.split('\n')) {
    const mark = fence.exec(line)?.[1];
    if (closing) {
      if (mark && mark[0] === closing[0] && mark.length >= closing.length && line.trim() === mark) closing = '';
    } else if (mark) closing = mark;
    if (!closing && line.trim() === '' && part.length > 0) {
      out.push(part.join('\n'));
      part = [];
      continue;
    }
    if (part.length > 0 || line.trim() !== '') part.push(line);
  }
  if (part.length > 0) out.push(part.join('\n'));
  return glued(out);
}

/** glued puts parts of one list or quote together again. */
function glued(parts: string[]): string[] {
  const out: string[] = [];
  for (const p of parts) {
    const last = out.at(-1);
    if (last !== undefined && bullet.test(last) && (bullet.test(p) || /^ {2,}\S/.test(p))) out[out.length - 1] = `${last}\n\n${p}`;
    else out.push(p);
  }
  return out;
}

/** blocks parses a part of a document: what people write of Markdown, without HTML. */
export function blocks(text: string): Block[] {
  const lines = text.split('\n');
  const out: Block[] = [];
  let i = 0;
  const until = (stop: (line: string) => boolean) => {
    const from = i;
    while (i < lines.length && !stop(lines[i]!)) i++;
    return lines.slice(from, i);
  };
  while (i < lines.length) {
    const line = lines[i]!;
    const open = fence.exec(line);
    const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (line.trim() === '') i++;
    else if (open) {
      i++;
      const mark = open[1]!;
      const body = until((l) => l.trim().startsWith(mark) && l.trim().replaceAll(mark[0]!, '') === '');
      i++;
      out.push({ kind: 'code', language: open[2] ?? '', text: body.join('\n') });
    } else if (heading) {
      i++;
      out.push({ kind: 'heading', level: heading[1]!.length, of: inline(heading[2]!) });
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
      i++;
      out.push({ kind: 'rule' });
    } else if (/^ {0,3}>/.test(line)) {
      const quoted = until((l) => !/^ {0,3}>/.test(l)).map((l) => l.replace(/^ {0,3}> ?/, ''));
      out.push({ kind: 'quote', of: blocks(quoted.join('\n')) });
    } else if (bullet.test(line)) out.push(list());
    else if (isTable(i)) out.push(table());
    else {
      const from = i++;
      until((l) => l.trim() === '' || fence.test(l) || /^ {0,3}(#{1,6}\s|>)/.test(l) || bullet.test(l));
      out.push({ kind: 'paragraph', of: inline(lines.slice(from, i).join('\n')) });
    }
  }
  return out;

  function list(): Block {
    const first = bullet.exec(lines[i]!)!;
    const ordered = /\d/.test(first[2]!);
    const items: string[][] = [];
    while (i < lines.length) {
      const line = lines[i]!;
      const m = bullet.exec(line);
      if (m && /\d/.test(m[2]!) === ordered) items.push([line.slice(m[0].length)]);
      else if (/^ {2,}\S/.test(line) || (line.trim() === '' && i + 1 < lines.length && (/^ {2,}\S/.test(lines[i + 1]!) || bullet.test(lines[i + 1]!))))
        items.at(-1)!.push(line.replace(/^ {2,4}/, ''));
      else if (line.trim() !== '' && !m && lines[i - 1]!.trim() !== '') items.at(-1)!.push(line);
      else break;
      i++;
    }
    return { kind: 'list', ordered, start: ordered ? parseInt(first[2]!, 10) : 1, items: items.map((item) => blocks(item.join('\n'))) };
  }

  function isTable(at: number): boolean {
    return lines[at]!.includes('|') && /^ *\|? *:?-+:? *(\| *:?-+:? *)*\|? *$/.test(lines[at + 1] ?? '') && lines[at + 1]!.includes('|');
  }

  function table(): Block {
    const cells = (l: string) => l.trim().replace(/^\||\|$/g, '').split(/(?<!\\)\|/).map((c) => inline(c.trim().replaceAll('\\|', '|')));
    const head = cells(lines[i]!);
    i += 2;
    const rows = until((l) => !l.includes('|')).map(cells);
    return { kind: 'table', head, rows: rows.map((r) => head.map((_, c) => r[c] ?? [])) };
  }
}

const marks: [RegExp, (m: RegExpExecArray) => Inline | undefined][] = [
  [/^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/, (m) => ({ kind: 'code', text: m[2]!.replace(/^ (.*) $/, '$1') })],
  [/^\*\*(?=\S)([\s\S]*?\S)\*\*/, (m) => ({ kind: 'strong', of: inline(m[1]!) })],
  [/^__(?=\S)([\s\S]*?\S)__(?!\w)/, (m) => ({ kind: 'strong', of: inline(m[1]!) })],
  [/^\*(?=[^\s*])([\s\S]*?[^\s*])\*(?!\*)/, (m) => ({ kind: 'em', of: inline(m[1]!) })],
  [/^_(?=[^\s_])([\s\S]*?[^\s_])_(?!\w)/, (m) => ({ kind: 'em', of: inline(m[1]!) })],
  [/^~~(?=\S)([\s\S]*?\S)~~/, (m) => ({ kind: 'del', of: inline(m[1]!) })],
  [/^\[([^\]\n]+)\]\((\S+?)(?:\s+"[^"]*")?\)/, (m) => link(m[2]!, inline(m[1]!))],
  [/^<?(https?:\/\/[^\s<>()]*[^\s<>().,;:!?'"])>?/, (m) => link(m[1]!, [{ kind: 'text', text: m[1]! }])],
];

/** link is a link to the web; any other address stays text. */
function link(href: string, of: Inline[]): Inline | undefined {
  return /^(https?:\/\/|mailto:)/i.test(href) ? { kind: 'link', href, of } : undefined;
}

/** inline parses a run of text. */
export function inline(text: string): Inline[] {
  const out: Inline[] = [];
  let plain = '';
  const flush = () => {
    if (plain) out.push({ kind: 'text', text: plain });
    plain = '';
  };
  for (let i = 0; i < text.length; ) {
    const c = text[i]!;
    if (c === '\\' && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? '')) {
      plain += text[i + 1]!;
      i += 2;
      continue;
    }
    const word = i > 0 && /\w/.test(text[i - 1]!);
    if ('`*_~[<h'.includes(c) && !(word && (c === '_' || c === 'h'))) {
      const rest = text.slice(i, i + 4096);
      let found = false;
      for (const [pattern, make] of marks) {
        const m = pattern.exec(rest);
        const made = m && make(m);
        if (!made) continue;
        flush();
        out.push(made);
        i += m[0].length;
        found = true;
        break;
      }
      if (found) continue;
    }
    plain += c;
    i++;
  }
  flush();
  return out;
}
