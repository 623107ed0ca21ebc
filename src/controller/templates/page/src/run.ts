// The state of the page: a table, an annotation a row, and who reviews what is hard.
import { type Annotation, Annotator, type Progress } from 'autoannotator/worker';
import { names, project, reviewUrl } from './project.js';
import type { Table } from './read.js';

export type Phase = 'loading' | 'running' | 'idle';

export interface Counts {
  agreed: number;
  /** Hard, and nobody has labelled them yet. */
  open: number;
  reviewed: number;
  aside: number;
  /** Rows with an annotation. */
  done: number;
}

interface Told {
  progress(progress: Progress): void;
  /** A row was labelled, or its label taken back. */
  note(row: number, annotation: Annotation): void;
  /** Something has changed. */
  changed(): void;
  reviewError(error: Error): void;
}

export class Run {
  readonly table: Table;
  readonly column: number;
  readonly annotations: (Annotation | undefined)[];
  phase: Phase = 'idle';
  /** The models of the last run. */
  models = '';
  readonly counts: Counts = { agreed: 0, open: 0, reviewed: 0, aside: 0, done: 0 };
  readonly #told: Told;
  #annotator: Annotator | undefined;
  #cut = new AbortController();
  /** Rows that wait for a person, in the order in which they are shown. */
  readonly #queue: number[] = [];
  /** What a person decided, for undoing. */
  readonly #decided: { row: number; before: Annotation }[] = [];

  /** `before` is what an earlier visit left. */
  constructor(table: Table, column: number, told: Told, before: Iterable<[number, Annotation]> = []) {
    this.table = table;
    this.column = column;
    this.annotations = Array<Annotation | undefined>(table.rows.length).fill(undefined);
    this.#told = told;
    for (const [row, annotation] of before) this.#take(row, annotation);
  }

  text(row: number): string {
    return this.table.rows[row]?.[this.column] ?? '';
  }

  get total(): number {
    return this.table.rows.length;
  }

  /** The row that a person should label next. */
  get next(): number | undefined {
    return this.#queue[0];
  }

  get undoable(): boolean {
    return this.#decided.length > 0;
  }

  /** Labels the rows that have no annotation yet, until it is stopped. Whether it came to the end. */
  async start(token: string | undefined, send: boolean): Promise<boolean> {
    this.#cut = new AbortController();
    const { signal } = this.#cut;
    const rows = this.annotations.flatMap((annotation, row) => (annotation ? [] : [row]));
    try {
      this.phase = 'loading';
      this.#told.changed();
      const annotator = (this.#annotator ??= await this.#load(signal, token, send));
      const { slms, device, build } = await annotator.info();
      this.models = `${slms.map(({ id, version, precision }) => `${id} ${version} (${precision})`).join(', ')}, on the ${device === 'gpu' ? 'GPU' : `CPU (${build})`}`;
      this.phase = 'running';
      this.#told.changed();
      let at = 0;
      const samples = rows.map((row) => ({ id: String(row + 1), text: this.text(row) }));
      for await (const annotation of annotator.annotate(samples, { signal })) {
        signal.throwIfAborted();
        const row = rows[at++] as number;
        this.#take(row, annotation);
        this.#told.note(row, annotation);
        this.#told.changed();
      }
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      this.#dispose();
      throw error;
    } finally {
      this.phase = 'idle';
      this.#told.changed();
    }
  }

  stop(): void {
    this.#cut.abort();
  }

  /** Ends it for good. */
  end(): void {
    this.stop();
    this.#dispose();
  }

  /** A person's label of the row that is next. */
  decide(label: string): void {
    const row = this.#queue[0];
    const before = row === undefined ? undefined : this.annotations[row];
    if (row === undefined || !before || !names.includes(label)) return;
    this.#queue.shift();
    this.#decided.push({ row, before });
    const review = { label, by: { kind: 'human' as const }, prompt_tokens: 0, completion_tokens: 0, cost_usd: 0 };
    const annotation: Annotation = { ...before, review, label, source: 'human' };
    this.annotations[row] = annotation;
    this.#told.note(row, annotation);
    this.counts.open -= 1;
    this.counts.reviewed += 1;
    this.#told.changed();
  }

  /** Puts the row that is next off to the end. */
  skip(): void {
    const row = this.#queue.shift();
    if (row !== undefined) this.#queue.push(row);
    this.#told.changed();
  }

  /** Takes the last decision back. */
  undo(): number | undefined {
    const last = this.#decided.pop();
    if (!last) return undefined;
    this.annotations[last.row] = last.before;
    this.#told.note(last.row, last.before);
    this.#queue.unshift(last.row);
    this.counts.open += 1;
    this.counts.reviewed -= 1;
    this.#told.changed();
    return last.row;
  }

  #load(signal: AbortSignal, token: string | undefined, send: boolean): Promise<Annotator> {
    const endpoint = send && reviewUrl ? { url: reviewUrl, ...(token ? { token } : {}) } : 'none';
    return Annotator.load({
      spec: project.spec,
      models: project.models,
      reviewer: endpoint,
      signal,
      onProgress: (progress) => this.#told.progress(progress),
      onReviewError: (error) => this.#told.reviewError(error),
    });
  }

  #dispose(): void {
    this.#annotator?.dispose();
    this.#annotator = undefined;
  }

  #take(row: number, annotation: Annotation): void {
    this.annotations[row] = annotation;
    this.counts.done += 1;
    if (annotation.verdict.status === 'accepted') this.counts.agreed += 1;
    else if (annotation.verdict.status === 'set-aside') this.counts.aside += 1;
    else if (annotation.label !== null) this.counts.reviewed += 1;
    else {
      this.counts.open += 1;
      this.#queue.push(row);
    }
  }
}
