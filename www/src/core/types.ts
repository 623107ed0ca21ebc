// The records of the page. Those that cross into wasm or to the server keep the names the crate gives them.

import type { DeviceChoice } from './device';
import type { Probe } from './money';

/** What one SLM says of one text. */
export interface Vote {
  slm: string;
  version: string;
  engine: string;
  precision: string;
  label: string;
  probabilities: number[];
  truncated?: boolean;
}

/** What the votes amount to. */
export type Verdict =
  | { status: 'accepted'; label: string; confidence: number }
  | { status: 'hard'; why: string }
  | { status: 'set-aside'; why: string };

/** What a reviewer said of a hard sample. */
export interface Review {
  label: string | null;
  by: { kind: 'llm'; model: string } | { kind: 'human'; id?: string };
  why?: string;
  prompt_tokens: number;
  completion_tokens: number;
  cost_usd: number;
}

/** Where a final label came from. */
export type Source = 'consensus' | 'llm' | 'human';

/** A row with everything that was said of it, as the exporter takes it. */
export interface Annotation {
  sample: { id: string; text: string };
  votes: Vote[];
  verdict: Verdict;
  review: Review | null;
  label: string | null;
  source: Source | null;
}

/** One file of an SLM, as the server's index names it. */
export interface Shard {
  name: string;
  bytes: number;
  sha256: string;
}

/** One SLM of `/models/index.json`. */
export interface SlmManifest {
  id: string;
  task: string;
  labels: string[];
  version: string;
  base: string;
  precision: string;
  max_length: number;
  bytes: number;
  sha256: string;
  relative_cost: number;
  /** The layers between which it can be cut into parts; none, or absent: it is served whole. */
  layers?: number;
  shards: Shard[];
  tokenizer: Shard;
  metrics?: Record<string, unknown>;
}

/** One row of the file, as the crate's reader gives it. */
export interface Row {
  /** 1-based number of the row, as text. */
  id: string;
  text: string;
  /** The row's own columns, carried through untouched: fields in the header's order, or a JSON object's members as JSON. */
  columns: { fields: string[] } | { members: [string, string][] };
  /** Why the row is not voted on, where it is not. */
  setAside?: string;
}

/** What the crate reads and writes. */
export type Format = 'csv' | 'tsv' | 'jsonl' | 'txt';

/** Rows of one block, in the database. */
export interface RowBlock {
  block: number;
  rows: Row[];
}

/** Votes and verdicts of one block, as columns. */
export interface ResultBlock {
  block: number;
  verdict: Uint8Array;
  label: Uint8Array;
  confidence: Float32Array;
  /** Reasons of the rows that were not accepted, by their place in the block. */
  why: Record<number, string>;
  /** The version of each SLM, in the run's order; none in blocks stored before versions could change in a run. */
  versions?: string[];
  /** One entry an SLM, in the run's order; probabilities are rows x labels. Empty rows hold zeros. */
  votes: { label: Uint8Array; probabilities: Float32Array; truncated: Uint8Array }[];
}

/** A review in the database. */
export interface StoredReview {
  row: number;
  review: Review;
  at: number;
  /** What it replaced, for undo. */
  was?: Review;
  /** The label that the server's pool was given for it. */
  handedIn?: string;
}

/** A review that the server's pool was given and that the person took back. */
export interface Retraction {
  row: number;
  /** As it was handed in. */
  annotation: Annotation;
}

/** A text that leaves the device, as it does. */
export interface Item {
  row: number;
  id: string;
  text: string;
}

/** Texts that the person let be sent to the LLM. The key stays the same over reloads, so it is paid once. */
export interface LlmBatch {
  key: string;
  items: Item[];
  /** `new`: nothing was sent yet; `asked`: it was, and may have been answered; `refused`: it was, and was not. */
  state: 'new' | 'asked' | 'refused' | 'done';
}

/** Texts that left the device. */
export interface Departure {
  at: number;
  /** The LLM, or the pool that the server trains the models on. */
  to: 'llm' | 'pool';
  items: Item[];
}

/** What the person chose: 8-bit integer weights, or the reference in 32-bit floating point. */
export type Precision = 'int8' | 'f32';

/** Who decides the hard samples. `never`: the person does, and nothing is sent in this run, whatever is pressed. */
export type ReviewTo = 'never' | 'person' | 'llm';

/** Which SLM voted, pinned when the run starts. */
export interface PinnedSlm {
  id: string;
  version: string;
  /** What it voted by, once it has; joined by `+` where that changed, as where a GPU failed. */
  engine: string;
  precision: string;
  /** The precision that was chosen: which of its packed files to load. None in runs that began before it was kept. */
  chosen?: Precision;
}

/** Where the run stands, as it is kept over reloads. */
export type RunState = 'ready' | 'running' | 'paused' | 'done' | 'cancelled';

/** The data set and its run. */
export interface Project {
  name: string;
  bytes: number;
  format: Format;
  created: number;
  columns: string[];
  textColumn: string;
  rows: number;
  /** The encoding the person named; none means UTF-8, or what a byte order mark says. */
  encoding?: string;
  /** Why the file could not be read to its end, where it could not: the rows before are there. */
  cut?: string;
  /** How many rows are set aside, and how often for which reason (its code). */
  aside: number;
  asideWhy: Record<string, number>;
  task: string;
  labels: string[];
  slms: PinnedSlm[];
  rule: string;
  reviewTo: ReviewTo;
  /** The person wants hard samples of this run to be sent without being asked again. */
  sendFreely?: boolean;
  /** What the votes on some of the texts showed, before the run. */
  probe?: Probe;
  /** The share of accepted rows that is reviewed all the same; none means none of them. */
  audit?: number;
  /** Whether the person lets the server keep reviewed texts, to train the models on them. */
  handIn?: boolean;
  /** None means int8. */
  precision?: Precision;
  /** None means auto. */
  device?: DeviceChoice;
  state: RunState;
  /** Seconds spent running. */
  seconds: number;
  /** [seconds, accepted, hard] over time. */
  timeline: [number, number, number][];
  /** US dollars and tokens over all of the LLM's replies. */
  spend: Spend;
}

/** What the LLM's replies took. */
export interface Spend {
  calls: number;
  /** Samples that it was asked about. */
  reviews: number;
  prompt_tokens: number;
  completion_tokens: number;
  cost_usd: number;
}

/** Rows a block holds: the unit of work, of storage and of resuming. */
export const BLOCK = 32;

/** Codes of `ResultBlock.verdict` and of the columns in memory. */
export const PENDING = 0;
export const ACCEPTED = 1;
export const HARD = 2;
export const ASIDE = 3;

/** No label. */
export const NONE = 255;
