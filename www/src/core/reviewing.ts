// The hard samples: the person's queue, and the LLM's.
import { signal } from '@preact/signals';
import { ask } from './api';
import type { Columns } from './columns';
import { db } from './db';
import { BATCH, readAnswer, type Outcome } from './llm';
import { messageOf } from './rpc';
import type { Session } from './session';
import { type LlmBatch, NONE, type Project, type Review, type StoredReview } from './types';

/** Where the LLM reviewer stands. */
export interface LlmState {
  state: 'off' | 'idle' | 'asking' | 'waiting' | 'down';
  why: string;
  /** Milliseconds since 1970 until which it waits. */
  until: number;
}

const ME = 'autoannotator-me';

const TRIES = 3;

/** Who reviews, if they said so; remembered in this browser. */
export const me = signal(globalThis.localStorage?.getItem(ME) ?? '');

export function iAm(name: string): void {
  me.value = name.trim().slice(0, 40);
  localStorage.setItem(ME, me.value);
}

export class Reviewing {
  readonly llm = signal<LlmState>({ state: 'off', why: '', until: 0 });
  /** Rows the person put off in this sitting. */
  readonly skipped = signal<ReadonlySet<number>>(new Set());
  /** How many reviews can be undone. */
  readonly undoable = signal(0);
  /** Texts sent so far, as they were sent; the newest last. */
  readonly sent = signal<{ id: string; text: string }[]>([]);

  readonly #session: Session;
  #undo: StoredReview[] = [];
  /** Rows in an LLM batch that is not done. */
  #asked = new Set<number>();
  #open: LlmBatch[] = [];
  #loop: Promise<void> | undefined;
  #cut = new AbortController();

  constructor(session: Session) {
    this.#session = session;
  }

  /** Puts the stored reviews back, after a reload. */
  async recall(columns: Columns, project: Project): Promise<void> {
    const stored = await this.#session.storedReviews();
    for (const { row, review } of stored) columns.review(row, review, project.labels, columns.label[row] ?? NONE);
    this.#undo = stored.filter((entry) => entry.review.by.kind === 'human').sort((a, b) => a.at - b.at);
    this.undoable.value = this.#undo.length;
    const batches = await (await db()).getAll('batches');
    this.#open = batches.filter((batch) => !batch.done);
    this.#asked = new Set(this.#open.flatMap((batch) => batch.rows));
  }

  forget(): void {
    this.#cut.abort();
    this.#cut = new AbortController();
    this.#loop = undefined;
    this.#undo = [];
    this.#asked = new Set();
    this.#open = [];
    this.skipped.value = new Set();
    this.undoable.value = 0;
    this.sent.value = [];
    this.llm.value = { state: 'off', why: '', until: 0 };
  }

  // ---- the person ----

  /** Whether a row waits for the person, not for the LLM. */
  isForPerson(row: number, columns: Columns): boolean {
    if (!columns.isOpen(row)) return false;
    if (this.#session.project.value?.reviewTo !== 'llm') return true;
    return columns.llmFailed[row] === 1 || this.llm.value.state === 'down' || this.llm.value.state === 'off';
  }

  /** How many rows wait for the person. */
  count(columns: Columns): number {
    if (this.#session.project.value?.reviewTo !== 'llm') return columns.waiting;
    let rows = 0;
    for (let row = 0; row < columns.rows; row++) if (this.isForPerson(row, columns)) rows += 1;
    return rows;
  }

  /** The next row for the person after `after`: those put off come last. */
  next(columns: Columns, after: number): number | undefined {
    const wanted = (row: number) => this.isForPerson(row, columns);
    const skipped = this.skipped.value;
    const find = (passes: (row: number) => boolean): number | undefined => {
      for (let step = 1; step <= columns.rows; step++) {
        const row = (after + step + columns.rows) % columns.rows;
        if (wanted(row) && passes(row)) return row;
      }
      return undefined;
    };
    return find((row) => !skipped.has(row)) ?? find(() => true);
  }

  /** The person's label of a row. */
  async decide(row: number, label: string): Promise<void> {
    const review: Review = { label, by: me.value === '' ? { kind: 'human' } : { kind: 'human', id: me.value }, prompt_tokens: 0, completion_tokens: 0, cost_usd: 0 };
    const base = await db();
    const before = await base.get('reviews', row);
    const stored: StoredReview = { row, review, at: Date.now() };
    if (before) stored.was = before.review;
    await base.put('reviews', stored);
    this.#undo.push(stored);
    this.undoable.value = this.#undo.length;
    await this.#show(row, review);
  }

  skip(row: number): void {
    this.skipped.value = new Set([...this.skipped.value, row]);
  }

  /** Takes the person's last label back; gives the row. */
  async undo(): Promise<number | undefined> {
    const last = this.#undo.pop();
    this.undoable.value = this.#undo.length;
    if (!last) return undefined;
    const base = await db();
    if (last.was) await base.put('reviews', { row: last.row, review: last.was, at: Date.now() });
    else await base.delete('reviews', last.row);
    await this.#show(last.row, last.was ?? null);
    return last.row;
  }

  async #show(row: number, review: Review | null): Promise<void> {
    const { columns, project } = this.#session;
    const consensus = await this.#session.consensus(row);
    if (columns.value && project.value) columns.value.review(row, review, project.value.labels, consensus);
    this.#session.changed();
    this.#session.handingIn.wake();
  }

  // ---- the LLM ----

  /** Looks whether there is something to ask the LLM. */
  wake(): void {
    const project = this.#session.project.value;
    if (project?.reviewTo !== 'llm') {
      this.#cut.abort();
      this.#cut = new AbortController();
      this.llm.value = { state: 'off', why: '', until: 0 };
      return;
    }
    if (project.state === 'ready' || !this.#session.columns.value || this.llm.value.state === 'down') return;
    if (this.llm.value.state === 'off') this.llm.value = { state: 'idle', why: '', until: 0 };
    this.#loop ??= this.#work().finally(() => {
      this.#loop = undefined;
    });
  }

  /** The person asks to try the LLM again. */
  retry(): void {
    this.#session.dismiss('reviewer-down');
    this.llm.value = { state: 'idle', why: '', until: 0 };
    this.wake();
  }

  async #work(): Promise<void> {
    const cut = this.#cut.signal;
    for (;;) {
      const batch = await this.#nextBatch();
      if (!batch || cut.aborted) break;
      const outcome = await this.#ask(batch, cut).catch((error: unknown): Outcome => ({ kind: 'down', again: false, why: messageOf(error) }));
      if (cut.aborted) return;
      if (outcome.kind !== 'answered') {
        this.#down(outcome.why);
        return;
      }
      await this.#take(batch, outcome);
    }
    if (!cut.aborted && this.llm.value.state !== 'down') this.llm.value = { state: 'idle', why: '', until: 0 };
  }

  #down(why: string): void {
    this.llm.value = { state: 'down', why, until: 0 };
    this.#session.notify({
      code: 'reviewer-down',
      kind: 'warn',
      text: `The LLM reviewer does not help at the moment: ${why.replace(/[.]$/, '')}. Its samples wait in your queue; nothing is lost.`,
      action: { label: 'Ask the LLM again', run: () => this.retry() },
    });
    this.#session.changed();
  }

  /** A batch left open by a reload, or a new one of rows nobody was asked about. */
  async #nextBatch(): Promise<LlmBatch | undefined> {
    const left = this.#open[0];
    if (left) return left;
    const columns = this.#session.columns.value;
    if (!columns) return undefined;
    const rows: number[] = [];
    for (let row = 0; row < columns.rows && rows.length < BATCH; row++) {
      if (columns.isOpen(row) && columns.llmFailed[row] === 0 && !this.#asked.has(row)) rows.push(row);
    }
    const running = this.#session.project.value?.state === 'running';
    if (rows.length === 0 || (running && rows.length < BATCH)) return undefined; // while it runs, wait for a full batch
    const batch: LlmBatch = { key: crypto.randomUUID(), rows, done: false };
    await (await db()).put('batches', batch);
    for (const row of rows) this.#asked.add(row);
    this.#open.push(batch);
    return batch;
  }

  async #ask(batch: LlmBatch, cut: AbortSignal): Promise<Outcome> {
    const project = this.#session.project.value;
    if (!project) return { kind: 'down', again: false, why: 'no data set is open' };
    const rows = await Promise.all(batch.rows.map((row) => this.#session.row(row)));
    const redacted = await this.#session.redact(rows.map((row) => row?.text ?? ''));
    const items = rows.map((row, at) => ({ id: row?.id ?? '', text: redacted[at]?.text ?? '' }));
    const body = JSON.stringify(requestBody(project, items));
    for (let attempt = 1; ; attempt++) {
      this.llm.value = { state: 'asking', why: '', until: 0 };
      const outcome = await this.#post(batch, body, items.map((item) => item.id), project.labels, cut);
      if (outcome.kind === 'answered') {
        this.sent.value = [...this.sent.value, ...items].slice(-200);
        return outcome;
      }
      if (cut.aborted) return outcome;
      if (outcome.kind === 'wait') {
        this.llm.value = { state: 'waiting', why: outcome.why, until: Date.now() + outcome.seconds * 1000 };
        await sleep(outcome.seconds * 1000, cut);
        if (attempt < 20) continue;
      }
      if (outcome.kind === 'down' && outcome.again && attempt < TRIES) {
        await sleep(1000 * 2 ** (attempt - 1), cut);
        continue;
      }
      return outcome;
    }
  }

  async #post(batch: LlmBatch, body: string, ids: string[], labels: string[], cut: AbortSignal): Promise<Outcome> {
    try {
      const response = await ask('/v1/review', {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': batch.key },
        body,
        signal: AbortSignal.any([cut, AbortSignal.timeout(120_000)]),
      });
      const answer = { status: response.status, retryAfter: response.headers.get('retry-after'), body: await response.text() };
      return readAnswer(answer, ids, labels, Date.now());
    } catch (error) {
      const late = error instanceof DOMException && error.name === 'TimeoutError';
      return { kind: 'down', again: true, why: late ? 'it gave no answer within two minutes' : 'the server cannot be reached' };
    }
  }

  async #take(batch: LlmBatch, outcome: Outcome & { kind: 'answered' }): Promise<void> {
    const base = await db();
    const change = base.transaction(['reviews', 'batches'], 'readwrite');
    const reviews = change.objectStore('reviews');
    const fresh: [number, Review][] = [];
    for (const [at, row] of batch.rows.entries()) {
      const review = outcome.reviews[at];
      if (!review || (await reviews.get(row))) continue; // a person was faster
      await reviews.put({ row, review, at: Date.now() });
      fresh.push([row, review]);
    }
    await change.objectStore('batches').put({ ...batch, done: true });
    await change.done;
    this.#open = this.#open.filter((open) => open.key !== batch.key);
    for (const row of batch.rows) this.#asked.delete(row);
    for (const [row, review] of fresh) await this.#show(row, review);
    await this.#spend(outcome);
  }

  async #spend(outcome: Outcome & { kind: 'answered' }): Promise<void> {
    const { project, server } = this.#session;
    if (!project.value) return;
    const { calls, prompt_tokens, completion_tokens, cost_usd } = project.value.spend;
    const spend = {
      calls: calls + 1,
      prompt_tokens: prompt_tokens + outcome.spend.prompt_tokens,
      completion_tokens: completion_tokens + outcome.spend.completion_tokens,
      cost_usd: cost_usd + outcome.spend.cost_usd,
    };
    if (outcome.remaining !== null) server.value = { ...server.value, remaining: outcome.remaining };
    await this.#session.save({ ...project.value, spend });
  }
}

function requestBody(project: Project, items: { id: string; text: string }[]) {
  return { task: project.task, spec: null, items, mode: 'label' };
}

function sleep(ms: number, cut: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    cut.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}

