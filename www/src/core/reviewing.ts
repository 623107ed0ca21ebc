// The hard samples: the person's queue, and the LLM's.
import { signal } from '@preact/signals';
import { ask } from './api';
import type { Columns } from './columns';
import { db } from './db';
import { BATCH, MOST_BYTES, readAnswer, type Outcome } from './llm';
import { messageOf } from './rpc';
import type { Session } from './session';
import { type Item, type LlmBatch, NONE, type Project, type Review, type StoredReview } from './types';

/** Where the LLM reviewer stands; with `budget` it can be asked no more because its budget is used up. */
export interface LlmState {
  state: 'off' | 'idle' | 'asking' | 'waiting' | 'down' | 'budget';
  why: string;
  /** Milliseconds since 1970 until which it waits. */
  until: number;
}

const ME = 'autoannotator-me';

const TRIES = 3;
/** Texts that the person is shown together at most before they are sent. */
const LOOK = 2000;
/** Texts redacted in one go. */
const REDACT = 256;

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
  /** How many texts of the file have left the device, for whatever purpose. */
  readonly departed = signal(0);
  /** Whether the person looks at what is about to be sent. */
  readonly looking = signal(false);

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
    this.#open = batches.filter((batch) => batch.state !== 'done');
    this.#asked = new Set(this.#open.flatMap(rowsOf));
    await this.countDeparted();
  }

  /** Counts what has left the device. */
  async countDeparted(): Promise<void> {
    const departures = await (await db()).getAll('departures');
    this.departed.value = departures.reduce((sum, departure) => sum + departure.items.length, 0);
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
    this.looking.value = false;
    this.llm.value = { state: 'off', why: '', until: 0 };
  }

  // ---- the person ----

  /** Whether a row waits for the person, not for the LLM. */
  isForPerson(row: number, columns: Columns): boolean {
    if (!columns.isOpen(row)) return false;
    const project = this.#session.project.value;
    if (project?.reviewTo !== 'llm' || columns.llmFailed[row] === 1) return true;
    const { state } = this.llm.value;
    return (state !== 'asking' && state !== 'idle') || !(project.sendFreely === true || this.#asked.has(row));
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
    const project = this.#session.project.value;
    const annotation = project?.handIn === undefined ? undefined : await this.#session.handingIn.annotation(last, project);
    const change = (await db()).transaction(['reviews', 'retractions'], 'readwrite');
    const reviews = change.objectStore('reviews');
    const stored = await reviews.get(last.row);
    if (annotation && stored?.handedIn !== undefined && stored.review.by.kind === 'human') await change.objectStore('retractions').add({ row: last.row, annotation });
    if (last.was) await reviews.put({ row: last.row, review: last.was, at: Date.now() });
    else await reviews.delete(last.row);
    await change.done;
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

  /** Whether a row would go to the LLM, but for the person's leave. */
  #isUnsent(row: number, columns: Columns): boolean {
    return columns.isOpen(row) && columns.llmFailed[row] === 0 && !this.#asked.has(row);
  }

  /** How many rows wait for the person's leave to be sent. */
  unsent(columns: Columns): number {
    const project = this.#session.project.value;
    if (project?.reviewTo !== 'llm' || project.sendFreely === true) return 0;
    let rows = 0;
    for (let row = 0; row < columns.rows; row++) if (this.#isUnsent(row, columns)) rows += 1;
    return rows;
  }

  /** The texts that wait for the person's leave, exactly as they would be sent: the first of them, where they are many. */
  async look(columns: Columns): Promise<Item[]> {
    return this.#fitting(await this.#items(this.#unsentRows(columns, LOOK)), columns);
  }

  /** The texts that the server takes; what is too long for it is for the person. */
  #fitting(items: Item[], columns: Columns): Item[] {
    const encoder = new TextEncoder();
    const fits = ({ text }: Item) => encoder.encode(text).length <= MOST_BYTES;
    for (const item of items) if (!fits(item)) columns.llmFailed[item.row] = 1;
    this.#session.changed();
    return items.filter(fits);
  }

  #unsentRows(columns: Columns, most: number): number[] {
    const rows: number[] = [];
    for (let row = 0; row < columns.rows && rows.length < most; row++) if (this.#isUnsent(row, columns)) rows.push(row);
    return rows;
  }

  async #items(rows: number[]): Promise<Item[]> {
    const items: Item[] = [];
    for (let at = 0; at < rows.length; at += REDACT) {
      const some = rows.slice(at, at + REDACT);
      const stored = await Promise.all(some.map((row) => this.#session.row(row)));
      const redacted = await this.#session.redact(stored.map((row) => row?.text ?? ''));
      items.push(...some.map((row, place) => ({ row, id: stored[place]?.id ?? '', text: redacted[place]?.text ?? '' })));
    }
    return items;
  }

  /** The person has seen these texts and lets them be sent; with `freely` also all that become hard later in this run. */
  async send(items: Item[], freely: boolean): Promise<void> {
    const project = this.#session.project.value;
    if (project?.reviewTo !== 'llm') return;
    if (freely) await this.#session.save({ ...project, sendFreely: true });
    const batches: LlmBatch[] = [];
    for (let at = 0; at < items.length; at += BATCH) batches.push({ key: crypto.randomUUID(), items: items.slice(at, at + BATCH), state: 'new' });
    await this.#keep(batches);
    this.#session.changed();
    this.wake();
  }

  async #keep(batches: LlmBatch[]): Promise<void> {
    const change = (await db()).transaction('batches', 'readwrite');
    await Promise.all([...batches.map((batch) => change.store.put(batch)), change.done]);
    this.#open.push(...batches);
    for (const row of batches.flatMap(rowsOf)) this.#asked.add(row);
  }

  /** Takes back the leave to send what was not sent yet, or was refused. */
  async withdraw(): Promise<void> {
    const back = this.#open.filter((batch) => batch.state !== 'asked');
    this.#open = this.#open.filter((batch) => !back.includes(batch));
    const change = (await db()).transaction('batches', 'readwrite');
    await Promise.all([...back.map((batch) => change.store.delete(batch.key)), change.done]);
    for (const row of back.flatMap(rowsOf)) this.#asked.delete(row);
    this.looking.value = false;
    this.#session.changed();
  }

  /** Looks whether there is something to ask the LLM. */
  wake(): void {
    const project = this.#session.project.value;
    if (project?.reviewTo !== 'llm') {
      this.#cut.abort();
      this.#cut = new AbortController();
      this.llm.value = { state: 'off', why: '', until: 0 };
      return;
    }
    const { state } = this.llm.value;
    if (project.state === 'ready' || !this.#session.columns.value || state === 'down' || state === 'budget') return;
    if (state === 'off') this.llm.value = { state: 'idle', why: '', until: 0 };
    if (this.#loop) return;
    if (this.#open.length > 0) this.llm.value = { state: 'asking', why: '', until: 0 };
    const cut = this.#cut.signal;
    const loop = this.#work(cut).finally(() => {
      if (this.#loop !== loop) return;
      this.#loop = undefined;
      if (cut.aborted) this.wake(); // the LLM may have been chosen again meanwhile
    });
    this.#loop = loop;
  }

  /** The person asks to try the LLM again. */
  retry(): void {
    this.#session.dismiss('reviewer-down');
    this.llm.value = { state: 'idle', why: '', until: 0 };
    this.#session.changed();
    this.wake();
  }

  async #work(cut: AbortSignal): Promise<void> {
    for (;;) {
      const batch = await this.#nextBatch();
      if (!batch || cut.aborted) break;
      const outcome = await this.#ask(batch, cut).catch((error: unknown): Outcome => ({ kind: 'down', again: false, why: messageOf(error) }));
      if (cut.aborted) return;
      if (outcome.kind === 'answered') await this.#take(batch, outcome);
      else if (outcome.kind === 'wait') await this.#wait(outcome, cut);
      else return outcome.kind === 'budget' ? this.#broke(outcome.why) : this.#down(outcome.why);
    }
    if (!cut.aborted) this.llm.value = { state: 'idle', why: '', until: 0 };
  }

  /** Waits as long as the LLM asks to; the person can decide these rows meanwhile. */
  async #wait({ why, seconds }: Outcome & { kind: 'wait' }, cut: AbortSignal): Promise<void> {
    this.llm.value = { state: 'waiting', why, until: Date.now() + seconds * 1000 };
    this.#session.changed();
    await sleep(seconds * 1000, cut);
  }

  async #broke(why: string): Promise<void> {
    this.llm.value = { state: 'budget', why, until: 0 };
    this.#session.changed();
    await this.#session.updateServer(); // it knows what was spent
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

  /** The next of the batches that may be sent; where the person need not be asked, also new ones. */
  async #nextBatch(): Promise<LlmBatch | undefined> {
    for (let batch = this.#open[0]; batch; batch = this.#open[0]) {
      const left = await this.#stillOpen(batch);
      if (left) return left;
    }
    const columns = this.#session.columns.value;
    const project = this.#session.project.value;
    if (!columns || project?.sendFreely !== true) return undefined;
    const rows = this.#unsentRows(columns, BATCH);
    if (rows.length === 0 || (project.state === 'running' && rows.length < BATCH)) return undefined; // while it runs, wait for a full batch
    const items = this.#fitting(await this.#items(rows), columns);
    if (items.length === 0) return this.#nextBatch();
    const batch: LlmBatch = { key: crypto.randomUUID(), items, state: 'new' };
    await this.#keep([batch]);
    return batch;
  }

  /** The batch without the rows that the person decided before it was answered; none where no row is left. */
  async #stillOpen(batch: LlmBatch): Promise<LlmBatch | undefined> {
    const columns = this.#session.columns.value;
    if (batch.state === 'asked' || !columns) return batch; // its answer may be paid for
    const items = batch.items.filter((item) => columns.isOpen(item.row));
    return items.length === batch.items.length ? batch : this.#replace(batch, items);
  }

  /** The rest of a batch under a key of its own. */
  async #replace(batch: LlmBatch, items: Item[]): Promise<LlmBatch | undefined> {
    const rest: LlmBatch | undefined = items.length > 0 ? { key: crypto.randomUUID(), items, state: batch.state } : undefined;
    const change = (await db()).transaction('batches', 'readwrite');
    await Promise.all([change.store.delete(batch.key), rest && change.store.put(rest), change.done]);
    this.#open = this.#open.flatMap((one) => (one.key === batch.key ? (rest ?? []) : one));
    const kept = new Set(items.map((item) => item.row));
    for (const row of rowsOf(batch)) if (!kept.has(row)) this.#asked.delete(row);
    return rest;
  }

  /** Writes down how a batch stands; what leaves the device for the first time is written down before it does. */
  async #mark(batch: LlmBatch, state: LlmBatch['state']): Promise<void> {
    const change = (await db()).transaction(['batches', 'departures'], 'readwrite');
    const leaves = batch.state === 'new' && state === 'asked';
    const writes: Promise<unknown>[] = [change.objectStore('batches').put({ ...batch, state })];
    if (leaves) writes.push(change.objectStore('departures').put({ at: Date.now(), to: 'llm', items: batch.items }));
    await Promise.all([...writes, change.done]);
    batch.state = state;
    if (leaves) this.departed.value += batch.items.length;
  }

  async #ask(batch: LlmBatch, cut: AbortSignal): Promise<Outcome> {
    const project = this.#session.project.value;
    if (!project) return { kind: 'down', again: false, why: 'no data set is open' };
    const body = JSON.stringify(requestBody(project, batch.items));
    this.llm.value = { state: 'asking', why: '', until: 0 };
    for (let attempt = 1; ; attempt++) {
      if (batch.state !== 'asked' && this.#open.includes(batch)) await this.#mark(batch, 'asked');
      if (cut.aborted || batch.state !== 'asked') return { kind: 'down', again: false, why: 'it was stopped' };
      const outcome = await this.#post(batch, body, batch.items.map((item) => item.id), project.labels, cut);
      if (cut.aborted || outcome.kind === 'answered') return outcome;
      if (outcome.kind === 'down' && outcome.again) {
        if (attempt >= TRIES) return outcome;
        await sleep(1000 * 2 ** (attempt - 1), cut);
        continue;
      }
      await this.#mark(batch, 'refused');
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
    for (const [at, { row }] of batch.items.entries()) {
      const review = outcome.reviews[at];
      if (!review || (await reviews.get(row))) continue; // not asked about, or a person was faster
      await reviews.put({ row, review, at: Date.now() });
      fresh.push([row, review]);
    }
    const left = batch.items.filter((_, at) => outcome.reviews[at] === undefined);
    if (left.length === 0) await change.objectStore('batches').put({ ...batch, state: 'done' });
    await change.done;
    if (left.length === 0) {
      this.#open = this.#open.filter((open) => open.key !== batch.key);
      for (const row of rowsOf(batch)) this.#asked.delete(row);
    } else {
      await this.#replace({ ...batch, state: 'refused' }, left);
    }
    for (const [row, review] of fresh) await this.#show(row, review);
    await this.#spend(outcome);
  }

  async #spend(outcome: Outcome & { kind: 'answered' }): Promise<void> {
    const { project, server } = this.#session;
    if (!project.value) return;
    const { calls, reviews, prompt_tokens, completion_tokens, cost_usd } = project.value.spend;
    const spend = {
      calls: calls + 1,
      reviews: reviews + outcome.reviews.filter((review) => review !== undefined).length,
      prompt_tokens: prompt_tokens + outcome.spend.prompt_tokens,
      completion_tokens: completion_tokens + outcome.spend.completion_tokens,
      cost_usd: cost_usd + outcome.spend.cost_usd,
    };
    if (outcome.remaining !== null) server.value = { ...server.value, remaining: outcome.remaining };
    await this.#session.save({ ...project.value, spend });
  }
}

function requestBody(project: Project, items: Item[]) {
  return { task: project.task, spec: null, items: items.map(({ id, text }) => ({ id, text })), mode: 'label' };
}

function rowsOf(batch: LlmBatch): number[] {
  return batch.items.map((item) => item.row);
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

