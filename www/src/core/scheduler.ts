// Which worker does what next: loads an SLM, or votes with one. Pure: no clock, no workers.
import { BLOCK } from './types';

/** What is known of an SLM before it has voted. */
export interface Known {
  /** Work a text, relative to the other SLMs. */
  relative: number;
  /** Milliseconds a text, where it was measured on this device before. */
  ms: number | undefined;
  /** Bytes of memory that one copy takes. */
  memory: number;
  /** Its files are on this device: a second copy costs no second download. */
  here: boolean;
}

/** Rows `from` to `to` (exclusive) of a block, for one SLM to vote on. */
export interface Task {
  slm: number;
  block: number;
  from: number;
  to: number;
}

export type Step = { load: number } | { vote: Task };

/** How the work of one SLM stands. */
interface Work {
  known: Known;
  /** What its votes took so far. */
  ms: number;
  rows: number;
  /** The place in `#todo` that is given out next, and its first row that was not. */
  place: number;
  row: number;
  /** To be repeated before anything else, after a crash. */
  again: Task[];
  /** Blocks it has voted on. */
  blocks: number;
  /** Rows without its vote, and how many of them are in no worker's hand. */
  left: number;
  waiting: number;
  loadMs: number;
  /** Loading one more copy failed: those there are must do. */
  enough: boolean;
}

interface Hand {
  holds: Set<number>;
  /** To be loaded, in this order, because no other worker will. */
  first: number[];
  loading: number | undefined;
  tasks: Task[];
}

/** Blocks that an SLM may be in front of the slowest one: the votes that wait for their block to be whole stay few. */
const AHEAD = 12;
/** Milliseconds of work that a worker has in hand at least, so that it does not wait for the page between two tasks. */
const HAND = 60;
const TASKS = 4;
/** A task takes at most this part of the time that is left, lest one worker ends long after the others. */
const SHARE = 1 / 8;
/** Rows and milliseconds below which a task is not split. */
const LEAST_ROWS = 4;
const LEAST_MS = 20;
/** Milliseconds to read a byte from the browser's cache and check it. */
const READ_MS = 5e-6;

/**
 * Gives work to a pool of workers by its measured cost, and puts the votes of a block together. A worker may hold
 * several SLMs. At first each SLM is loaded once, the dearest first, each where the least work is (LPT). A worker whose
 * SLMs have nothing to do loads a copy of another and helps, where that saves more than the loading costs and `memory`
 * bytes are enough.
 */
export class Scheduler<V> {
  readonly #slms: Work[];
  readonly #workers: Hand[];
  #memory: number;
  #todo: number[] = [];
  #rows = 0;
  #done = 0;
  readonly #parts = new Map<number, { rows: number[]; votes: { from: number; votes: V[] }[][] }>();

  constructor(slms: Known[], workers: number, memory: number) {
    this.#slms = slms.map((known) => ({
      known: { ...known },
      ms: 0,
      rows: 0,
      place: 0,
      row: 0,
      again: [],
      blocks: 0,
      left: 0,
      waiting: 0,
      loadMs: known.memory * READ_MS,
      enough: false,
    }));
    this.#workers = Array.from({ length: Math.max(1, workers) }, () => ({ holds: new Set(), first: [], loading: undefined, tasks: [] }));
    this.#memory = memory;
    const load = this.#workers.map(() => 0);
    for (const slm of this.#dearestFirst(slms.keys())) {
      const least = load.indexOf(Math.min(...load));
      load[least] = (load[least] ?? 0) + this.#cost(slm);
      this.#workers[least]?.first.push(slm);
    }
  }

  /** The blocks without a result, in the order to take them, of a file of `rows` rows. */
  give(todo: number[], rows: number): void {
    this.#todo = todo;
    this.#rows = rows;
    const left = todo.reduce((sum, block) => sum + this.#rowsIn(block), 0);
    for (const work of this.#slms) {
      work.left = left;
      work.waiting = left;
    }
  }

  /** What worker `worker` does next, besides what it has in hand; undefined: nothing for now. */
  next(worker: number): Step | undefined {
    const hand = this.#workers[worker];
    if (!hand) return undefined;
    if (hand.loading === undefined) {
      hand.loading = hand.first.shift();
      if (hand.loading !== undefined) return { load: hand.loading };
    }
    if (this.#full(hand)) return undefined;
    const slm = this.#choose(hand);
    if (slm !== undefined) return { vote: this.#take(slm, hand) };
    if (hand.loading === undefined) {
      hand.loading = this.#help(hand);
      if (hand.loading !== undefined) return { load: hand.loading };
    }
    return undefined;
  }

  /** The worker has loaded its SLM, which took `ms` besides bringing its files. */
  loaded(worker: number, ms: number): void {
    const hand = this.#workers[worker];
    const slm = hand?.loading;
    const work = slm === undefined ? undefined : this.#slms[slm];
    if (!hand || slm === undefined || !work) return;
    hand.holds.add(slm);
    hand.loading = undefined;
    work.known.here = true;
    work.loadMs = work.known.memory * READ_MS + ms;
  }

  /** The worker could not load its SLM. True: others hold it, and the run goes on without one more copy. */
  failed(worker: number): boolean {
    const hand = this.#workers[worker];
    const slm = hand?.loading;
    const work = slm === undefined ? undefined : this.#slms[slm];
    if (!hand || slm === undefined || !work) return false;
    hand.loading = undefined;
    work.enough = true;
    return this.holder(slm) !== undefined;
  }

  /** Takes the votes on a task, which took `ms`; gives all votes of its block, SLM by SLM, once it is whole. */
  vote(worker: number, task: Task, votes: V[], ms: number): V[][] | undefined {
    const hand = this.#workers[worker];
    const work = this.#slms[task.slm];
    const place = hand?.tasks.indexOf(task) ?? -1;
    if (!hand || !work || place < 0) return undefined; // given out again after a crash
    hand.tasks.splice(place, 1);
    const rows = task.to - task.from;
    work.ms += ms;
    work.rows += rows;
    work.left -= rows;
    let parts = this.#parts.get(task.block);
    if (!parts) this.#parts.set(task.block, (parts = { rows: this.#slms.map(() => 0), votes: this.#slms.map(() => []) }));
    parts.votes[task.slm]?.push({ from: task.from, votes });
    const seen = (parts.rows[task.slm] ?? 0) + rows;
    parts.rows[task.slm] = seen;
    const all = this.#rowsIn(task.block);
    if (seen === all) work.blocks += 1;
    if (parts.rows.some((count) => count < all)) return undefined;
    this.#parts.delete(task.block);
    this.#done += 1;
    return parts.votes.map((own) => own.sort((a, b) => a.from - b.from).flatMap((part) => part.votes));
  }

  /** The worker died: what it had in hand is given out again, and what it alone held is loaded again by its successor. */
  crashed(worker: number): void {
    const hand = this.#workers[worker];
    if (!hand) return;
    for (const task of hand.tasks) {
      const work = this.#slms[task.slm];
      work?.again.push(task);
      if (work) work.waiting += task.to - task.from;
    }
    for (const work of this.#slms) work.again.sort((a, b) => a.block - b.block || a.from - b.from);
    const had = new Set([...hand.holds, ...hand.first, ...(hand.loading === undefined ? [] : [hand.loading])]);
    this.#workers[worker] = { holds: new Set(), first: [], loading: undefined, tasks: [] };
    const lost = [...had].filter((slm) => this.#copies(slm) === 0);
    (this.#workers[worker] as Hand).first = this.#dearestFirst(lost);
  }

  /** No more copies from now on: memory may be what workers die of. */
  spareMemory(): void {
    this.#memory = 0;
  }

  /** A worker that holds the SLM, where one does. */
  holder(slm: number): number | undefined {
    const found = this.#workers.findIndex((hand) => hand.holds.has(slm));
    return found < 0 ? undefined : found;
  }

  get finished(): boolean {
    return this.#done === this.#todo.length;
  }

  #rowsIn(block: number): number {
    return Math.min(BLOCK, this.#rows - block * BLOCK);
  }

  #dearestFirst(slms: Iterable<number>): number[] {
    return [...slms].sort((a, b) => this.#cost(b) - this.#cost(a) || a - b);
  }

  /** Milliseconds a row: as measured, or by comparison with what is. */
  #cost(slm: number): number {
    const work = this.#slms[slm] as Work;
    if (work.rows > 0) return Math.max(work.ms / work.rows, 1e-3);
    if (work.known.ms !== undefined) return work.known.ms;
    let ms = 0;
    let relative = 0;
    for (const { known, ...other } of this.#slms) {
      if (other.rows === 0 && known.ms === undefined) continue;
      ms += other.rows > 0 ? other.ms / other.rows : (known.ms ?? 0);
      relative += known.relative;
    }
    return work.known.relative * (relative > 0 ? ms / relative : 1);
  }

  /** Milliseconds that are left for each worker, if they share the work well. */
  #leftEach(): number {
    return this.#slms.reduce((sum, work, slm) => sum + work.left * this.#cost(slm), 0) / this.#workers.length;
  }

  /** Copies of an SLM, those that are being loaded, or will be, among them. */
  #copies(slm: number): number {
    return this.#workers.filter((hand) => hand.holds.has(slm) || hand.loading === slm || hand.first.includes(slm)).length;
  }

  #memoryUsed(): number {
    return this.#slms.reduce((sum, work, slm) => sum + work.known.memory * this.#copies(slm), 0);
  }

  #full(hand: Hand): boolean {
    const ms = hand.tasks.reduce((sum, task) => sum + (task.to - task.from) * this.#cost(task.slm), 0);
    if (hand.tasks.length === 0) return false;
    if (hand.tasks.length >= TASKS) return true;
    // Far from the end a second task does no harm, however long it takes.
    return ms >= HAND && (hand.tasks.length > 1 || ms > this.#leftEach() * SHARE);
  }

  /** Of the SLMs in hand that have something to do: the one that fewest others can help with, then the one furthest behind. */
  #choose(hand: Hand): number | undefined {
    const slowest = Math.min(...this.#slms.map((work) => work.blocks));
    const limit = slowest + Math.max(AHEAD, TASKS * this.#workers.length);
    let best: number | undefined;
    let rank = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (const slm of hand.holds) {
      const work = this.#slms[slm] as Work;
      if (work.again.length === 0 && work.place >= Math.min(limit, this.#todo.length)) continue;
      const own = [this.#workers.filter((other) => other.holds.has(slm)).length, work.place] as const;
      if (own[0] > (rank[0] as number) || (own[0] === rank[0] && own[1] >= (rank[1] as number))) continue;
      best = slm;
      rank = [...own];
    }
    return best;
  }

  #take(slm: number, hand: Hand): Task {
    const work = this.#slms[slm] as Work;
    const repeat = work.again.shift();
    const task = repeat ? { ...repeat } : this.#cut(slm, work);
    work.waiting -= task.to - task.from;
    hand.tasks.push(task);
    return task;
  }

  /** The next rows that were never given out: a block, or less where little is left. */
  #cut(slm: number, work: Work): Task {
    const block = this.#todo[work.place] as number;
    const all = this.#rowsIn(block);
    const cost = this.#cost(slm);
    const most = Math.max(LEAST_ROWS, LEAST_MS / cost, (this.#leftEach() * SHARE) / cost);
    // In halves, so that no part is much smaller than the others.
    let rows = BLOCK;
    while (rows > most) rows = Math.ceil(rows / 2);
    const from = work.row;
    const to = Math.min(all, from + rows);
    work.row = to === all ? 0 : to;
    if (to === all) work.place += 1;
    return { slm, block, from, to };
  }

  /** The SLM whose end one more copy brings most forward, if any is worth it. */
  #help(hand: Hand): number | undefined {
    let best: number | undefined;
    let most = 0;
    for (const [slm, work] of this.#slms.entries()) {
      if (hand.holds.has(slm) || work.enough || work.waiting === 0) continue;
      if (!work.known.here || this.#memoryUsed() + work.known.memory > this.#memory) continue;
      const copies = this.#copies(slm);
      const saved = (work.waiting * this.#cost(slm)) / (copies * (copies + 1)) - work.loadMs;
      if (saved <= most) continue;
      best = slm;
      most = saved;
    }
    return best;
  }
}
