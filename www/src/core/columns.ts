// What the page holds in memory of every row: a few bytes each, so a million rows fit.
import {
  ACCEPTED,
  ASIDE,
  BLOCK,
  HARD,
  NONE,
  PENDING,
  type ResultBlock,
  type Review,
  type Source,
} from './types';

/** Codes of `Columns.source`. */
export const SOURCES: (Source | null)[] = [null, 'consensus', 'llm', 'human'];
const CONSENSUS = 1;
const LLM = 2;
const HUMAN = 3;

/** What to show in the table. Undefined means any. */
export interface Filter {
  verdict?: 'accepted' | 'hard' | 'set-aside' | 'pending';
  label?: number | 'none';
  source?: Source;
  /** Rows on which the SLMs named different labels, or the same. */
  votes?: 'differ' | 'agree';
  /** Rows that a text search found. */
  found?: Uint8Array;
}

/** Verdict, label, source and votes of every row, and the counts over them. */
export class Columns {
  readonly rows: number;
  readonly k: number;
  readonly verdict: Uint8Array;
  readonly label: Uint8Array;
  readonly source: Uint8Array;
  readonly confidence: Float32Array;
  /** rows x k label indexes; NONE where there is no vote. */
  readonly votes: Uint8Array;
  /** 1 where an LLM was asked and gave no usable label. */
  readonly llmFailed: Uint8Array;
  readonly blocks: number;
  readonly doneBlocks: Uint8Array;
  /** Rows by verdict code. */
  readonly byVerdict = [0, 0, 0, 0];
  /** Rows by final label. */
  readonly byLabel: number[];
  /** Rows by source code. */
  readonly bySource = [0, 0, 0, 0];

  constructor(rows: number, k: number, labels: number) {
    this.rows = rows;
    this.k = k;
    this.verdict = new Uint8Array(rows);
    this.label = new Uint8Array(rows).fill(NONE);
    this.source = new Uint8Array(rows);
    this.confidence = new Float32Array(rows);
    this.votes = new Uint8Array(rows * k).fill(NONE);
    this.llmFailed = new Uint8Array(rows);
    this.blocks = Math.ceil(rows / BLOCK);
    this.doneBlocks = new Uint8Array(this.blocks);
    this.byLabel = Array.from({ length: labels }, () => 0);
    this.byVerdict[PENDING] = rows;
    this.bySource[0] = rows;
  }

  /** Takes the verdicts of a block. */
  take(result: ResultBlock): void {
    const first = result.block * BLOCK;
    if (this.doneBlocks[result.block]) return;
    this.doneBlocks[result.block] = 1;
    for (let place = 0; place < result.verdict.length; place++) {
      const row = first + place;
      const verdict = result.verdict[place] ?? PENDING;
      this.#verdict(row, verdict);
      this.confidence[row] = result.confidence[place] ?? 0;
      if (verdict !== ASIDE) {
        for (let slm = 0; slm < this.k; slm++) this.votes[row * this.k + slm] = result.votes[slm]?.label[place] ?? NONE;
      }
      if (verdict === ACCEPTED) this.#final(row, result.label[place] ?? NONE, CONSENSUS);
    }
  }

  /** Takes a review, or with `null` takes it back: the row is as the verdict left it. */
  review(row: number, review: Review | null, labels: string[], consensus: number): void {
    this.llmFailed[row] = 0;
    if (review?.label != null) {
      const label = labels.indexOf(review.label);
      this.#final(row, label < 0 ? NONE : label, review.by.kind === 'human' ? HUMAN : LLM);
      return;
    }
    if (review?.by.kind === 'llm') this.llmFailed[row] = 1;
    const accepted = this.verdict[row] === ACCEPTED;
    this.#final(row, accepted ? consensus : NONE, accepted ? CONSENSUS : 0);
  }

  /** The label all voters named, or NONE. */
  common(row: number): number {
    const first = this.votes[row * this.k] ?? NONE;
    for (let slm = 1; slm < this.k; slm++) if (this.votes[row * this.k + slm] !== first) return NONE;
    return first;
  }

  /** The share of accepted rows that is reviewed all the same. */
  audit = 0;

  /** Whether an accepted row is among those that are reviewed all the same; the same rows after a reload. */
  isAudited(row: number): boolean {
    return this.audit > 0 && this.verdict[row] === ACCEPTED && draw(row) < this.audit;
  }

  /** Accepted rows that are to be reviewed, that were, and those of them that were labelled otherwise. */
  get audited(): { rows: number; done: number; wrong: number } {
    const counts = { rows: 0, done: 0, wrong: 0 };
    for (let row = 0; this.audit > 0 && row < this.rows; row++) {
      if (!this.isAudited(row)) continue;
      counts.rows += 1;
      if (this.source[row] === CONSENSUS) continue;
      counts.done += 1;
      counts.wrong += Number(this.label[row] !== this.#most(row));
    }
    return counts;
  }

  /** The label that most voters named. */
  #most(row: number): number {
    const votes = Array.from(this.votes.subarray(row * this.k, (row + 1) * this.k));
    const count = (label: number) => votes.filter((vote) => vote === label).length;
    return votes.reduce((best, label) => (count(label) > count(best) ? label : best), votes[0] ?? NONE);
  }

  /** Whether a reviewer still has to decide. */
  isOpen(row: number): boolean {
    if (this.isAudited(row)) return this.source[row] === CONSENSUS;
    return this.verdict[row] === HARD && this.label[row] === NONE;
  }

  /** How many rows a reviewer still has to decide: hard ones, and accepted ones to be checked. */
  get waiting(): number {
    const { rows, done } = this.audited;
    return this.open + rows - done;
  }

  /** How many hard rows have no label. */
  get open(): number {
    return (this.byVerdict[HARD] ?? 0) - this.reviewed;
  }

  /** How many hard rows have a label. */
  reviewed = 0;

  /** The rows that pass the filter, in order. */
  filter(filter: Filter): Uint32Array {
    const out = new Uint32Array(this.rows);
    let count = 0;
    for (let row = 0; row < this.rows; row++) if (this.#passes(row, filter)) out[count++] = row;
    return out.subarray(0, count);
  }

  #passes(row: number, filter: Filter): boolean {
    if (filter.found && !filter.found[row]) return false;
    if (filter.verdict) {
      const wanted = { pending: PENDING, accepted: ACCEPTED, hard: HARD, 'set-aside': ASIDE }[filter.verdict];
      if (this.verdict[row] !== wanted) return false;
    }
    if (filter.label !== undefined && this.label[row] !== (filter.label === 'none' ? NONE : filter.label)) return false;
    if (filter.source && SOURCES[this.source[row] ?? 0] !== filter.source) return false;
    if (filter.votes) {
      if ((this.votes[row * this.k] ?? NONE) === NONE) return false;
      if ((this.common(row) === NONE) !== (filter.votes === 'differ')) return false;
    }
    return true;
  }

  #verdict(row: number, verdict: number): void {
    const old = this.verdict[row] ?? PENDING;
    this.verdict[row] = verdict;
    this.byVerdict[old] = (this.byVerdict[old] ?? 0) - 1;
    this.byVerdict[verdict] = (this.byVerdict[verdict] ?? 0) + 1;
  }

  #final(row: number, label: number, source: number): void {
    const oldLabel = this.label[row] ?? NONE;
    const oldSource = this.source[row] ?? 0;
    if (this.verdict[row] === HARD) this.reviewed += Number(label !== NONE) - Number(oldLabel !== NONE);
    this.label[row] = label;
    this.source[row] = source;
    if (oldLabel !== NONE) this.byLabel[oldLabel] = (this.byLabel[oldLabel] ?? 0) - 1;
    if (label !== NONE) this.byLabel[label] = (this.byLabel[label] ?? 0) + 1;
    this.bySource[oldSource] = (this.bySource[oldSource] ?? 0) - 1;
    this.bySource[source] = (this.bySource[source] ?? 0) + 1;
  }
}

/** A number from 0 to 1 that is a row's own: the finalizer of MurmurHash3 over its number. */
function draw(row: number): number {
  let x = (row + 1) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
}
