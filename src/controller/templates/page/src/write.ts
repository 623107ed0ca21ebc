// Labelled rows to files, with the columns that `autoannotator annotate` writes.
import type { Annotation } from 'autoannotator/worker';
import Papa from 'papaparse';
import { names, project } from './project.js';
import type { Table } from './read.js';

type Cell = string | number | boolean | null;

export function csv(table: Table, annotations: (Annotation | undefined)[]): string {
  const fields = [...table.columns, ...ours(table.columns)];
  const data = table.rows.map((row, at) => [...table.columns.map((_, column) => row[column] ?? ''), ...cells(annotations[at])]);
  return `${Papa.unparse({ fields, data }, { newline: '\n' })}\n`;
}

export function jsonl(table: Table, annotations: (Annotation | undefined)[]): string {
  const columns = distinct(table.columns);
  const added = ours(columns);
  const lines = table.rows.map((row, at) => {
    const before = table.objects?.[at] ?? Object.fromEntries(columns.map((column, place) => [column, row[place] ?? '']));
    const found = cells(annotations[at]);
    return JSON.stringify({ ...before, ...Object.fromEntries(added.map((name, place) => [name, found[place]])) });
  });
  return `${lines.join('\n')}\n`;
}

/** The names of the columns that are added; one that the file has already begins with aa_. */
function ours(columns: string[]): string[] {
  const votes = project.spec.slms.flatMap((slm) => [`${slm}.label`, ...names.map((label) => `${slm}.p.${label}`), ...['version', 'engine', 'precision', 'truncated'].map((name) => `${slm}.${name}`)]);
  const reviews = ['by', 'model', 'label', 'why', 'prompt_tokens', 'completion_tokens', 'cost_usd'].map((name) => `review.${name}`);
  return ['label', 'source', 'verdict', 'why', 'confidence', ...votes, ...reviews].map((name) => {
    let free = name;
    while (columns.includes(free)) free = `aa_${free}`;
    return free;
  });
}

/** The values of those columns. */
function cells(annotation: Annotation | undefined): Cell[] {
  const { verdict, review } = annotation ?? {};
  const votes = project.spec.slms.flatMap((slm): Cell[] => {
    const vote = annotation?.votes.find((one) => one.slm === slm);
    if (!vote) return Array<null>(names.length + 5).fill(null);
    return [vote.label, ...names.map((_, at) => vote.probabilities[at] ?? null), vote.version, vote.engine, vote.precision, vote.truncated ?? false];
  });
  const by = review?.by;
  return [
    annotation?.label ?? null,
    annotation?.source ?? null,
    verdict?.status ?? null,
    verdict && 'why' in verdict ? verdict.why : null,
    verdict?.status === 'accepted' ? verdict.confidence : null,
    ...votes,
    by?.kind ?? null,
    (by?.kind === 'llm' ? by.model : by?.id) ?? null,
    review?.label ?? null,
    review?.why ?? null,
    review?.prompt_tokens ?? null,
    review?.completion_tokens ?? null,
    review?.cost_usd ?? null,
  ];
}

/** Columns of one name cannot be the members of one object. */
function distinct(columns: string[]): string[] {
  const seen = new Set<string>();
  return columns.map((column) => {
    let name = column;
    for (let number = 2; seen.has(name); number++) name = `${column}.${number}`;
    seen.add(name);
    return name;
  });
}

/** Has the browser save a file. */
export function save(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
