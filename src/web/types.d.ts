/** What is thrown: its message starts with the code. */
export interface AutoannotatorError extends Error { code: string }

/** One label of a task. */
export interface Label { name: string; aliases?: string[]; definition?: string }

/** What is to be labelled. */
export interface Task { name: string; labels: Label[] }

/** One text; its id is the 1-based number of its row. */
export interface Sample { id: string; text: string }

/** What one SLM says of one sample; `truncated` is absent where it is false, `label` is empty where it finds none of the task's. */
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
  | { status: "accepted"; label: string; confidence: number }
  | { status: "hard"; why: string }
  | { status: "set-aside"; why: string };

/** Who reviewed a hard sample. */
export type ReviewedBy = { kind: "llm"; model: string } | { kind: "human"; id?: string };

/** What a reviewer said of a hard sample. */
export interface Review {
  label: string | null;
  by: ReviewedBy;
  why?: string;
  prompt_tokens: number;
  completion_tokens: number;
  cost_usd: number;
}

/** Where a final label came from. */
export type Source = "consensus" | "llm" | "human";

/** A sample with everything that was said of it. */
export interface Annotation {
  sample: Sample;
  votes: Vote[];
  verdict: Verdict;
  review: Review | null;
  label: string | null;
  source: Source | null;
}

/** When the votes make a label. */
export type Rule = "unanimous" | "majority";

/** What the labels of an SLM are in the task; thresholds and `none` are for one that may give a text several labels. */
export interface LabelMap {
  labels?: Record<string, string>;
  threshold?: number;
  thresholds?: Record<string, number>;
  none?: string;
}

/** Labels of the model that are none of the task, and labels of the task that the model never names. */
export interface Uncovered { model: string[]; task: string[] }

/** The pipeline of one task. */
export interface Spec {
  task: Task;
  slms: string[];
  label_map?: Record<string, LabelMap>;
  rule: Rule;
  review: {
    to: "none" | "person" | "llm";
    url?: string;
    redact: boolean;
    names?: string[];
    keep_text: boolean;
    usd_per_million?: { prompt: number; completion: number };
    style?: "few-shot" | "chain-of-thought";
    batch?: number;
    screen?: false;
    examples?: { text: string; label: string }[];
  };
  tune: { pool: number };
  export: { format: "csv" | "jsonl" };
}

/** The format of a data file. */
export type Format = "csv" | "tsv" | "jsonl" | "txt";

/** How to read a file: the column of its texts (a likely one if absent), its encoding (UTF-8, or what a byte order mark says). */
export interface ReaderOptions { textColumn?: string; encoding?: string }

/** The row's own columns: fields in the header's order, or a JSON object's members with their values as JSON. */
export type Columns = { fields: string[] } | { members: [string, string][] };

/** One row of a data file. */
export interface Row {
  /** Its 1-based number, as text. */
  id: string;
  /** Its text; empty where it cannot be read. */
  text: string;
  columns: Columns;
  /** Why it is not voted on, where it is not. */
  setAside?: string;
}

/** A row with its annotation, for the export. */
export interface LabelledRow { row: Row; annotation: Annotation }

/** What a placeholder stands for. */
export type RedactedKind =
  | "email" | "phone" | "url" | "handle" | "card" | "iban" | "ip" | "mac" | "national-id" | "key" | "digits" | "name";

/** A text that may leave, and what was replaced in it, in its order. The same datum has the same placeholder. */
export interface Redacted { text: string; placeholders: { placeholder: string; kind: RedactedKind; original: string }[] }

/** What reviews cost. */
export interface ReviewCost { calls: number; prompt_tokens: number; completion_tokens: number; cost_usd: number }

/** Scores against gold labels. */
export interface Score { accuracy: number; macro_f1: number }

/** What a run amounts to; scores only with gold labels. */
export interface Report {
  rows: number;
  accepted: number;
  hard: number;
  set_aside: { rows: number; reasons: Record<string, number> };
  coverage: number;
  truncated: number;
  gold?: { rows: number; unknown: number };
  slms: ({ id: string } & Partial<Score>)[];
  majority?: Score;
  consensus: { accuracy_on_accepted?: number | null; coverage: number };
  final: Partial<Score> & { hard_without_review: number; note?: string };
  unanimous_wrong?: number;
  review: ReviewCost;
  seconds: number;
  texts_per_second: number;
}
