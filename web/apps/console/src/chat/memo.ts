import { Component, h, type FunctionComponent } from 'preact';

/** memo renders a component again only when its properties change. */
export function memo<P extends object>(view: FunctionComponent<P>): FunctionComponent<P> {
  class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const last = this.props as Record<string, unknown>;
      const now = next as Record<string, unknown>;
      return Object.keys({ ...last, ...now }).some((k) => last[k] !== now[k]);
    }

    override render() {
      return h(view, this.props as P);
    }
  }
  return Memo as unknown as FunctionComponent<P>;
}
