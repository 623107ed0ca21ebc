import { expect, test } from 'vitest';
import { dollars, wilson } from '../src/core/estimate';
import { costWords, countWords, dollarsOf, drawn, hardRows, mean, projected, rangeWords, type Range, reviews, tokensByBytes, tokensByUse, tokensOf, total } from '../src/core/money';
import { countPlaceholders, cutAtPlaceholders } from '../src/core/placeholders';

const exactly = (value: number): Range => ({ low: value, middle: value, high: value });
const around = (low: number, middle: number, high: number): Range => ({ low, middle, high });

/** A generator of numbers from 0 to 1 (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

test('the hard rows that were seen are sure, Wilson speaks for the rest', () => {
  const [low, high] = wilson(200 / 11, 1000 / 11);
  const all = hardRows(20, 100, 1100);
  expect(all.low).toBeCloseTo(20 + 1000 * low);
  expect(all.middle).toBe(220);
  expect(all.high).toBeCloseTo(20 + 1000 * high);
  expect(hardRows(20, 100, 100)).toEqual(exactly(20));
  expect(hardRows(0, 0, 10)).toEqual(around(0, 5, 10));
});

test('the interval holds the hard rows of 95 % of all files', () => {
  const random = seeded(1);
  const rows = 2000;
  let held = 0;
  for (let file = 0; file < 1000; file++) {
    const share = random();
    const hard = Array.from({ length: rows }, () => random() < share);
    const tried = drawn(rows, 150, random);
    const { low, high } = hardRows(tried.filter((row) => hard[row]).length, tried.length, rows);
    const all = hard.filter(Boolean).length;
    held += Number(low <= all && all <= high);
  }
  expect(held / 1000).toBeGreaterThan(0.935);
  expect(held / 1000).toBeLessThan(0.98);
});

test('rows are drawn from all of the file, each once, the first few as well', () => {
  const rows = drawn(1000, 100, seeded(7));
  expect(new Set(rows).size).toBe(100);
  expect(rows.map((row) => Math.floor(row / 10)).sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, part) => part));
  const first = rows.slice(0, 30);
  expect(Math.min(...first)).toBeLessThan(200);
  expect(Math.max(...first)).toBeGreaterThan(800);
  expect([...drawn(3, 100, seeded(7))].sort()).toEqual([0, 1, 2]);
  expect(drawn(0, 100, seeded(7))).toEqual([]);
});

test('checked rows are reviewed too', () => {
  expect(reviews(around(10, 20, 40), 100, 0)).toEqual(around(10, 20, 40));
  expect(reviews(around(10, 20, 40), 100, 0.1)).toEqual(around(19, 28, 46));
});

test('a mean has its interval', () => {
  expect(mean([])).toEqual(exactly(0));
  expect(mean([100])).toEqual(around(50, 100, 150));
  const { low, middle, high } = mean([90, 110, 100, 100]);
  expect(middle).toBe(100);
  expect(high - middle).toBeCloseTo((1.96 * Math.sqrt(200 / 3)) / 2);
  expect(middle - low).toBeCloseTo(high - middle);
});

test('tokens by bytes hold what tokenizers make of a prompt and a text', () => {
  const one = tokensByBytes(700, exactly(90), ['negative', 'neutral', 'positive']);
  expect(one.prompt).toEqual(around(4 + 801 / 5, 10 + 801 / 4, 20 + 801 / 3));
  // Means of prompts that a model was asked: their bytes, of them the text's, and its tokens (Qwen2.5-Coder-1.5B).
  for (const [bytes, text, tokens] of [[250, 86, 72.4], [229, 65, 64.3], [345, 192, 94.5], [299, 146, 85.0]] as const) {
    const { prompt } = tokensByBytes(bytes - text - 11, exactly(text), ['toxic']);
    expect(prompt.low).toBeLessThan(tokens);
    expect(prompt.high).toBeGreaterThan(tokens);
    expect(Math.abs(prompt.middle / tokens - 1)).toBeLessThan(0.12);
  }
  expect(one.completion.low).toBeLessThan(6);
  expect(one.completion.high).toBeGreaterThan(12);
});

test('what was used tells more than bytes, once there is enough of it', () => {
  expect(tokensByUse({ reviews: 7, prompt: 700, completion: 70 })).toBeUndefined();
  expect(tokensByUse({ reviews: 10, prompt: 0, completion: 0 })).toBeUndefined();
  expect(tokensByUse({ reviews: 10, prompt: 1000, completion: 50 })).toEqual({ prompt: around(90, 100, 110.00000000000001), completion: around(4.5, 5, 5.5) });
});

test('dollars and their words', () => {
  const tokens = tokensOf(around(100, 200, 400), { prompt: around(150, 200, 250), completion: exactly(10) });
  expect(total(tokens)).toEqual(around(16_000, 42_000, 104_000));
  const prices = { prompt: 0.15, completion: 0.6 };
  const cost = dollarsOf(tokens, prices);
  expect(cost.middle).toBeCloseTo((40_000 * 0.15 + 2000 * 0.6) / 1e6);
  expect(costWords(tokens, prices)).toBe('about $0.0072 ($0.0028 to $0.0174), about 42,000 (16,000 to 100,000) tokens');
  expect(costWords(tokens, undefined)).toBe('about 42,000 (16,000 to 100,000) tokens');
  expect(rangeWords(projected(1, around(0.5, 1, 2)), dollars)).toBe('about $2.00 ($1.50 to $3.00)');
  expect(rangeWords(exactly(0), dollars)).toBe('$0');
  expect(countWords(exactly(1234))).toBe('1,234');
  expect(dollars(0.00001)).toBe('under $0.0001');
});

test('every kind of placeholder is marked and counted, those to come as well', () => {
  const kinds = ['EMAIL', 'EMAIL2', 'IBAN', 'IP', 'MAC', 'ID', 'KEY', 'NUMBER', 'NAME', 'PHONE', 'URL', 'HANDLE', 'CARD', 'CARD12', 'NEW_KIND'];
  for (const kind of kinds) expect(cutAtPlaceholders(`a [${kind}], b`)).toEqual(['a ', `[${kind}]`, ', b']);
  expect(cutAtPlaceholders('[x] [A] [12] [Email] [EMAIL')).toHaveLength(1);
  expect(cutAtPlaceholders('[EMAIL][PHONE]')).toEqual(['', '[EMAIL]', '', '[PHONE]', '']);
  expect(countPlaceholders(['[EMAIL] and [EMAIL2]', 'none', '[ID]', '[CARD]'])).toEqual([['EMAIL', 2], ['CARD', 1], ['ID', 1]]);
});
