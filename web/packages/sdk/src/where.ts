import { errorOfResponse, LLMError } from './errors.js';

/** Where a server is, and how to ask it. */
export interface Where {
  /** the server's address; absent: the page's origin, SHOAL_URL, or http://127.0.0.1:8080 */
  url?: string;
  /** a key, or a function that fetches one when it is needed */
  apiKey?: string | (() => Promise<string>);
  fetch?: typeof fetch;
  signal?: AbortSignal;
}

/** urlOf finds the server: what the caller says, the page's own, or the environment's. */
export function urlOf(url?: string): string {
  const g = globalThis as { location?: { origin?: string }; process?: { env?: Record<string, string | undefined> } };
  const origin = g.location?.origin;
  const found = url || (origin?.startsWith('http') ? origin : g.process?.env?.SHOAL_URL) || 'http://127.0.0.1:8080';
  return found.replace(/\/+$/, '');
}

/** socketURL is the same address for WebSockets. */
export function socketURL(url: string): string {
  return url.replace(/^http/, 'ws');
}

/** headersOf authorises a request. */
export async function headersOf(where: Where): Promise<Record<string, string>> {
  const key = typeof where.apiKey === 'function' ? await where.apiKey() : where.apiKey;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** unreachable is the error of a server that cannot be reached. */
export function unreachable(url: string, cause: unknown): LLMError {
  return new LLMError(`No server answers at ${url}.`, { code: 'server_unreachable', retryable: true, cause });
}

/** ask sends a request and returns the answer, whatever its status. */
export async function ask(where: Where, path: string, init: RequestInit = {}): Promise<Response> {
  const url = urlOf(where.url).replace(/^ws/, 'http');
  const headers = { ...(await headersOf(where)), ...(init.headers as Record<string, string>) };
  try {
    return await (where.fetch ?? fetch)(url + path, { ...init, headers, signal: init.signal ?? where.signal });
  } catch (e) {
    if (where.signal?.aborted) throw new LLMError('The request was aborted.', { code: 'aborted', cause: e });
    throw unreachable(url, e);
  }
}

/** getJSON reads one document of the server. */
export async function getJSON<T>(where: Where, path: string, init?: RequestInit): Promise<T> {
  const res = await ask(where, path, init);
  if (!res.ok) throw await errorOfResponse(res);
  return (await res.json()) as T;
}

/** authorise adds a one-time ticket to a socket's address when a key is needed. */
export async function authorise(where: Where, socket: string): Promise<string> {
  if (!where.apiKey) return socket;
  const { ticket } = await getJSON<{ ticket: string }>(where, '/v1/ws-ticket', { method: 'POST' });
  return `${socket}?ticket=${encodeURIComponent(ticket)}`;
}
