/** What a person can do about an error, by code. */
const hints: Record<string, string> = {
  server_unreachable: 'Start a server with "shoal up", or name a running one with the option "url".',
  invalid_api_key: 'Give the option "apiKey"; an operator makes keys.',
  model_not_found: 'Ask GET /v1/models for the names served, or have the operator add an alias.',
  unsupported_option: 'Leave the option out, or choose a value that the cluster serves.',
  connection_lost: 'Generate again; what arrived before is in the callback or the iterator.',
  origin_not_allowed: 'An operator can allow this page with --allowed-origin.',
  rate_limit_exceeded: 'Wait a moment and try again.',
  queue_full: 'Wait a moment and try again.',
};

/** Facts of an LLMError beside its sentence. */
export interface ErrorFacts {
  code: string;
  retryable?: boolean;
  requestId?: string;
  /** the option that is wrong, as the caller spells it */
  param?: string;
  cause?: unknown;
}

/**
 * LLMError is the one error of this package. Its message is a sentence for
 * people; programs look at code.
 */
export class LLMError extends Error {
  readonly code: string;
  /** whether the same request may succeed later */
  readonly retryable: boolean;
  readonly requestId?: string;
  readonly param?: string;
  /** what to do next */
  readonly hint?: string;

  constructor(message: string, facts: ErrorFacts) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = facts.code === 'aborted' ? 'AbortError' : 'LLMError';
    this.code = facts.code;
    this.retryable = facts.retryable ?? false;
    this.requestId = facts.requestId;
    this.param = facts.param;
    this.hint = hints[facts.code];
  }
}

/** Lost says that a connection broke under a generation, which may go on over another. */
export class Lost extends Error {}

/** Lagging says that the consumer is too slow for a link that cannot wait. */
export class Lagging extends Error {}

/** refuse makes the error of an option that cannot be honoured. */
export function refuse(param: string, message: string): LLMError {
  return new LLMError(message, { code: 'unsupported_option', param });
}

/** malformed makes the error of an option whose value has no meaning. */
export function malformed(param: string, what: string): LLMError {
  return new LLMError(`${param} ${what}.`, { code: 'invalid_request_error', param });
}

/** asLLMError wraps whatever was thrown. */
export function asLLMError(e: unknown): LLMError {
  if (e instanceof LLMError) return e;
  const message = e instanceof Error ? e.message : String(e);
  return new LLMError(message || 'The generation failed.', { code: 'internal_error', cause: e });
}

/** errorOfResponse reads the error body of an HTTP answer. */
export async function errorOfResponse(res: Response): Promise<LLMError> {
  let facts: { message?: string; code?: string; param?: string } = {};
  try {
    facts = (await res.json()).error ?? {};
  } catch {
    // an answer that is not of a Shoal gateway
  }
  return new LLMError(facts.message ?? `The server answered with status ${res.status}.`, {
    code: facts.code ?? (res.status === 404 ? 'not_found' : 'http_error'),
    param: facts.param ?? undefined,
    retryable: res.status === 429 || res.status >= 500,
    requestId: res.headers.get('x-request-id') ?? undefined,
  });
}
