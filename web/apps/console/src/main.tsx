import { render } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { watchCluster, type ClusterReport } from '@shoal/sdk';
import { ChatView, Sidebar } from './chat/chat.js';
import { openKeep } from './chat/keep.js';
import { Talk } from './chat/talk.js';
import { ClusterView } from './cluster/cluster.js';
import { Copy, Dialog } from './parts.js';
import { Source, useSource } from './state.js';
import './console.css';

const keyStore = 'shoal-key';
const themeStore = 'shoal-theme';

/** what is known of the cluster, and whether the server is heard */
const cluster = new Source<{ report?: ClusterReport; connected: boolean }>({ connected: true });

let unwatch = () => {};
function watch(): void {
  unwatch();
  const apiKey = sessionStorage.getItem(keyStore) ?? '';
  unwatch = watchCluster({ ...(apiKey && { apiKey }) }, {
    onReport: (report) => cluster.later({ ...cluster.value, report }),
    onConnected: (connected) => cluster.set({ ...cluster.value, connected }),
  });
}

function paint(theme: string): void {
  document.documentElement.dataset.theme = theme;
}

const shortcuts: [string, string][] = [
  ['/', 'write'], ['Enter', 'send'], ['Shift+Enter', 'a new line'], ['Esc', 'stop the answer'], ['↑ in an empty message', 'edit what you said last'],
  ['Ctrl+Enter', 'send, or save an edit'], ['Ctrl+K', 'search'], ['Ctrl+Shift+O', 'a new chat'], ['?', 'this list'],
];

function Settings({ onClose }: { onClose(): void }) {
  const [theme, setTheme] = useState(localStorage.getItem(themeStore) ?? 'system');
  const [key, setKey] = useState(sessionStorage.getItem(keyStore) ?? '');
  const join = 'shoal shard --join ADDRESS --cluster-secret-file FILE';
  return (
    <Dialog title="Settings" onClose={onClose}>
      <form method="dialog" class="fields" onSubmit={() => { sessionStorage.setItem(keyStore, key.trim()); watch(); onClose(); }}>
        <label>Theme<select value={theme} onChange={(e) => {
          const t = e.currentTarget.value;
          setTheme(t);
          localStorage.setItem(themeStore, t);
          paint(t);
        }}><option value="system">as the system</option><option value="light">light</option><option value="dark">dark</option></select></label>
        <label>API key<input type="password" autoComplete="off" placeholder="for this tab only" value={key} onInput={(e) => setKey(e.currentTarget.value)} /></label>
        <div class="wide">
          <p>Another machine joins with</p>
          <figure class="code"><figcaption><span>on that machine</span><Copy text={join} what="the command" /></figcaption><pre tabIndex={0}><code>{join}</code></pre></figure>
        </div>
        <p class="actions wide"><button type="submit">Done</button></p>
      </form>
    </Dialog>
  );
}

function Shortcuts({ onClose }: { onClose(): void }) {
  return <Dialog title="Shortcuts" onClose={onClose}><dl class="keys">{shortcuts.map(([k, what]) => <div><dt><kbd>{k}</kbd></dt><dd>{what}</dd></div>)}</dl></Dialog>;
}

function App({ talk }: { talk: Talk }) {
  const [page, setPage] = useState(location.hash === '#cluster' ? 'cluster' : 'chat');
  const [menu, setMenu] = useState(false);
  const [dialog, setDialog] = useState<'settings' | 'shortcuts'>();
  const { report, connected } = useSource(cluster);
  const box = useRef<HTMLTextAreaElement>(null);
  const search = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const hash = () => setPage(location.hash === '#cluster' ? 'cluster' : 'chat');
    const keys = (e: KeyboardEvent) => {
      if (document.querySelector('dialog[open]')) return;
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test((e.target as Element).tagName);
      const ctrl = e.ctrlKey || e.metaKey;
      const does =
        e.key === 'Escape' ? () => void talk.stop()
        : ctrl && e.key.toLowerCase() === 'k' ? () => { setMenu(true); setTimeout(() => search.current?.focus()); }
        : ctrl && e.shiftKey && e.key.toLowerCase() === 'o' ? () => { talk.fresh(); box.current?.focus(); }
        : !typing && !ctrl && e.key === '/' ? () => box.current?.focus()
        : !typing && !ctrl && e.key === '?' ? () => setDialog('shortcuts')
        : undefined;
      if (!does) return;
      if (e.key !== 'Escape') e.preventDefault();
      does();
    };
    addEventListener('hashchange', hash);
    addEventListener('keydown', keys);
    return () => {
      removeEventListener('hashchange', hash);
      removeEventListener('keydown', keys);
    };
  }, []);
  const state = !connected ? 'unreachable' : report?.ready ? 'ready' : 'not ready';
  return (
    <div class={`app ${page}${menu ? ' menu' : ''}`}>
      <header class="top">
        {page === 'chat' && <button type="button" class="quiet burger" aria-label="Conversations" aria-expanded={menu} onClick={() => setMenu(!menu)}>☰</button>}
        <h1>Shoal</h1>
        <nav aria-label="Pages">
          <a href="#chat" aria-current={page === 'chat' ? 'page' : undefined}>Chat</a>
          <a href="#cluster" aria-current={page === 'cluster' ? 'page' : undefined}>Cluster</a>
        </nav>
        <a class="state" href="#cluster" data-state={state}><span class={`dot ${state.replace(' ', '-')}`} aria-hidden="true" />{state}</a>
        <button type="button" class="quiet" aria-label="Shortcuts" onClick={() => setDialog('shortcuts')}>?</button>
        <button type="button" class="quiet" onClick={() => setDialog('settings')}>Settings</button>
      </header>
      {!connected && <p class="banner" role="status">The server cannot be reached. What is being written goes on when it can.</p>}
      {page === 'chat'
        ? <><Sidebar talk={talk} search={search} onDone={() => { setMenu(false); box.current?.focus(); }} /><ChatView talk={talk} report={report} box={box} /></>
        : <ClusterView report={report} />}
      {dialog === 'settings' && <Settings onClose={() => setDialog(undefined)} />}
      {dialog === 'shortcuts' && <Shortcuts onClose={() => setDialog(undefined)} />}
    </div>
  );
}

paint(localStorage.getItem(themeStore) ?? 'system');
watch();
const keep = await openKeep();
const talk = new Talk(keep, await keep.all(), () => sessionStorage.getItem(keyStore) ?? '');
render(<App talk={talk} />, document.getElementById('app')!);
