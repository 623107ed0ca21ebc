// Who reviews hard samples: an `autoannotator serve`, or a function.
import type { Review, ReviewEndpoint, Reviewed, ReviewerOption, ReviewItem, Task } from './api.js';
import { messageOf, OptionError, ReviewError } from './errors.js';

/** Reviews of items, in order; an error instead where the reviewer was not asked about one, for reasons that pass. */
export type Reviews = (Review | ReviewError)[];

/** Asks for reviews of items, one each, in order. */
export interface Reviewer {
  /** Items of one request at most. */
  readonly batch: number;
  review(items: ReviewItem[], task: Task, signal: AbortSignal | undefined): Promise<Reviews>;
}

const BATCH = 8;
const MAX_BATCH = 64;
/** Tries of a request that fails for reasons that pass, and of one that is asked to wait. */
const TRIES = 3;
const WAITS = 5;
const TIMEOUT_MS = 120_000;

export function reviewerOf(option: ReviewerOption | undefined): Reviewer | undefined {
  if (option === undefined || option === 'none') return undefined;
  if (typeof option === 'function') {
    return { batch: BATCH, review: async (items, task, signal) => read(await option(items, signal ? { task, signal } : { task }), items, task) };
  }
  const endpoint = typeof option === 'string' || option instanceof URL ? { url: option } : option;
  return new Endpoint(endpoint);
}

/** A function's answer, which may be anything. */
function read(answers: Reviewed[], items: ReviewItem[], task: Task): Review[] {
  if (!Array.isArray(answers) || answers.length !== items.length) {
    throw new ReviewError('review-reply', `the review function has to give one answer for each of the ${items.length} items, in order`, true);
  }
  return answers.map((answer) => {
    const by = answer?.by;
    if (by?.kind !== 'human' && !(by?.kind === 'llm' && typeof by.model === 'string')) {
      throw new ReviewError('review-reply', "a review says who gave it: by: { kind: 'human' } or { kind: 'llm', model }", true);
    }
    const { label, why } = labelOf(answer.label, answer.why, task);
    const { prompt_tokens, completion_tokens, cost_usd } = answer;
    const cost = { prompt_tokens: amount(prompt_tokens), completion_tokens: amount(completion_tokens), cost_usd: amount(cost_usd) };
    return { label, by, ...cost, ...(why === undefined ? {} : { why }) };
  });
}

/** A label that is none of the task's is no label, and the reason says so. */
function labelOf(label: unknown, why: unknown, task: Task): { label: string | null; why: string | undefined } {
  const known = task.labels.some(({ name }) => name === label);
  const said = typeof why === 'string' && why !== '' ? why.slice(0, 500) : undefined;
  if (known) return { label: label as string, why: said };
  const none = typeof label === 'string' ? `'${label.slice(0, 60)}' is none of the labels` : 'the reviewer gave no label';
  return { label: null, why: said ?? none };
}

function amount(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : 0;
}

/** `POST /v1/review`. */
class Endpoint implements Reviewer {
  readonly batch: number;
  readonly #url: string;
  readonly #headers: Record<string, string>;
  readonly #fetch: NonNullable<ReviewEndpoint['fetch']>;
  /** Why it is not asked any more. */
  #closed: ReviewError | undefined;

  constructor({ url, token, batch = BATCH, fetch: own }: ReviewEndpoint) {
    if (!URL.canParse(url)) throw new OptionError('option', `the reviewer '${String(url)}' is no address`);
    if (!(Number.isInteger(batch) && batch >= 1 && batch <= MAX_BATCH)) throw new OptionError('option', `the reviewer's batch is 1 to ${MAX_BATCH} texts`);
    this.#url = /\/v1\/review\/?$/.test(String(url)) ? String(url) : `${String(url).replace(/\/$/, '')}/v1/review`;
    this.#headers = { 'content-type': 'application/json', ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) };
    this.#fetch = own ?? ((input, init) => fetch(input, init));
    this.batch = batch;
  }

  async review(items: ReviewItem[], task: Task, signal: AbortSignal | undefined): Promise<Reviews> {
    // The same key on every try: the server answers what it was asked before without paying again.
    const headers = { ...this.#headers, 'idempotency-key': crypto.randomUUID() };
    // The ids are the caller's own business, and need not be different.
    const numbered = items.map(({ text }, at) => ({ id: String(at + 1), text }));
    const body = JSON.stringify({ task: task.name, spec: null, items: numbered, mode: 'label' });
    let waits = 0;
    let tries = 0;
    for (;;) {
      if (this.#closed) throw this.#closed;
      const answer = await this.#post(headers, body, signal);
      if (answer instanceof Response && answer.ok) {
        const reviews = readBody(await answer.json().catch(() => undefined), numbered, task);
        if (reviews) return reviews;
      }
      const { error, seconds } = await problem(answer);
      if (!error.again) this.#closed = error;
      const again = seconds === undefined ? error.again && ++tries < TRIES : ++waits < WAITS;
      if (!again) throw error;
      await sleep(seconds ?? 2 ** (tries - 1), signal);
    }
  }

  async #post(headers: Record<string, string>, body: string, signal: AbortSignal | undefined): Promise<Response | unknown> {
    const late = AbortSignal.timeout(TIMEOUT_MS);
    try {
      return await this.#fetch(this.#url, { method: 'POST', headers, body, signal: signal ? AbortSignal.any([signal, late]) : late });
    } catch (error) {
      signal?.throwIfAborted();
      return error;
    }
  }
}

/** What an answer without reviews means, and the seconds it asks to wait. */
async function problem(answer: unknown): Promise<{ error: ReviewError; seconds?: number }> {
  if (!(answer instanceof Response)) {
    return { error: new ReviewError('review-down', `the reviewer cannot be reached (${messageOf(answer)})`, true, { cause: answer }) };
  }
  if (answer.ok) return { error: new ReviewError('review-reply', 'the reviewer answered with something unreadable', true) };
  const said = serverMessage(await answer.json().catch(() => undefined)) ?? `it answered ${answer.status}`;
  if (answer.status === 429) {
    return { error: new ReviewError('review-down', `the reviewer asks to slow down: ${said}`, true), seconds: retrySeconds(answer.headers.get('retry-after'), Date.now()) };
  }
  if (answer.status === 401 || answer.status === 403) return { error: new ReviewError('review-denied', `the reviewer refuses: ${said}`, false) };
  if (answer.status === 402) return { error: new ReviewError('review-budget', `the reviewer's budget is spent: ${said}`, false) };
  if (answer.status >= 500 || answer.status === 408) return { error: new ReviewError('review-down', `the reviewer is down: ${said}`, true) };
  return { error: new ReviewError('review-request', `the reviewer does not take this request: ${said}`, false) };
}

function serverMessage(body: unknown): string | undefined {
  const error = (body as { error?: unknown } | undefined)?.error;
  const text = typeof error === 'string' ? error : (error as { message?: unknown } | undefined)?.message;
  return typeof text === 'string' && text !== '' ? text.slice(0, 300) : undefined;
}

/** Seconds that a Retry-After asks for: a number, or a date. */
function retrySeconds(header: string | null, now: number): number {
  const seconds = header === null ? Number.NaN : /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 1), 3600) : 10;
}

/** What the server says of an item that it did not ask the LLM about. */
const NOT_ASKED = /^(review-budget|review-store|upstream-busy|upstream-unreachable): /;

function readBody(body: unknown, items: ReviewItem[], task: Task): Reviews | undefined {
  const value = body as { items?: unknown; usage?: Record<string, unknown>; model?: unknown } | undefined;
  if (!Array.isArray(value?.items)) return undefined;
  const answers = new Map<unknown, { label?: unknown; why?: unknown }>();
  for (const item of value.items) if (!answers.has(item?.id)) answers.set(item?.id, item);
  const notAsked = (answer: { label?: unknown; why?: unknown } | undefined) => answer?.label == null && NOT_ASKED.test(String(answer?.why));
  const asked = items.filter(({ id }) => !notAsked(answers.get(id))).length;
  const share = (name: string) => amount(value.usage?.[name]) / asked;
  return items.map(({ id }) => {
    const answer = answers.get(id);
    if (notAsked(answer)) return new ReviewError(String(answer?.why).startsWith('review-budget') ? 'review-budget' : 'review-down', String(answer?.why), true);
    const { label, why } = answer ? labelOf(answer.label, answer.why, task) : { label: null, why: 'the reviewer left it out' };
    return {
      label,
      by: { kind: 'llm' as const, model: typeof value.model === 'string' ? value.model : 'llm' },
      ...(why === undefined ? {} : { why }),
      prompt_tokens: Math.round(share('prompt_tokens')),
      completion_tokens: Math.round(share('completion_tokens')),
      cost_usd: share('cost_usd'),
    };
  });
}

function sleep(seconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const cut = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', cut);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) cut();
    signal?.addEventListener('abort', cut, { once: true });
  });
}
