import { memo } from './memo.js';
import { Copy } from '../parts.js';
import { blocks, pieces, type Block, type Inline } from './markdown.js';

function inlines(of: Inline[]) {
  return of.map((x) => {
    switch (x.kind) {
      case 'text': return x.text;
      case 'code': return <code>{x.text}</code>;
      case 'strong': return <strong>{inlines(x.of)}</strong>;
      case 'em': return <em>{inlines(x.of)}</em>;
      case 'del': return <del>{inlines(x.of)}</del>;
      case 'link': return <a href={x.href} target="_blank" rel="noopener noreferrer nofollow">{inlines(x.of)}</a>;
    }
  });
}

function BlockView({ of: b }: { of: Block }) {
  switch (b.kind) {
    case 'paragraph': return <p>{inlines(b.of)}</p>;
    case 'heading': {
      const Tag = `h${Math.min(6, b.level + 2)}` as 'h3';
      return <Tag>{inlines(b.of)}</Tag>;
    }
    case 'code': return (
      <figure class="code">
        <figcaption><span>{b.language || 'text'}</span><Copy text={b.text} what="code" /></figcaption>
        <pre tabIndex={0}><code>{b.text}</code></pre>
      </figure>
    );
    case 'quote': return <blockquote>{b.of.map((x) => <BlockView of={x} />)}</blockquote>;
    case 'list': {
      const items = b.items.map((item) => <li>{item.length === 1 && item[0]?.kind === 'paragraph' ? inlines(item[0].of) : item.map((x) => <BlockView of={x} />)}</li>);
      return b.ordered ? <ol start={b.start}>{items}</ol> : <ul>{items}</ul>;
    }
    case 'table': return (
      <div class="scroll" tabIndex={0}>
        <table>
          <thead><tr>{b.head.map((c) => <th scope="col">{inlines(c)}</th>)}</tr></thead>
          <tbody>{b.rows.map((r) => <tr>{r.map((c) => <td>{inlines(c)}</td>)}</tr>)}</tbody>
        </table>
      </div>
    );
    case 'rule': return <hr />;
  }
}

const Piece = memo(({ text }: { text: string }) => <>{blocks(text).map((b) => <BlockView of={b} />)}</>);

/** Document is an answer's Markdown. While it grows only its last part is made again. */
export function Document({ text }: { text: string }) {
  return <>{pieces(text).map((p, i) => <Piece key={i} text={p} />)}</>;
}
