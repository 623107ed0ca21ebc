import { expect, test } from 'vitest';
import { readAnswer, retrySeconds } from '../src/core/llm';

const labels = ['negative', 'neutral', 'positive'];
const now = Date.parse('2026-01-01T00:00:00Z');
const answer = (status: number, body: unknown, retryAfter: string | null = null) =>
  readAnswer({ status, retryAfter, body: typeof body === 'string' ? body : JSON.stringify(body) }, ['1', '2', '3'], labels, now);

test('labels are taken as they are; anything else is no label, with its reason', () => {
  const outcome = answer(200, {
    items: [{ id: '1', label: 'positive' }, { id: '2', label: 'Banana' }, { id: '9', label: 'neutral' }],
    usage: { prompt_tokens: 30, completion_tokens: 6, cost_usd: 0.3 },
    remaining_budget_usd: 4,
  });
  if (outcome.kind !== 'answered') throw new Error(outcome.kind);
  expect(outcome.reviews.map((review) => review?.label)).toEqual(['positive', null, null]);
  expect(outcome.reviews[1]?.why).toContain('Banana');
  expect(outcome.reviews[2]?.why).toContain('left it out');
  expect(outcome.reviews[0]?.cost_usd).toBeCloseTo(0.1);
  expect(outcome.spend).toEqual({ prompt_tokens: 30, completion_tokens: 6, cost_usd: 0.3 });
  expect(outcome.remaining).toBe(4);
});

test('a sample that the LLM was not asked about stays open, and costs nothing', () => {
  const refused = (why: string) => answer(200, { items: [{ id: '1', label: 'positive' }, { id: '2', label: null, why }, { id: '3', label: null, why: 'it said nothing' }], usage: { cost_usd: 0.2 } });
  for (const code of ['review-budget', 'review-store', 'upstream-busy', 'upstream-unreachable']) {
    const outcome = refused(`${code}: not now`);
    if (outcome.kind !== 'answered') throw new Error(outcome.kind);
    expect(outcome.reviews.map((review) => review?.label)).toEqual(['positive', undefined, null]);
    expect(outcome.reviews[0]?.cost_usd).toBeCloseTo(0.1);
  }
  const failed = refused('upstream-timeout: the LLM gave no answer in time');
  expect(failed.kind === 'answered' && failed.reviews[1]?.label).toBe(null);
  const none = answer(200, { items: ['1', '2', '3'].map((id) => ({ id, label: null, why: 'review-budget: used up' })) });
  expect(none).toMatchObject({ kind: 'down', again: true });
});

test('a label twice is the first one', () => {
  const outcome = answer(200, { items: [{ id: '1', label: 'positive' }, { id: '1', label: 'negative' }] });
  expect(outcome.kind === 'answered' && outcome.reviews[0]?.label).toBe('positive');
});

test('hostile usage costs nothing, and never a negative sum', () => {
  const outcome = answer(200, { items: [], usage: { prompt_tokens: -5, completion_tokens: 'x', cost_usd: null } });
  expect(outcome.kind === 'answered' && outcome.spend).toEqual({ prompt_tokens: 0, completion_tokens: 0, cost_usd: 0 });
});

test.each([
  [401, 'no', { kind: 'down', again: false }],
  [500, '', { kind: 'down', again: true }],
  [502, { error: { code: 'upstream', message: 'the model is away' } }, { kind: 'down', again: true, why: 'the model is away' }],
  [402, { error: { code: 'review-budget', message: 'a budget is used up' } }, { kind: 'budget', why: 'a budget is used up' }],
  [400, { error: 'bad' }, { kind: 'down', again: false, why: 'bad' }],
  [200, '<html>', { kind: 'down', again: true }],
  [200, '', { kind: 'down', again: true }],
  [200, 'null', { kind: 'down', again: true }],
  [200, { items: 'many' }, { kind: 'down', again: true }],
])('%i with %j', (status, body, expected) => {
  expect(answer(status, body)).toMatchObject(expected);
});

test('429 waits as long as it says', () => {
  expect(answer(429, '', '7')).toMatchObject({ kind: 'wait', seconds: 7 });
  expect(answer(429, '', 'Thu, 01 Jan 2026 00:00:30 GMT')).toMatchObject({ kind: 'wait', seconds: 30 });
  expect(answer(429, '')).toMatchObject({ kind: 'wait', seconds: 10 });
  expect(retrySeconds('soon', now)).toBe(10);
  expect(retrySeconds('0', now)).toBe(1);
  expect(retrySeconds('99999999', now)).toBe(3600);
});
