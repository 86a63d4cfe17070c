import { LLMError } from './errors.js';
import type { Link } from './frames.js';
import type { Route } from './generation.js';
import { PlainLink } from './link-plain.js';
import { SocketLink } from './link-socket.js';
import { SSELink } from './link-sse.js';
import type { EndpointConfig } from './requests.js';
import { urlOf } from './where.js';

interface Shared {
  url: string;
  apiKey: EndpointConfig['apiKey'];
  Socket: typeof WebSocket;
  link: SocketLink;
}

/** Sockets that are in use, one per server and key: objects share them. */
const shared: Shared[] = [];
/** Sockets kept for sharing at most; an older one goes on alone. */
const mostShared = 16;

function find(cfg: EndpointConfig, Socket: typeof WebSocket): SocketLink | undefined {
  const url = urlOf(cfg.url);
  return shared.find((s) => s.url === url && s.apiKey === cfg.apiKey && s.Socket === Socket)?.link;
}

function sharedSocket(cfg: EndpointConfig, Socket: typeof WebSocket): SocketLink {
  const found = find(cfg, Socket);
  if (found) return found;
  const link = new SocketLink(cfg, Socket);
  shared.push({ url: urlOf(cfg.url), apiKey: cfg.apiKey, Socket, link });
  if (shared.length > mostShared) shared.shift();
  return link;
}

/** Servers to which sockets do not get through, although they answer. */
const blocked = new Set<string>();

/** preferStreamingHTTP makes "auto" use streaming HTTP for a server from now on. */
export function preferStreamingHTTP(url: string): void {
  blocked.add(url);
}

/** Links are the ways from one object to its server. */
export class Links implements Route {
  private readonly sse: SSELink;
  private readonly Socket?: typeof WebSocket;

  constructor(private readonly cfg: EndpointConfig) {
    this.sse = new SSELink(cfg);
    this.Socket = cfg.WebSocket ?? globalThis.WebSocket;
    if (!this.Socket && (cfg.transport === 'websocket' || cfg.transport === 'plain'))
      throw new LLMError('This platform has no WebSocket: pass one as the option WebSocket, or use transport "sse".', {
        code: 'unsupported_option',
        param: 'transport',
      });
  }

  first(): Link {
    const transport = this.cfg.transport ?? 'auto';
    if (transport === 'sse' || (transport === 'auto' && (!this.Socket || blocked.has(urlOf(this.cfg.url))))) return this.sse;
    return transport === 'plain' ? new PlainLink(this.cfg, this.Socket!) : sharedSocket(this.cfg, this.Socket!);
  }

  instead(of: Link): Link | undefined {
    if ((this.cfg.transport ?? 'auto') !== 'auto' || of.kind !== 'websocket') return undefined;
    preferStreamingHTTP(urlOf(this.cfg.url));
    return this.sse;
  }

  /** release lets go of the shared socket, unless others use it. */
  release(): void {
    if (this.Socket) find(this.cfg, this.Socket)?.release();
  }

  patient(): Link {
    return this.sse;
  }
}
