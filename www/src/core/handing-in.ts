// Reviewed hard samples that the person lets the server keep: handed to its pool, redacted, each once a label; and taken out of
// it again where the person takes a label back.
import { signal } from '@preact/signals';
import { ask } from './api';
import { db } from './db';
import { MOST_BYTES } from './llm';
import { annotationOf } from './results';
import type { Session } from './session';
import { ASIDE, BLOCK, type Annotation, type Item, type Project, type StoredReview } from './types';

/** Samples of one request. */
const BATCH = 32;
/** Milliseconds after a review in which another may follow. */
const PAUSE = 5000;
/** Milliseconds after which the server is tried again. */
const AGAIN = 30_000;

export class HandingIn {
  /** Samples handed in so far, as far as this file is concerned; undefined until known. */
  readonly count = signal<number | undefined>(undefined);

  readonly #session: Session;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #busy = false;
  readonly #recorded = new Set<string>();

  constructor(session: Session) {
    this.#session = session;
  }

  /** Whether the server would keep reviewed texts of the file's task. */
  get offered(): boolean {
    const project = this.#session.project.value;
    return project !== null && project.reviewTo !== 'never' && this.#session.server.value.keepsText.includes(project.task);
  }

  /** Looks, in a moment, whether there is something to hand in. */
  wake(after = PAUSE): void {
    if (!this.offered) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#work();
    }, after);
  }

  async #work(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      while ((await this.#retract()) || (await this.#batch()));
      this.#session.dismiss('hand-in');
      this.#busy = false;
    } catch (error) {
      this.#busy = false;
      const why = error instanceof Error ? error.message : String(error);
      this.#session.notify({ code: 'hand-in', kind: 'warn', text: `The server did not take your reviews for its training (${why}). They are kept here.` });
      if (!(error instanceof Refused && error.forGood)) this.wake(AGAIN);
    }
  }

  /** Has some samples taken out again; false once there are none left. */
  async #retract(): Promise<boolean> {
    const project = this.#session.project.value;
    const base = await db();
    const keys = await base.getAllKeys('retractions', undefined, BATCH);
    if (!project || !this.offered || keys.length === 0) return false;
    const open = (await Promise.all(keys.map((key) => base.get('retractions', key)))).flatMap((one) => one ?? []);
    await this.#record(project, open.map(({ row, annotation: { sample } }) => ({ row, id: sample.id, text: sample.text })));
    await send(project.task, { retracted: open.map(({ annotation }) => annotation) });
    const change = base.transaction('retractions', 'readwrite');
    await Promise.all([...keys.map((key) => change.store.delete(key)), change.done]);
    return true;
  }

  /** Hands in some samples; false once there are none left. */
  async #batch(): Promise<boolean> {
    const project = this.#session.project.value;
    if (!project || !this.offered || project.handIn !== true) return false;
    const all = (await (await db()).getAll('reviews')).filter((stored) => stored.review.label !== null);
    const open = all.filter((stored) => stored.handedIn !== stored.review.label).slice(0, BATCH);
    this.count.value = all.filter((stored) => stored.handedIn !== undefined).length;
    if (open.length === 0) return false;
    const annotations = (await Promise.all(open.map((stored) => this.annotation(stored, project)))).flatMap((one, at) => (one ? [{ row: open[at]?.row ?? 0, ...one }] : []));
    if (annotations.length > 0) {
      await this.#record(project, annotations.map(({ row, sample }) => ({ row, id: sample.id, text: sample.text })));
      await send(project.task, { annotations: annotations.map(({ row: _, ...annotation }) => annotation) });
    }
    const change = (await db()).transaction(['reviews', 'retractions'], 'readwrite');
    const reviews = change.objectStore('reviews');
    for (const { row, review } of open) {
      const now = await reviews.get(row);
      const told = annotations.find((one) => one.row === row);
      if (now && review.label !== null && now.review.label === review.label && now.review.by.kind === review.by.kind) {
        await reviews.put({ ...now, handedIn: review.label });
      } else if (told && now?.review.by.kind !== 'human') {
        // Taken back while it was on its way; another label of the person's counts as said last.
        const { row: _, ...annotation } = told;
        await change.objectStore('retractions').add({ row, annotation });
      }
    }
    await change.done;
    return true;
  }

  /** Writes down what leaves the device; what is tried again is written down once. */
  async #record(project: Project, items: Item[]): Promise<void> {
    const keyOf = ({ row, text }: Item) => `${project.created} ${row} ${text}`;
    const fresh = items.filter((item) => !this.#recorded.has(keyOf(item)));
    if (fresh.length === 0) return;
    await (await db()).put('departures', { at: Date.now(), to: 'pool', items: fresh });
    for (const item of fresh) this.#recorded.add(keyOf(item));
    await this.#session.reviewing.countDeparted();
  }

  /** A reviewed sample with its text redacted; nothing else of the row goes along. */
  async annotation({ row, review }: StoredReview, project: Project): Promise<Annotation | undefined> {
    const [source, result] = await Promise.all([this.#session.row(row), this.#session.resultBlock(Math.floor(row / BLOCK))]);
    const place = row % BLOCK;
    if (!source || !result || result.verdict[place] === ASIDE) return undefined;
    const [redacted] = await this.#session.redact([source.text]);
    const bytes = new TextEncoder().encode(redacted?.text ?? '').length;
    if (bytes === 0 || bytes > MOST_BYTES) return undefined; // the server takes no such text
    const annotation = annotationOf(source, result, place, review, project.slms, project.labels);
    return { ...annotation, sample: { id: source.id, text: redacted?.text ?? '' } };
  }
}

/** An answer that is an error. */
class Refused extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }

  /** Asking again as before will not help. */
  get forGood(): boolean {
    return this.status === 401 || this.status === 403 || this.status === 404;
  }
}

/** Samples for the pool, or out of it. */
type Told = { annotations: Annotation[] } | { retracted: Annotation[] };

/** Tells the pool of samples together; where the server finds fault with one, each alone, so that it keeps none of the others back. */
async function send(task: string, told: Told): Promise<void> {
  try {
    await post({ task, annotations: [], ...told });
  } catch (error) {
    if (!(error instanceof Refused && error.status === 400)) throw error;
    const back = 'retracted' in told;
    const all = back ? told.retracted : told.annotations;
    if (all.length === 1) return; // it will never be taken
    for (const one of all) await send(task, back ? { retracted: [one] } : { annotations: [one] });
  }
}

async function post(body: unknown): Promise<void> {
  const response = await ask('/v1/pool', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal: AbortSignal.timeout(30_000) });
  if (response.ok) return;
  const said = (await response.json().catch(() => null)) as { error?: { message?: string } } | null;
  throw new Refused(response.status, said?.error?.message ?? `it answered ${response.status}`);
}
