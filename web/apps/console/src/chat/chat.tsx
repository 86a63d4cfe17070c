import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { ClusterReport } from '@shoal/sdk';
import { ago, Dialog, download } from '../parts.js';
import { useSource } from '../state.js';
import { hold, Pictures, type Added } from './pictures.js';
import type { Talk } from './talk.js';
import { TurnView } from './turns.js';
import { asMarkdown, path, shown, type Chat, type Params } from './tree.js';

/** Sidebar lists the conversations. */
export function Sidebar({ talk, search, onDone }: { talk: Talk; search: { current: HTMLInputElement | null }; onDone(): void }) {
  const { chats, chat } = useSource(talk.state);
  const [wanted, setWanted] = useState('');
  const [trouble, setTrouble] = useState('');
  const file = useRef<HTMLInputElement>(null);
  const shown = useMemo(() => {
    const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (c: Chat) => `${c.title} ${Object.values(c.turns).map((t) => t.text).join(' ')}`.toLowerCase();
    return words.length === 0 ? chats : chats.filter((c) => words.every((w) => text(c).includes(w)));
  }, [chats, wanted]);
  const take = async (f?: File) => {
    if (!f) return;
    setTrouble('');
    await f.text().then((t) => talk.import(t)).catch((e: Error) => setTrouble(e.message));
  };
  return (
    <nav class="sidebar" aria-label="Conversations">
      <button type="button" class="new" onClick={() => { talk.fresh(); onDone(); }}>New chat</button>
      <input ref={search} type="search" placeholder="Search" aria-label="Search conversations" value={wanted} onInput={(e) => setWanted(e.currentTarget.value)} />
      <ul>
        {shown.map((c) => (
          <li key={c.id} class={c.id === chat.id ? 'open' : ''}>
            <button type="button" class="title" aria-current={c.id === chat.id ? 'true' : undefined} onClick={() => { talk.open(c.id); onDone(); }}>
              <span dir="auto">{c.title}</span><small>{ago(c.updated)}</small>
            </button>
            <button type="button" class="quiet" aria-label={`Delete ${c.title}`} onClick={() => confirm(`Delete “${c.title}”?`) && void talk.remove(c.id)}>✕</button>
          </li>
        ))}
        {shown.length === 0 && <li class="none">{wanted ? 'Nothing found.' : 'Conversations are kept in this browser.'}</li>}
      </ul>
      {trouble && <p class="error" role="alert">{trouble}</p>}
      <p class="actions">
        <button type="button" class="quiet" disabled={chats.length === 0} onClick={() => download('shoal-chats.json', talk.export(), 'application/json')}>Export</button>
        <button type="button" class="quiet" onClick={() => file.current!.click()}>Import</button>
        <input ref={file} type="file" accept="application/json" hidden aria-hidden="true" tabIndex={-1} onChange={(e) => void take(e.currentTarget.files?.[0]).finally(() => (file.current!.value = ''))} />
      </p>
    </nav>
  );
}

/** Drawer has the settings of a conversation. */
function Drawer({ talk, report, onClose }: { talk: Talk; report?: ClusterReport; onClose(): void }) {
  const chat = useSource(talk.state, (s) => s.chat);
  const p = chat.params;
  const field = (key: keyof Params, label: string, attributes: object, number = true) => (
    <label>{label}<input {...attributes} value={p[key]} onInput={(e) => {
      const v = e.currentTarget.value;
      if (!number) talk.set({ [key]: v });
      else if (v !== '' && e.currentTarget.validity.valid) talk.set({ [key]: Number(v) });
    }} /></label>
  );
  return (
    <Dialog title="This conversation" onClose={onClose}>
      <form method="dialog" class="fields">
        <label>Model<select value={chat.model} onChange={(e) => talk.useModel(e.currentTarget.value)}>
          <option value="">the cluster's own</option>
          {Object.keys(report?.models ?? {}).map((m) => <option value={m}>{m}</option>)}
        </select></label>
        <label class="wide">System prompt<textarea rows={3} dir="auto" value={p.system} onInput={(e) => talk.set({ system: e.currentTarget.value })} /></label>
        {field('temperature', 'Temperature', { type: 'number', min: 0, max: 2, step: 0.1 })}
        {field('topP', 'Top P', { type: 'number', min: 0.05, max: 1, step: 0.05 })}
        {field('maxTokens', 'Most tokens', { type: 'number', min: 1, max: 1_000_000, step: 1 })}
        {field('seed', 'Seed', { inputMode: 'numeric', pattern: '[0-9]*', placeholder: 'random' }, false)}
        <p class="actions wide">
          <button type="button" class="quiet" onClick={() => download(`${chat.title.slice(0, 40)}.md`, asMarkdown(chat), 'text/markdown')}>Save as Markdown</button>
          <button type="submit">Done</button>
        </p>
      </form>
    </Dialog>
  );
}

/** Context shows how much of what the model can read is used. */
function Context({ talk, report }: { talk: Talk; report?: ClusterReport }) {
  const chat = useSource(talk.state, (s) => s.chat);
  const models = report?.models ?? {};
  const most = (models[chat.model] ?? Object.values(models)[0])?.context ?? 0;
  const last = path(chat).findLast((t) => t.ended && t.ended.promptTokens > 0)?.ended;
  if (!most || !last) return null;
  const used = last.promptTokens + last.tokens;
  return <span class="context"><meter min={0} max={most} high={most * 0.9} value={used} aria-label="Context in use" />{used} of {most} tokens</span>;
}

/** Composer is where people write. */
function Composer({ talk, report, box }: { talk: Talk; report?: ClusterReport; box: { current: HTMLTextAreaElement | null } }) {
  const [text, setText] = useState('');
  const [added, setAdded] = useState<Added>({ pictures: [] });
  const [settings, setSettings] = useState(false);
  const chosen = useRef<HTMLInputElement>(null);
  const model = useSource(talk.state, (s) => s.chat.model);
  const models = report?.models ?? {};
  const sees = ((models[model] ?? Object.values(models)[0])?.picture_rows ?? 0) > 0;
  const running = useSource(talk.state, (s) => s.running !== undefined);
  const touch = matchMedia('(pointer: coarse)').matches;
  useLayoutEffect(() => {
    const b = box.current!;
    b.style.height = 'auto';
    b.style.height = `${Math.min(b.scrollHeight, 240)}px`;
  }, [text]);
  const { pictures, trouble } = added;
  const empty = !text.trim() && pictures.length === 0;
  const send = () => {
    if (running || empty) return;
    setText('');
    setAdded({ pictures: [] });
    void talk.send(text, pictures);
  };
  const show = (files?: FileList | null) => {
    if (!files?.length) return false;
    if (!sees) setAdded({ pictures, trouble: 'This model reads text alone: it cannot be shown a picture.' });
    else void hold(pictures, [...files]).then(setAdded);
    return true;
  };
  return (
    <form class="composer" onSubmit={(e) => { e.preventDefault(); send(); }}
      onDragOver={(e) => { if (e.dataTransfer?.types.includes('Files')) e.preventDefault(); }}
      onDrop={(e) => { if (show(e.dataTransfer?.files)) e.preventDefault(); }}
      onPaste={(e) => { if (show(e.clipboardData?.files)) e.preventDefault(); }}>
      <Pictures of={pictures} onRemove={(i) => setAdded({ pictures: pictures.filter((_, n) => n !== i) })} />
      {trouble && <p class="error" role="alert">{trouble}</p>}
      <textarea ref={box} aria-label="Your message" placeholder="Write a message" rows={1} dir="auto" value={text}
        onInput={(e) => setText(e.currentTarget.value)}
        onKeyDown={(e) => {
          if (e.isComposing) return;
          if (e.key === 'Enter' && (e.ctrlKey || e.metaKey || (!e.shiftKey && !touch))) {
            e.preventDefault();
            send();
          } else if (e.key === 'ArrowUp' && text === '') {
            const edits = document.querySelectorAll<HTMLButtonElement>('.turn.user .edit:enabled');
            edits[edits.length - 1]?.click();
          }
        }} />
      <div class="bar">
        <button type="button" class="quiet" aria-label="Options of this conversation" onClick={() => setSettings(true)}>Options</button>
        {sees && <button type="button" class="quiet" onClick={() => chosen.current!.click()}>Picture</button>}
        <input ref={chosen} type="file" accept="image/png,image/jpeg,image/webp,image/gif" multiple hidden aria-hidden="true" tabIndex={-1}
          onChange={(e) => { show(e.currentTarget.files); e.currentTarget.value = ''; }} />
        <Context talk={talk} report={report} />
        {running
          ? <button type="button" class="stop" onClick={() => void talk.stop()}>Stop</button>
          : <button type="submit" class="send" disabled={empty}>Send</button>}
      </div>
      {settings && <Drawer talk={talk} report={report} onClose={() => setSettings(false)} />}
    </form>
  );
}

function Welcome({ report }: { report?: ClusterReport }) {
  const stages = report?.pipelines?.[0]?.plan.stages ?? [];
  const nodes = new Set(stages.map((s) => s.node));
  const [name] = Object.keys(report?.models ?? {});
  return (
    <section class="welcome">
      <h2>One model over your machines</h2>
      {report?.ready
        ? <p>{name} answers from {stages.length} {stages.length === 1 ? 'stage' : 'stages'} on {nodes.size} {nodes.size === 1 ? 'node' : 'nodes'}.</p>
        : <p>{report?.reason || 'The cluster is getting ready.'}</p>}
    </section>
  );
}

/** ChatView is the conversation that is open. */
export function ChatView({ talk, report, box }: { talk: Talk; report?: ClusterReport; box: { current: HTMLTextAreaElement | null } }) {
  const { chat, running, said, trouble } = useSource(talk.state);
  const turns = shown(chat);
  const log = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  useLayoutEffect(() => {
    if (following.current) log.current!.scrollTop = log.current!.scrollHeight;
  });
  useEffect(() => {
    following.current = true;
    log.current!.scrollTop = log.current!.scrollHeight;
  }, [chat.id, turns.length]);
  return (
    <main class="chat">
      <div ref={log} class="log" role="log" aria-label="Conversation" aria-live="off" aria-busy={running ? 'true' : 'false'} tabIndex={0}
        onScroll={(e) => { const l = e.currentTarget; following.current = l.scrollHeight - l.scrollTop - l.clientHeight < 48; }}>
        {turns.length === 0 && <Welcome report={report} />}
        {turns.map(({ turn, siblings }, i) => (
          <TurnView key={turn.id} turn={turn} siblings={siblings.map((b) => b.id).join(' ')} talk={talk} report={report} last={i === turns.length - 1} />
        ))}
      </div>
      {trouble && <p class="error" role="alert">{trouble}</p>}
      <Composer talk={talk} report={report} box={box} />
      <p class="unseen" aria-live="polite">{said}</p>
    </main>
  );
}
