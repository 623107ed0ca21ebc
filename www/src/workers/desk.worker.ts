// Everything that touches the rows as a whole, off the page's thread: reading, verdicts, redaction, search, export.
import { builtInSpec, Exporter, redact, RowReader, sniffFormat, verdict } from '#wasm';
import { db } from '../core/db';
import { annotationOf, pack } from '../core/results';
import { messageOf, PageError, serve } from '../core/rpc';
import { guessTextColumn } from '../core/guess';
import { BLOCK, type Format, type Project, type ResultBlock, type Review, type Row, type Vote } from '../core/types';
import { wasm } from './wasm';

/** What a look at the head of a file gives. */
export interface Head {
  format: Format;
  columns: string[];
  rows: Row[];
  textColumn: string;
}

const HEAD = 256 * 1024;
/** Blocks written to the database in one go. */
const WRITE = 32;

async function head(file: Blob, name: string, encoding?: string): Promise<Head> {
  const bytes = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  if (bytes.length === 0) throw new PageError('data-empty', `${name} is empty; choose a file with at least one row`);
  const format = sniffFormat(name, bytes);
  const whole = file.size <= HEAD;
  // Without a text column the reader may refuse; the columns are known all the same once it has seen the header.
  const columns = columnsOf(format, bytes, whole, encoding);
  const textColumn = guessTextColumn(columns.names, columns.rows);
  return { format, columns: columns.names, rows: columns.rows.slice(0, 8), textColumn };
}

function columnsOf(format: Format, bytes: Uint8Array, whole: boolean, encoding: string | undefined): { names: string[]; rows: Row[] } {
  const first = read(format, bytes, whole, undefined, encoding);
  if (!first.error) return { names: first.names, rows: first.rows };
  const column = guessTextColumn(first.names, []);
  if (!column) throw first.error;
  const second = read(format, bytes, whole, column, encoding);
  if (second.error && second.rows.length === 0) throw second.error;
  return { names: second.names, rows: second.rows };
}

function read(format: Format, bytes: Uint8Array, whole: boolean, textColumn: string | undefined, encoding: string | undefined) {
  const reader = new RowReader(format, { ...(textColumn ? { textColumn } : {}), ...(encoding ? { encoding } : {}) });
  let rows: Row[] = [];
  let error: unknown;
  try {
    rows = reader.push(bytes);
    if (whole) rows = rows.concat(reader.finish());
  } catch (thrown) {
    error = thrown;
  }
  let names: string[] = [];
  try {
    names = [...reader.columns];
  } catch {
    // no header was read
  }
  reader.free();
  return { names, rows, error };
}

/** Writes rows to the database block by block. */
class RowWriter {
  #rows: Row[] = [];
  #block = 0;
  count = 0;
  aside = 0;
  asideWhy: Record<string, number> = {};

  async add(rows: Row[]): Promise<void> {
    for (const row of rows) {
      this.count += 1;
      if (row.setAside !== undefined) {
        this.aside += 1;
        const code = row.setAside.split(':', 1)[0] ?? '';
        this.asideWhy[code] = (this.asideWhy[code] ?? 0) + 1;
      }
      this.#rows.push(row);
    }
    while (this.#rows.length >= BLOCK * WRITE) await this.#write(this.#rows.splice(0, BLOCK * WRITE));
  }

  async end(): Promise<void> {
    await this.#write(this.#rows.splice(0));
  }

  async #write(rows: Row[]): Promise<void> {
    const change = (await db()).transaction('rows', 'readwrite', { durability: 'relaxed' });
    const puts: Promise<unknown>[] = [];
    for (let at = 0; at < rows.length; at += BLOCK) {
      puts.push(change.store.put({ block: this.#block++, rows: rows.slice(at, at + BLOCK) }));
    }
    try {
      await Promise.all([...puts, change.done]);
    } catch (error) {
      throw storageError(error);
    }
  }
}

function storageError(error: unknown): unknown {
  if (error instanceof DOMException && error.name === 'QuotaExceededError') {
    return new PageError('quota', 'the browser has no room left for this file. Free disk space, leave private browsing, or split the file');
  }
  return error;
}

/** What to read, and how. */
export interface Import {
  file: Blob;
  format: Format;
  textColumn: string;
  encoding?: string;
}

/** What was read. */
export interface Imported {
  columns: string[];
  rows: number;
  aside: number;
  asideWhy: Record<string, number>;
  cut?: string;
}

/**
 * Reads the file in pieces, however long it is. Where it cannot be read on, the rows before that place are kept, and the
 * reason is given; without any such row it is an error.
 */
async function importFile({ file, format, textColumn, encoding }: Import, progress: (value: { bytes: number; rows: number }) => void): Promise<Imported> {
  const reader = new RowReader(format, { ...(textColumn ? { textColumn } : {}), ...(encoding ? { encoding } : {}) });
  const writer = new RowWriter();
  let cut: string | undefined;
  try {
    let bytes = 0;
    const stream = file.stream().getReader();
    for (;;) {
      const { done, value } = await stream.read();
      const step = take(() => (done ? reader.finish() : reader.push(value)));
      await writer.add(step.rows);
      cut = step.cut;
      if (done || cut !== undefined) break;
      bytes += value.length;
      progress({ bytes, rows: writer.count });
    }
    await writer.end();
    if (writer.count === 0) throw new PageError('data-empty', cut ?? 'the file has no rows; choose one with at least one text');
    const read: Imported = { columns: [...reader.columns], rows: writer.count, aside: writer.aside, asideWhy: writer.asideWhy };
    if (cut !== undefined) read.cut = cut;
    return read;
  } finally {
    reader.free();
  }
}

/** The reader's rows; where it throws, those that came before, and why. */
function take(step: () => Row[]): { rows: Row[]; cut?: string } {
  try {
    return { rows: step() };
  } catch (error) {
    const rows = (error as { rows?: Row[] }).rows;
    if (!Array.isArray(rows)) throw error;
    return { rows, cut: messageOf(error) };
  }
}

serve({
  async spec({ task }: { task: string }) {
    await wasm();
    const spec = builtInSpec(task);
    return { labels: spec.task.labels, slms: spec.slms, rule: spec.rule };
  },

  async head({ file, name, encoding }: { file: Blob; name: string; encoding?: string }): Promise<Head> {
    await wasm();
    return head(file, name, encoding);
  },

  async import(what: Import, progress) {
    await wasm();
    await (await db()).clear('rows');
    let told = 0;
    return importFile(what, (at) => {
      if (performance.now() - told < 100) return;
      told = performance.now();
      progress(at);
    });
  },

  /** Packs the votes of a whole block with their verdicts and stores them. */
  async settle({ block, votes, project }: { block: number; votes: Vote[][]; project: Pick<Project, 'labels' | 'rule'> }): Promise<ResultBlock> {
    await wasm();
    const base = await db();
    const stored = await base.get('rows', block);
    if (!stored) throw new PageError('rows-missing', 'the rows are not in the browser any more; open the file again');
    const result = pack(block, stored.rows, votes, project.labels, (ballot) => verdict(project.rule, ballot));
    try {
      await base.put('results', result);
    } catch (error) {
      throw storageError(error);
    }
    return result;
  },

  /** For each text whether the votes leave it hard, and how many bytes would be sent of it. `votes`: SLM by SLM. */
  async judge({ texts, votes, rule }: { texts: string[]; votes: Vote[][]; rule: string }): Promise<{ hard: boolean; bytes: number }[]> {
    await wasm();
    const encoder = new TextEncoder();
    return texts.map((text, at) => {
      const ballot = votes.flatMap((own) => own[at] ?? []);
      return { hard: verdict(rule, ballot).status === 'hard', bytes: encoder.encode(redact(text).text).length };
    });
  },

  async redact({ texts }: { texts: string[] }) {
    await wasm();
    return texts.map((text) => redact(text));
  },

  /** A few rows as they would be sent: those with something to redact first. */
  async preview({ count }: { count: number }) {
    await wasm();
    const plain: { id: string; text: string; sent: string; hidden: number }[] = [];
    const hiding: typeof plain = [];
    let cursor = await (await db()).transaction('rows').store.openCursor();
    for (let seen = 0; cursor && seen < 1024 && hiding.length < count; cursor = await cursor.continue()) {
      for (const row of cursor.value.rows) {
        seen += 1;
        if (row.setAside !== undefined) continue;
        const redacted = redact(row.text);
        const entry = { id: row.id, text: row.text, sent: redacted.text, hidden: redacted.placeholders.length };
        if (entry.hidden > 0) hiding.push(entry);
        else if (plain.length < count) plain.push(entry);
      }
    }
    return [...hiding, ...plain].slice(0, count);
  },

  /** 1 for every row whose text holds the words, in any case. */
  async search({ words, rows }: { words: string; rows: number }): Promise<Uint8Array> {
    const found = new Uint8Array(rows);
    const wanted = words.toLocaleLowerCase();
    const base = await db();
    const blocks = Math.ceil(rows / BLOCK);
    for (let from = 0; from < blocks; from += WRITE) {
      for (const block of await base.getAll('rows', IDBKeyRange.bound(from, from + WRITE - 1))) {
        block.rows.forEach((row, place) => {
          if (row.text.toLocaleLowerCase().includes(wanted)) found[block.block * BLOCK + place] = 1;
        });
      }
    }
    return found;
  },

  /** The results that are stored, for a page that was reloaded. */
  async recall({ from, to }: { from: number; to: number }): Promise<ResultBlock[]> {
    return (await db()).getAll('results', IDBKeyRange.bound(from, to));
  },

  /** The labelled file. Rows without a result yet are left out, and counted. */
  async export({ format }: { format: 'csv' | 'jsonl' }, progress) {
    await wasm();
    const base = await db();
    const project = await base.get('project', 'current');
    if (!project) throw new PageError('no-data', 'there is nothing to export; open a file first');
    const reviews = new Map<number, Review>((await base.getAll('reviews')).map((stored) => [stored.row, stored.review]));
    const exporter = new Exporter(format, builtInSpec(project.task).task, project.slms.map((slm) => slm.id), project.columns);
    const parts: BlobPart[] = [];
    let left = 0;
    try {
      for (let block = 0; block * BLOCK < project.rows; block++) {
        const [stored, result] = await Promise.all([base.get('rows', block), base.get('results', block)]);
        if (!stored || !result) {
          left += stored?.rows.length ?? 0;
          continue;
        }
        const entries = stored.rows.map((row, place) => ({
          row,
          annotation: annotationOf(row, result, place, reviews.get(block * BLOCK + place), project.slms, project.labels),
        }));
        parts.push(exporter.push(entries) as BlobPart);
        if (block % WRITE === 0) progress(block * BLOCK);
      }
      parts.push(exporter.finish() as BlobPart);
    } finally {
      exporter.free();
    }
    return { blob: new Blob(parts, { type: format === 'csv' ? 'text/csv' : 'application/jsonl' }), left };
  },
});
