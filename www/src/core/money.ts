// What the LLM's reviews take: how many, how many tokens, how many dollars. Everything that is not known has an interval.
import { count, dollars, wilson } from './estimate';

/** A number that is not known, with the interval it is likely in. */
export interface Range {
  low: number;
  middle: number;
  high: number;
}

/** US dollars a million tokens. */
export interface Prices {
  prompt: number;
  completion: number;
}

/** Tokens of the prompts and of the replies. */
export interface Tokens {
  prompt: Range;
  completion: Range;
}

/** What the votes on some texts of the file showed. */
export interface Probe {
  /** What it holds for: the task and the versions that voted. */
  key: string;
  texts: number;
  hard: number;
  /** Bytes of a text that would be sent. */
  bytes: Range;
}

/** Bytes of `{"text":""}`, in which a text goes to the LLM. */
const FRAME = 11;
/** Bytes a token has: 3.2 to 4.5 in tweets and headlines under Qwen2.5's tokenizer; plain English has more, other scripts fewer. */
const BYTES_A_TOKEN = { most: 5, middle: 4, least: 3 };
/** Tokens that a model's chat template adds: some 10 under Qwen2.5's. */
const TEMPLATE: Range = { low: 4, middle: 10, high: 20 };
/** Reviews from which what they took says what the next ones will. */
const ENOUGH = 8;
/** How far the next reviews may be from the mean of those before. */
const SPREAD = 0.1;

const exactly = (value: number): Range => ({ low: value, middle: value, high: value });
const times = (a: Range, b: Range): Range => ({ low: a.low * b.low, middle: a.middle * b.middle, high: a.high * b.high });
const plus = (a: Range, b: Range): Range => ({ low: a.low + b.low, middle: a.middle + b.middle, high: a.high + b.high });

/**
 * Hard ones among `rows` rows of which `texts` were voted on and `hard` of these are hard. For the rest Wilson's interval,
 * as if fewer were voted on: the rest is a sample too, and what is wanted is its own share, not that of all such rows.
 */
export function hardRows(hard: number, texts: number, rows: number): Range {
  const rest = Math.max(0, rows - texts);
  if (rest === 0) return exactly(hard);
  const worth = rest / (texts + rest);
  const [low, high] = wilson(hard * worth, texts * worth);
  const middle = texts === 0 ? (low + high) / 2 : hard / texts;
  return { low: hard + low * rest, middle: hard + middle * rest, high: hard + high * rest };
}

/** What is reviewed of `rows` rows: the hard ones, and a share of the others. */
export function reviews(hard: Range, rows: number, audit: number): Range {
  const all = (some: number) => some + audit * Math.max(0, rows - some);
  return { low: all(hard.low), middle: all(hard.middle), high: all(hard.high) };
}

/** The mean of some sizes, with its 95 % interval. */
export function mean(sizes: number[]): Range {
  if (sizes.length === 0) return exactly(0);
  const middle = sizes.reduce((sum, size) => sum + size, 0) / sizes.length;
  const squares = sizes.reduce((sum, size) => sum + (size - middle) ** 2, 0);
  const half = sizes.length < 2 ? middle / 2 : (1.96 * Math.sqrt(squares / (sizes.length - 1))) / Math.sqrt(sizes.length);
  return { low: Math.max(0, middle - half), middle, high: middle + half };
}

/** Tokens of one review, by the bytes of its prompt, its text and its reply. */
export function tokensByBytes(promptBytes: number, text: Range, labels: string[]): Tokens {
  const bytes = plus(exactly(promptBytes + FRAME), text);
  const longest = Math.max(0, ...labels.map((label) => label.length));
  const reply = (`{"label": ""}`.length + longest) / BYTES_A_TOKEN.least;
  return {
    prompt: plus(TEMPLATE, { low: bytes.low / BYTES_A_TOKEN.most, middle: bytes.middle / BYTES_A_TOKEN.middle, high: bytes.high / BYTES_A_TOKEN.least }),
    // Some models put the reply into a code block, or space it out.
    completion: { low: reply / 2, middle: reply, high: 2.5 * reply },
  };
}

/** Tokens of one review, by what the reviews before it took; none where these are too few to tell. */
export function tokensByUse(used: { reviews: number; prompt: number; completion: number }): Tokens | undefined {
  if (used.reviews < ENOUGH || used.prompt === 0) return undefined;
  const around = (all: number): Range => {
    const middle = all / used.reviews;
    return { low: middle * (1 - SPREAD), middle, high: middle * (1 + SPREAD) };
  };
  return { prompt: around(used.prompt), completion: around(used.completion) };
}

/** Tokens of so many reviews. */
export function tokensOf(many: Range, one: Tokens): Tokens {
  return { prompt: times(many, one.prompt), completion: times(many, one.completion) };
}

/** Prompts and replies together. */
export function total(tokens: Tokens): Range {
  return plus(tokens.prompt, tokens.completion);
}

/** US dollars of so many tokens. */
export function dollarsOf(tokens: Tokens, prices: Prices): Range {
  return plus(times(tokens.prompt, exactly(prices.prompt / 1e6)), times(tokens.completion, exactly(prices.completion / 1e6)));
}

/** What was spent, and what more there will be. */
export function projected(spent: number, more: Range): Range {
  return plus(exactly(spent), more);
}

/** Two significant digits, which is more than an estimate has. */
function rounded(value: number): number {
  if (value < 100) return Math.round(value);
  const unit = 10 ** (Math.floor(Math.log10(value)) - 1);
  return Math.round(value / unit) * unit;
}

/** A range in words; one number where its ends would read the same. */
export function rangeWords(range: Range, word: (value: number) => string): string {
  const [low, middle, high] = [word(range.low), word(range.middle), word(range.high)];
  return low === high ? middle : `about ${middle} (${low} to ${high})`;
}

/** Counts of rows or tokens. */
export function countWords(range: Range): string {
  return rangeWords(range, (value) => count(range.low === range.high ? Math.round(value) : rounded(value)));
}

/** Tokens, and dollars where there are prices. */
export function costWords(tokens: Tokens, prices: Prices | undefined): string {
  const many = `${countWords(total(tokens))} tokens`;
  return prices ? `${rangeWords(dollarsOf(tokens, prices), dollars)}, ${many}` : many;
}

/**
 * Rows to be tried: one of each of `many` parts of the file, at random, in an order at random, so that the first few are
 * of all of it as well.
 */
export function drawn(rows: number, many: number, random: () => number): number[] {
  const parts = Math.min(rows, many);
  const chosen = Array.from({ length: parts }, (_, part) => {
    const [from, to] = [Math.floor((part * rows) / parts), Math.floor(((part + 1) * rows) / parts)];
    return from + Math.floor(random() * (to - from));
  });
  for (let at = parts - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1));
    [chosen[at], chosen[other]] = [chosen[other] as number, chosen[at] as number];
  }
  return chosen;
}
