import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

/** Copy copies a text. */
export function Copy({ text, what }: { text: string; what: string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <button type="button" class="quiet" aria-label={`Copy ${what}`} onClick={() => void navigator.clipboard.writeText(text).then(() => setDone(true))}>
      {done ? 'Copied' : 'Copy'}
    </button>
  );
}

/** Dialog is a window over the page; Escape and a click beside it close it. */
export function Dialog({ title, onClose, children }: { title: string; onClose(): void; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const d = ref.current!;
    d.showModal();
    return () => d.close();
  }, []);
  return (
    <dialog ref={ref} aria-label={title} onClose={onClose} onClick={(e) => e.target === ref.current && onClose()}>
      <header><h2>{title}</h2><button type="button" class="quiet" aria-label="Close" onClick={onClose}>✕</button></header>
      {children}
    </dialog>
  );
}

/** download gives a text to keep as a file. */
export function download(name: string, text: string, type: string): void {
  const a = document.createElement('a');
  a.href = URL.createObjectURL(new Blob([text], { type }));
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
}

/** number writes a number as people read it: three digits that count. */
export function number(n: number): string {
  if (!Number.isFinite(n)) return '–';
  if (n >= 100) return Math.round(n).toLocaleString('en');
  return n.toPrecision(n >= 1 ? 3 : 2).replace(/\.?0+$/, '');
}

export function millis(seconds: number): string {
  if (seconds <= 0) return '–';
  return seconds < 1e-4 ? `${number(seconds * 1e6)} µs` : `${number(seconds * 1000)} ms`;
}

export function bytes(n: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) (n /= 1024), i++;
  return `${number(n)} ${units[i]}`;
}

export function ago(ms: number): string {
  const s = Math.max(0, (Date.now() - ms) / 1000);
  if (s < 60) return `${Math.round(s)} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  if (s < 86400) return `${Math.round(s / 3600)} h ago`;
  return new Date(ms).toLocaleDateString();
}
