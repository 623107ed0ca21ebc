// The LLM reviewer's protocol, as far as it can be told without a network.
import type { Review } from './types';

/** Samples of one request. */
export const BATCH = 8;
/** Bytes of a text that the server takes at most. */
export const MOST_BYTES = 32 * 1024;

/** What a request came to. */
export type Outcome =
  | {
      kind: 'answered';
      /**
       * A review for every sample that was asked about, in order; its label is null where none was usable. None for a
       * sample that the LLM was not asked about, because it was busy or the budget was used up.
       */
      reviews: (Review | undefined)[];
      spend: { prompt_tokens: number; completion_tokens: number; cost_usd: number };
      remaining: number | null;
    }
  | { kind: 'wait'; seconds: number; why: string }
  | { kind: 'budget'; why: string }
  | { kind: 'down'; why: string; again: boolean };

/** An answer of `/v1/review`, as it came off the wire. */
export interface Answer {
  status: number;
  retryAfter: string | null;
  body: string;
}

/** Seconds that a Retry-After asks for: a number, or a date; a default where it is neither. */
export function retrySeconds(header: string | null, now: number, otherwise = 10): number {
  if (header === null) return otherwise;
  const seconds = /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - now) / 1000;
  if (!Number.isFinite(seconds)) return otherwise;
  return Math.min(Math.max(Math.ceil(seconds), 1), 3600);
}

/** Reads an answer to a request about `ids`. A label that is none of `labels` is no label. */
export function readAnswer(answer: Answer, ids: string[], labels: string[], now: number): Outcome {
  const said = serverMessage(answer.body);
  if (answer.status === 429) {
    return { kind: 'wait', seconds: retrySeconds(answer.retryAfter, now), why: said ?? 'the reviewer asks to slow down' };
  }
  if (answer.status === 402) return { kind: 'budget', why: said ?? 'the budget is used up' };
  if (answer.status === 401 || answer.status === 403) {
    return { kind: 'down', again: false, why: said ?? "the reviewer refused the server's key; check AUTOANNOTATOR_LLM_KEY on the server" };
  }
  if (answer.status < 200 || answer.status >= 300) {
    return { kind: 'down', again: answer.status >= 500, why: said ?? `the reviewer answered with error ${answer.status}` };
  }
  return readBody(answer.body, ids, labels) ?? { kind: 'down', again: true, why: 'the reviewer answered with something unreadable' };
}

function serverMessage(body: string): string | undefined {
  const value = parse(body) as { error?: unknown; message?: unknown } | undefined;
  const error = value?.error ?? value?.message;
  const text = typeof error === 'string' ? error : (error as { message?: unknown } | undefined)?.message;
  return typeof text === 'string' && text !== '' ? text.slice(0, 300) : undefined;
}

function parse(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function readBody(body: string, ids: string[], labels: string[]): Outcome | undefined {
  const value = parse(body) as Record<string, unknown> | undefined;
  if (!value || !Array.isArray(value['items'])) return undefined;
  const answers = new Map<string, Record<string, unknown>>();
  for (const item of value['items'] as unknown[]) {
    if (typeof item !== 'object' || item === null) continue;
    const entry = item as Record<string, unknown>;
    if (typeof entry['id'] === 'string' && !answers.has(entry['id'])) answers.set(entry['id'], entry);
  }
  const usage = (value['usage'] ?? {}) as Record<string, unknown>;
  const spend = {
    prompt_tokens: amount(usage['prompt_tokens']),
    completion_tokens: amount(usage['completion_tokens']),
    cost_usd: amount(usage['cost_usd']),
  };
  const model = typeof value['model'] === 'string' ? value['model'] : 'llm';
  const remaining = typeof value['remaining_budget_usd'] === 'number' ? value['remaining_budget_usd'] : null;
  const asked = ids.filter((id) => !wasNotAsked(answers.get(id))).length;
  const reviews = ids.map((id) => (wasNotAsked(answers.get(id)) ? undefined : reviewOf(answers.get(id), labels, model, spend, asked)));
  return asked === 0 ? undefined : { kind: 'answered', reviews, spend, remaining };
}

/** Whether the server says of a sample that it did not ask the LLM about it, and that this may change. */
function wasNotAsked(entry: Record<string, unknown> | undefined): boolean {
  return entry?.['label'] == null && /^(review-budget|review-store|upstream-busy|upstream-unreachable): /.test(String(entry?.['why']));
}

function reviewOf(
  entry: Record<string, unknown> | undefined,
  labels: string[],
  model: string,
  spend: { prompt_tokens: number; completion_tokens: number; cost_usd: number },
  share: number,
): Review {
  const label = entry?.['label'];
  const usable = typeof label === 'string' && labels.includes(label) ? label : null;
  const review: Review = {
    label: usable,
    by: { kind: 'llm', model },
    prompt_tokens: Math.round(spend.prompt_tokens / share),
    completion_tokens: Math.round(spend.completion_tokens / share),
    cost_usd: spend.cost_usd / share,
  };
  const why = whyOf(entry, label, usable);
  if (why) review.why = why;
  return review;
}

function whyOf(entry: Record<string, unknown> | undefined, label: unknown, usable: string | null): string | undefined {
  if (!entry) return 'the reviewer left it out';
  const why = typeof entry['why'] === 'string' && entry['why'] !== '' ? entry['why'].slice(0, 500) : undefined;
  if (usable !== null || why) return why;
  return typeof label === 'string' ? `'${label.slice(0, 60)}' is none of the labels` : 'the reviewer gave no label';
}

function amount(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : 0;
}
