import { expect, test } from 'vitest';
import { Columns } from '../src/core/columns';
import { annotationOf, pack, verdictOf, votesOf } from '../src/core/results';
import { NONE, type Row, type Verdict, type Vote } from '../src/core/types';

const labels = ['negative', 'neutral', 'positive'];
const slms = ['a', 'b', 'c'].map((id) => ({ id, version: 'v', engine: 'cpu', precision: 'f16' }));

function vote(slm: number, label: number): Vote {
  const probabilities = labels.map((_, index) => Math.fround(index === label ? 0.8 : 0.1));
  return { ...{ slm: slms[slm]?.id ?? '' }, version: 'v', engine: 'cpu', precision: 'f16', label: labels[label] ?? '', probabilities };
}

const unanimous = (votes: Vote[]): Verdict =>
  votes.every((other) => other.label === votes[0]?.label)
    ? { status: 'accepted', label: votes[0]?.label ?? '', confidence: 0.5 }
    : { status: 'hard', why: 'disagreement' };

const rows: Row[] = [
  { id: '1', text: 'good', columns: { fields: ['good'] } },
  { id: '2', text: '', columns: { fields: [' '] }, setAside: 'text-blank: only whitespace' },
  { id: '3', text: 'hm', columns: { fields: ['hm'] } },
];
/** Votes of each SLM on rows 1 and 3. */
const ballots = [
  [vote(0, 2), vote(0, 0)],
  [vote(1, 2), vote(1, 1)],
  [vote(2, 2), vote(2, 0)],
];

test('what is packed comes out as it went in', () => {
  const result = pack(0, rows, ballots, labels, unanimous);
  expect(verdictOf(result, 0, labels)).toEqual({ status: 'accepted', label: 'positive', confidence: 0.5 });
  expect(verdictOf(result, 1, labels)).toEqual({ status: 'set-aside', why: 'text-blank: only whitespace' });
  expect(verdictOf(result, 2, labels)).toEqual({ status: 'hard', why: 'disagreement' });
  expect(votesOf(result, 1, slms, labels)).toEqual([]);
  expect(votesOf(result, 2, slms, labels)).toEqual([vote(0, 0), vote(1, 1), vote(2, 0)]);
  const annotation = annotationOf(rows[2] as Row, result, 2, undefined, slms, labels);
  expect(annotation).toMatchObject({ label: null, source: null, review: null });
});

test('a vote without a label stays one', () => {
  const none = [[{ ...vote(0, 0), label: '' }], [vote(1, 0)], [vote(2, 0)]];
  const result = pack(0, rows.slice(0, 1), none, labels, () => ({ status: 'hard', why: 'no-label' }));
  expect(votesOf(result, 0, slms, labels).map((one) => one.label)).toEqual(['', 'negative', 'negative']);
  expect(verdictOf(result, 0, labels)).toEqual({ status: 'hard', why: 'no-label' });
});

test('a vote for another label set, or a missing one, is an error and never a label', () => {
  const strange = [[{ ...vote(0, 0), label: 'toxic' }], [vote(1, 0)], [vote(2, 0)]];
  expect(() => pack(0, rows.slice(0, 1), strange, labels, unanimous)).toThrow('slm-labels');
  const short = [[{ ...vote(0, 0), probabilities: [1] }], [vote(1, 0)], [vote(2, 0)]];
  expect(() => pack(0, rows.slice(0, 1), short, labels, unanimous)).toThrow('slm-labels');
  expect(() => pack(0, rows.slice(0, 1), [[], [vote(1, 0)], [vote(2, 0)]], labels, unanimous)).toThrow('votes-missing');
});

test('counts follow verdicts, reviews and their undoing', () => {
  const columns = new Columns(3, 3, 3);
  const result = pack(0, rows, ballots, labels, unanimous);
  columns.take(result);
  columns.take(result); // a repeated block counts once
  expect(columns.byVerdict).toEqual([0, 1, 1, 1]);
  expect(columns.byLabel).toEqual([0, 0, 1]);
  expect([columns.open, columns.reviewed]).toEqual([1, 0]);
  const human = (label: string | null) => ({ label, by: { kind: 'human' as const }, prompt_tokens: 0, completion_tokens: 0, cost_usd: 0 });
  columns.review(2, human('neutral'), labels, NONE);
  expect([columns.open, columns.reviewed, columns.isOpen(2)]).toEqual([0, 1, false]);
  expect(columns.bySource).toEqual([1, 1, 0, 1]);
  columns.review(2, null, labels, NONE);
  expect([columns.open, columns.reviewed, columns.isOpen(2)]).toEqual([1, 0, true]);
  columns.review(0, human('negative'), labels, 2);
  expect(columns.byLabel).toEqual([1, 0, 0]);
  columns.review(0, null, labels, 2);
  expect(columns.byLabel).toEqual([0, 0, 1]);
  expect(columns.bySource).toEqual([2, 1, 0, 0]);
});

test('an LLM without a usable label leaves the row open, for the person', () => {
  const columns = new Columns(3, 3, 3);
  columns.take(pack(0, rows, ballots, labels, unanimous));
  columns.review(2, { label: null, by: { kind: 'llm', model: 'm' }, prompt_tokens: 1, completion_tokens: 1, cost_usd: 0 }, labels, NONE);
  expect(columns.isOpen(2)).toBe(true);
  expect(columns.llmFailed[2]).toBe(1);
});

test('filters', () => {
  const columns = new Columns(3, 3, 3);
  columns.take(pack(0, rows, ballots, labels, unanimous));
  const at = (filter: Parameters<Columns['filter']>[0]) => [...columns.filter(filter)];
  expect(at({})).toEqual([0, 1, 2]);
  expect(at({ verdict: 'hard' })).toEqual([2]);
  expect(at({ verdict: 'set-aside' })).toEqual([1]);
  expect(at({ label: 2 })).toEqual([0]);
  expect(at({ label: 'none' })).toEqual([1, 2]);
  expect(at({ votes: 'differ' })).toEqual([2]);
  expect(at({ votes: 'agree' })).toEqual([0]);
  expect(at({ source: 'consensus' })).toEqual([0]);
  expect(at({ found: new Uint8Array([0, 1, 1]), verdict: 'hard' })).toEqual([2]);
});

test('a share of the accepted rows is checked, the same ones each time', () => {
  const many: Row[] = Array.from({ length: 32 }, (_, at) => ({ id: String(at + 1), text: 'good', columns: { fields: ['good'] } }));
  const votes = [0, 1, 2].map((slm) => many.map(() => vote(slm, 2)));
  const columns = new Columns(3200, 3, 3);
  for (let block = 0; block < 100; block++) columns.take(pack(block, many, votes, labels, unanimous));
  expect([columns.waiting, columns.audited.rows]).toEqual([0, 0]);
  columns.audit = 0.1;
  const { rows: drawn } = columns.audited;
  expect(drawn).toBeGreaterThan(250);
  expect(drawn).toBeLessThan(390);
  expect([columns.open, columns.waiting]).toEqual([0, drawn]);
  const first = Array.from({ length: 3200 }, (_, row) => row).filter((row) => columns.isOpen(row));
  expect(first).toHaveLength(drawn);
  const human = (label: string | null) => ({ label, by: { kind: 'human' as const }, prompt_tokens: 0, completion_tokens: 0, cost_usd: 0 });
  columns.review(first[0] ?? 0, human('negative'), labels, 2);
  columns.review(first[1] ?? 0, human('positive'), labels, 2);
  expect(columns.audited).toEqual({ rows: drawn, done: 2, wrong: 1 });
  expect([columns.isOpen(first[0] ?? 0), columns.waiting]).toEqual([false, drawn - 2]);
  columns.review(first[0] ?? 0, null, labels, 2);
  expect(columns.audited.done).toBe(1);
});
