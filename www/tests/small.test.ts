import { setFlagsFromString } from 'node:v8';
import { expect, test } from 'vitest';
import { bytes, duration, estimateSeconds, Pace, percent, thin, wilson } from '../src/core/estimate';
import { guessTextColumn } from '../src/core/guess';
import { memoryBudget, memoryOf, workersOf } from '../src/core/pool';
import { choicesOf, chooseSlms, readStatus, sentence } from '../src/core/session';
import { relaxedSimd, simd } from '../src/core/simd';
import type { Row, SlmManifest } from '../src/core/types';
import { pastedName } from '../src/ui/App';
import { keysOf } from '../src/ui/keys';

test('the cores share the work of all SLMs', () => {
  expect(estimateSeconds(100, [100, 50, 10], 4)).toBe(3.25);
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

const slm = (id: string, task: string, relative_cost: number, precision = 'f16') => ({ id, task, relative_cost, precision, version: `${id}-${precision}` }) as SlmManifest;

test('SLMs come in the order of the spec, else by cost', () => {
  const all = [slm('m', 's', 9), slm('l', 's', 1), slm('t', 'x', 1)];
  const ids = (wanted: string[]) => chooseSlms(all, 's', wanted, 'int8').map((one) => one.id);
  expect(ids(['l', 'm', 'gone'])).toEqual(['l', 'm']);
  expect(ids(['p', 'q'])).toEqual(['l', 'm']);
  expect(ids(['t'])).toHaveLength(2); // of the right task only
});

test('both precisions can be chosen where both are there, int8 first', () => {
  const versions = (all: SlmManifest[], wanted = ['m', 'l']) => choicesOf(all, 's', wanted).map(({ precision, slms }) => [precision, ...slms.map((one) => one.version)]);
  const half = [slm('m', 's', 9), slm('l', 's', 1)];
  const int8 = [slm('l', 's', 1, 'int8'), slm('m', 's', 9, 'int8')];
  expect(versions([...half, ...int8])).toEqual([['int8', 'm-int8', 'l-int8'], ['f32', 'm-f16', 'l-f16']]);
  expect(versions([...half, ...int8], [])).toEqual([['int8', 'l-int8', 'm-int8'], ['f32', 'l-f16', 'm-f16']]);
  expect(versions(half)).toEqual([['f32', 'm-f16', 'l-f16']]);
  expect(versions(int8)).toEqual([['int8', 'm-int8', 'l-int8']]);
  expect(versions([...half, slm('m', 's', 9, 'int8')])[0]).toEqual(['int8', 'm-int8', 'l-f16']); // what there is
  expect(versions([])).toEqual([['f32']]);
});

test('a pool has a worker a core or, on a GPU, one, and its copies stay within a quarter of the memory', () => {
  expect([undefined, 1, 2, 6, 64].map((cores) => workersOf(cores, 'cpu'))).toEqual([2, 1, 2, 6, 8]);
  expect([workersOf(6, 'gpu'), workersOf(6, 'burn')]).toEqual([1, 1]);
  expect(memoryBudget(8)).toBe(2 * 2 ** 30);
  expect(memoryBudget(undefined)).toBe(2 ** 30);
  expect(memoryOf({ precision: 'f16', bytes: 10 } as SlmManifest)).toBe(20);
  expect(memoryOf({ precision: 'int8', bytes: 10 } as SlmManifest)).toBe(10);
});

test('an unreadable status means no reviewer', () => {
  for (const value of [null, {}, [], 'x', { review: false }, { review: null }, { review: { available: 'yes' } }]) expect(readStatus(value).reviewer).toBe(false);
  const status = { review: { available: true, model: 'm', remaining_budget_usd: 2 } };
  expect(readStatus(status)).toMatchObject({ reviewer: true, model: 'm', remaining: 2, spent: undefined, prices: undefined, promptBytes: {}, keepsText: [], asksToken: false });
  expect(readStatus({ token_needed: true }).asksToken).toBe(true);
  const tasks = [{ name: 'a', keeps_text: true }, { name: 'b', keeps_text: false }, { name: 'c', keeps_text: 'true' }, { keeps_text: true }];
  expect(readStatus({ ...status, tasks }).keepsText).toEqual(['a']);
  expect(readStatus({ tasks: 'x' }).keepsText).toEqual([]);
  const money = (review: unknown, tasks?: unknown) => readStatus({ review, tasks });
  expect(money({ spent_usd: 0.5, prices: { prompt: 0.15, completion: 0.6 } })).toMatchObject({ spent: 0.5, prices: { prompt: 0.15, completion: 0.6 } });
  for (const prices of [null, 'x', { prompt: 1 }, { prompt: -1, completion: 1 }, { prompt: '1', completion: 1 }]) expect(money({ prices }).prices).toBeUndefined();
  expect(money({}, [{ name: 'a', prompt_bytes: 700 }, { name: 'b', prompt_bytes: 'many' }, null, { prompt_bytes: 3 }]).promptBytes).toEqual({ a: 700 });
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
  expect(relaxedSimd()).toBe(Number.parseInt(process.versions.node, 10) > 20);
  setFlagsFromString('--experimental-wasm-relaxed-simd'); // what Node.js 20 has it behind
  expect(relaxedSimd()).toBe(true);
});

test("a share's interval is Wilson's", () => {
  const [from, to] = wilson(10, 50);
  expect(from).toBeCloseTo(0.1124, 3);
  expect(to).toBeCloseTo(0.3304, 3);
  expect(wilson(0, 0)).toEqual([0, 1]);
});
