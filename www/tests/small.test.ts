import { expect, test } from 'vitest';
import { bytes, duration, estimateSeconds, Pace, percent, thin } from '../src/core/estimate';
import { guessTextColumn } from '../src/core/guess';
import { chooseSlms, readStatus, sentence } from '../src/core/session';
import { simd } from '../src/core/simd';
import type { Row, SlmManifest } from '../src/core/types';
import { pastedName } from '../src/ui/App';
import { keysOf } from '../src/ui/keys';

test('the slowest SLM decides, or the cores where they are too few', () => {
  expect(estimateSeconds(100, [100, 50, 10], 4)).toBe(10);
  expect(estimateSeconds(100, [10, 10, 10], 2)).toBe(15);
  expect(estimateSeconds(100, [], 2)).toBeUndefined();
  expect(estimateSeconds(100, [10, 0], 2)).toBeUndefined();
});

test('the pace is that of the last seconds', () => {
  const pace = new Pace(1000);
  expect(pace.rate(0)).toBeUndefined();
  for (let at = 0; at <= 5000; at += 500) pace.mark(at, at < 3000 ? 0 : (at - 3000) / 10);
  expect(pace.rate(5000)).toBeCloseTo(100, 0);
});

test('words', () => {
  expect(duration(59.6)).toBe('1 min 0 s');
  expect(duration(3725)).toBe('1 h 2 min');
  expect(bytes(24_900_000)).toBe('25 MB');
  expect(percent(1, 3)).toBe('33.3 %');
  expect(percent(0, 0)).toBe('–');
  expect(sentence('data-column: there is no column "x"; choose another')).toBe('There is no column "x"; choose another.');
});

test('a thinned timeline keeps its ends', () => {
  const points = Array.from({ length: 601 }, (_, at) => at);
  const kept = thin(points);
  expect(kept.length).toBe(301);
  expect([kept[0], kept.at(-1)]).toEqual([0, 600]);
});

test('the text column is found by name, else by length', () => {
  const row = (fields: string[]): Row => ({ id: '1', text: '', columns: { fields } });
  expect(guessTextColumn(['id', 'Tweet', 'note'], [])).toBe('Tweet');
  expect(guessTextColumn(['id', 'full_text'], [])).toBe('full_text');
  expect(guessTextColumn(['a', 'b'], [row(['1', 'a long one'])])).toBe('b');
  expect(guessTextColumn([], [])).toBe('');
});

test('SLMs come in the order of the spec, else by cost', () => {
  const slm = (id: string, task: string, cost: number) => ({ id, task, relative_cost: cost }) as SlmManifest;
  const all = [slm('m', 's', 9), slm('l', 's', 1), slm('t', 'x', 1)];
  expect(chooseSlms(all, 's', ['l', 'm', 'gone']).map((one) => one.id)).toEqual(['l', 'm']);
  expect(chooseSlms(all, 's', ['p', 'q']).map((one) => one.id)).toEqual(['l', 'm']);
  expect(chooseSlms(all, 's', ['t'])).toHaveLength(2); // of the right task only
});

test('an unreadable status means no reviewer', () => {
  for (const value of [null, {}, [], 'x', { review: false }, { review: null }, { review: { available: 'yes' } }]) expect(readStatus(value).reviewer).toBe(false);
  const status = { review: { available: true, model: 'm', remaining_budget_usd: 2 } };
  expect(readStatus(status)).toEqual({ reviewer: true, model: 'm', remaining: 2 });
});

test('every label has keys of its own', () => {
  expect(keysOf(['negative', 'neutral', 'positive'])).toEqual([
    { label: 'negative', keys: ['1', 'n'] },
    { label: 'neutral', keys: ['2', 'e'] },
    { label: 'positive', keys: ['3', 'p'] },
  ]);
  const keys = keysOf(['us', 'su', 'non-toxic', 'toxic']).flatMap((entry) => entry.keys);
  expect(new Set(keys).size).toBe(keys.length);
  for (const taken of ['u', 's', 'r', '?']) expect(keys).not.toContain(taken);
});

test('what is pasted is told apart', () => {
  expect(pastedName('{"text":"a"}\n{"text":"b"}\n')).toBe('pasted.jsonl');
  expect(pastedName('a\tb\nc\td')).toBe('pasted.tsv');
  expect(pastedName('just\ntwo lines, no more')).toBe('pasted.txt');
});

test('SIMD is found where it is', () => {
  expect(simd()).toBe(true);
});
