import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { ClusterReport } from '@shoal/sdk';
import { Copy, millis, number } from '../parts.js';
import { useSource } from '../state.js';
import { Document } from './document.js';
import { memo } from './memo.js';
import { Pictures } from './pictures.js';
import { speed, type Running, type Talk } from './talk.js';
import type { Turn } from './tree.js';

const phases: Record<string, string> = {
  queued: 'waiting for a place', loading: 'loading the model', prefill: 'reading the prompt', recovering: 'a machine was lost: going on elsewhere',
  waiting: 'waiting for a machine', reconnecting: 'reconnecting',
};

/** phaseText says what happens while no token comes. */
function phaseText({ phase }: Running): string {
  if (!phase) return 'asking';
  const share = phase.phase === 'prefill' && phase.total > 0 ? ` ${Math.floor((100 * phase.done) / phase.total)} %` : '';
  const place = phase.phase === 'queued' && phase.done > 0 ? ` (${phase.done} before it)` : '';
  return `${phases[phase.phase] ?? phase.phase}${share}${place}`;
}

/** stage is a part of "node/device [first..end)". */
export function stage(route: string): { node: string; layers: string } {
  const m = /^(.*?)\s*(\[\d+\.\.\d+\))/.exec(route);
  return { node: m?.[1]?.replace(/\/0$/, '') ?? route, layers: m?.[2] ?? '' };
}

/** ServedBy names the machines that answered, with what each takes of a token. */
function ServedBy({ route, report }: { route: string[]; report?: ClusterReport }) {
  if (route.length === 0) return null;
  const pipeline = report?.pipelines?.find((p) => p.plan.stages.length === route.length && p.plan.stages.every((s, i) => route[i]!.startsWith(`${s.node}/`)));
  const times = pipeline?.speed?.stages ?? [];
  const parts = route.map((r, i) => ({ ...stage(r), seconds: times[i]?.decodeSecondsMeasured || times[i]?.decodeSeconds || 0, hop: times[i]?.hopSeconds ?? 0 }));
  const all = parts.reduce((n, p) => n + p.seconds + p.hop, 0);
  return (
    <details class="served">
      <summary>served by {parts.map((p) => p.node).join(' → ')}</summary>
      <ol>
        {parts.map((p) => (
          <li>
            <span>{p.node} <small>layers {p.layers}</small></span>
            <meter min={0} max={all || 1} value={p.seconds} aria-label={`${p.node}: ${millis(p.seconds)} a token`} />
            <span class="figure">{millis(p.seconds)}{p.hop > 0 && <small> + {millis(p.hop)} hop</small>}</span>
          </li>
        ))}
      </ol>
    </details>
  );
}

function Branch({ siblings, turn, talk, idle }: { siblings: string; turn: Turn; talk: Talk; idle: boolean }) {
  const all = siblings.split(' ');
  if (all.length < 2) return null;
  const at = all.indexOf(turn.id);
  const go = (n: number) => talk.choose(turn.parent, all[n]!);
  return (
    <span class="branch" role="group" aria-label="Branches">
      <button type="button" class="quiet" aria-label="Branch before" disabled={at === 0 || !idle} onClick={() => go(at - 1)}>‹</button>
      {at + 1}/{all.length}
      <button type="button" class="quiet" aria-label="Branch after" disabled={at === all.length - 1 || !idle} onClick={() => go(at + 1)}>›</button>
    </span>
  );
}

interface TurnProps {
  /** ids of all branches at this place, oldest first, between spaces */
  siblings: string;
  turn: Turn;
  talk: Talk;
  report?: ClusterReport;
  last: boolean;
}

function Question({ siblings, turn, talk }: TurnProps) {
  const [draft, setDraft] = useState<string>();
  const idle = !useSource(talk.state, (s) => s.running);
  const box = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    box.current?.focus();
  }, [draft === undefined]);
  const save = () => {
    const text = draft!;
    setDraft(undefined);
    if (text !== turn.text) void talk.rephrase(turn, text);
  };
  if (draft !== undefined) return (
    <article class="turn user" aria-label="You">
      <textarea ref={box} aria-label="Edit what you said" rows={Math.min(12, draft.split('\n').length + 1)} value={draft} dir="auto"
        onInput={(e) => setDraft(e.currentTarget.value)}
        onKeyDown={(e) => {
          if (e.key === 'Escape') setDraft(undefined);
          if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) save();
          e.stopPropagation();
        }} />
      <p class="actions"><button type="button" onClick={save}>Save and send</button><button type="button" class="quiet" onClick={() => setDraft(undefined)}>Cancel</button></p>
    </article>
  );
  return (
    <article class="turn user" aria-label="You">
      <Pictures of={turn.pictures ?? []} />
      {turn.text && <div class="text" dir="auto">{turn.text}</div>}
      <p class="actions">
        <Branch siblings={siblings} turn={turn} talk={talk} idle={idle} />
        <button type="button" class="quiet edit" disabled={!idle} onClick={() => setDraft(turn.text)}>Edit</button>
        <Copy text={turn.text} what="what you said" />
        <button type="button" class="quiet" disabled={!idle} onClick={() => talk.deleteTurn(turn.id)}>Delete</button>
      </p>
    </article>
  );
}

function figures(turn: Turn): string {
  const e = turn.ended!;
  const out = [`${e.tokens} tokens`];
  if (e.tokensPerSecond > 0) out.push(`${number(e.tokensPerSecond)} tokens/s`);
  if (e.firstTokenMs > 0) out.push(`${number(e.firstTokenMs)} ms to the first token`);
  if (e.promptPerSecond > 0) out.push(`prompt ${number(e.promptPerSecond)} tokens/s`);
  if (e.cachedTokens > 0) out.push(`${e.cachedTokens} of ${e.promptTokens} cached`);
  if (e.reason === 'length') out.push('cut at the most tokens');
  if (e.reason === 'stopped') out.push('stopped');
  return out.join(' · ');
}

function Live({ talk, turn }: { talk: Talk; turn: Turn }) {
  const running = useSource(talk.state, (s) => s.running);
  if (!running || running.turn !== turn.id) return null;
  if (running.firstAt === 0 || running.phase) return <p class="stats phase">{phaseText(running)}…</p>;
  return <p class="stats">{running.tokens} tokens · {number(speed(running))} tokens/s</p>;
}

function Answer({ siblings, turn, talk, report, last }: TurnProps) {
  const running = useSource(talk.state, (s) => s.running?.turn);
  const writing = running === turn.id;
  const idle = running === undefined;
  return (
    <article class={`turn assistant${writing ? ' writing' : ''}`} aria-label="Answer">
      {turn.reasoning && <details class="reasoning"><summary>Reasoning</summary><div dir="auto"><Document text={turn.reasoning} /></div></details>}
      <div class="text" dir="auto"><Document text={turn.text} /></div>
      {turn.ended?.error && <p class="error" role="alert">{turn.ended.error}</p>}
      {writing ? <Live talk={talk} turn={turn} /> : (
        <>
          <p class="stats">{turn.ended ? figures(turn) : 'The page was left before the end.'}</p>
          <ServedBy route={turn.route} report={report} />
          <p class="actions">
            <Branch siblings={siblings} turn={turn} talk={talk} idle={idle} />
            <button type="button" class="quiet" disabled={!idle} onClick={() => void talk.regenerate(turn)}>Regenerate</button>
            {last && turn.text && turn.ended?.reason !== 'stop' && <button type="button" class="quiet" disabled={!idle} onClick={() => void talk.resume(turn)}>Continue</button>}
            <Copy text={turn.text} what="the answer" />
            <button type="button" class="quiet" disabled={!idle} onClick={() => talk.deleteTurn(turn.id)}>Delete</button>
          </p>
        </>
      )}
    </article>
  );
}

/** TurnView is one turn; it is made again only when it changes. */
export const TurnView = memo((p: TurnProps) => (p.turn.role === 'user' ? <Question {...p} /> : <Answer {...p} />));
