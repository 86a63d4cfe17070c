import { useEffect, useState } from 'preact/hooks';

/** Source is a value that changes: each change is a new object. */
export class Source<T> {
  private readonly watchers = new Set<() => void>();
  private frame = 0;

  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  /** set changes the value and tells watchers at once. */
  set(value: T): void {
    this.current = value;
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = 0;
    for (const w of [...this.watchers]) w();
  }

  /** later changes the value and tells watchers with the next frame. */
  later(value: T): void {
    this.current = value;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      for (const w of [...this.watchers]) w();
    });
  }

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }
}

/** useSource renders a component again when a part of a value changes. */
export function useSource<T, P = T>(source: Source<T>, part: (value: T) => P = (v) => v as unknown as P): P {
  const [, again] = useState({});
  const now = part(source.value);
  useEffect(() => {
    let last = part(source.value);
    const check = () => {
      const next = part(source.value);
      if (Object.is(next, last)) return;
      last = next;
      again({});
    };
    if (!Object.is(last, now)) again({});
    return source.watch(check);
  }, [source]);
  return now;
}
