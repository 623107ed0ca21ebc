// Which worker does what next: loads a unit, which is an SLM or a part of its layers, or runs one. Pure: no clock, no workers.
import { BLOCK } from './types';

/** What is known of a unit before it has run. */
export interface Known {
  /** The unit whose results this one takes, where an SLM is cut: the part in front of it. */
  after?: number;
  /** Work a text, relative to the other units. */
  relative: number;
  /** Milliseconds a text, where it was measured on this device before. */
  ms: number | undefined;
  /** Bytes of memory that one copy takes. */
  memory: number;
  /** Its files are on this device: a second copy costs no second download. */
  here: boolean;
}

/** Rows `from` to `to` (exclusive) of a block, for one unit. */
export interface Task {
  unit: number;
  block: number;
  from: number;
  to: number;
}

export type Step = { load: number } | { vote: Task };

/** How the work of one unit stands. */
interface Work {
  known: Known;
  /** The unit that takes its results. */
  next: number | undefined;
  /** What it took so far. */
  ms: number;
  rows: number;
  /** The place in `#todo` that is given out next, and its first row that was not. */
  place: number;
  row: number;
  /** Before anything else: what the unit in front has done, and what is to be repeated after a crash. */
  again: Task[];
  /** Blocks it has done, and the rows of those that it has done in part. */
  blocks: number;
  seen: Map<number, number>;
  /** Rows that it has not done, and how many of them are in no worker's hand. */
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

/** Blocks that a unit may be in front of the slowest one: the votes that wait for their block to be whole stay few. */
const AHEAD = 12;
/** Tasks that may wait for each worker of the next unit: their hidden states take memory. */
const WAITING = 2;
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
 * several units. At first each is loaded once, the dearest first, each where the least work is (LPT). A worker whose
 * units have nothing to do loads a copy of another and helps, where that brings the end forward by more than the loading
 * takes and `memory` bytes are enough.
 */
export class Scheduler<V> {
  readonly #units: Work[];
  readonly #workers: Hand[];
  #memory: number;
  #todo: number[] = [];
  #rows = 0;
  #done = 0;
  readonly #parts = new Map<number, { rows: number[]; votes: { from: number; votes: V[] }[][] }>();

  constructor(units: Known[], workers: number, memory: number) {
    this.#units = units.map((known) => ({
      known: { ...known },
      next: undefined,
      ms: 0,
      rows: 0,
      place: 0,
      row: 0,
      again: [],
      blocks: 0,
      seen: new Map(),
      left: 0,
      waiting: 0,
      loadMs: known.memory * READ_MS,
      enough: false,
    }));
    for (const [unit, { known }] of this.#units.entries()) {
      const front = known.after === undefined ? undefined : this.#units[known.after];
      if (front) front.next = unit;
    }
    this.#workers = Array.from({ length: Math.max(1, workers) }, () => ({ holds: new Set(), first: [], loading: undefined, tasks: [] }));
    this.#memory = memory;
    const load = this.#workers.map(() => 0);
    for (const unit of this.#dearestFirst(units.keys())) {
      const least = load.indexOf(Math.min(...load));
      load[least] = (load[least] ?? 0) + this.#cost(unit);
      this.#workers[least]?.first.push(unit);
    }
  }

  /** The blocks without a result, in the order to take them, of a file of `rows` rows. */
  give(todo: number[], rows: number): void {
    this.#todo = todo;
    this.#rows = rows;
    const left = todo.reduce((sum, block) => sum + this.#rowsIn(block), 0);
    for (const work of this.#units) {
      work.left = left;
      work.waiting = left;
    }
  }

  /** What worker `worker` does next, besides what it has in hand; undefined: nothing for now. */
  next(worker: number): Step | undefined {
    const hand = this.#workers[worker];
    if (!hand) return undefined;
    if (hand.loading === undefined) {
      hand.loading = this.#first(hand);
      if (hand.loading !== undefined) return { load: hand.loading };
    }
    if (this.#full(hand)) return undefined;
    const unit = this.#choose(hand);
    if (unit !== undefined) return { vote: this.#take(unit, hand) };
    if (hand.loading === undefined) {
      hand.loading = this.#help(hand);
      if (hand.loading !== undefined) return { load: hand.loading };
    }
    return undefined;
  }

  /** The files of a unit, which are those of all parts of its SLM, are on this device. */
  arrived(unit: number): void {
    let first = unit;
    for (let front = this.#units[first]?.known.after; front !== undefined; front = this.#units[front]?.known.after) first = front;
    for (let part = this.#units[first]; part; part = this.#units[part.next ?? -1]) part.known.here = true;
  }

  /** The worker has loaded its unit, which took `ms` besides bringing its files. */
  loaded(worker: number, ms: number): void {
    const hand = this.#workers[worker];
    const unit = hand?.loading;
    const work = unit === undefined ? undefined : this.#units[unit];
    if (!hand || unit === undefined || !work) return;
    hand.holds.add(unit);
    hand.loading = undefined;
    work.loadMs = work.known.memory * READ_MS + ms;
    this.arrived(unit);
  }

  /** The worker could not load its unit. True: others hold it, and the run goes on without one more copy. */
  failed(worker: number): boolean {
    const hand = this.#workers[worker];
    const unit = hand?.loading;
    const work = unit === undefined ? undefined : this.#units[unit];
    if (!hand || unit === undefined || !work) return false;
    hand.loading = undefined;
    work.enough = true;
    return this.holder(unit) !== undefined;
  }

  /** A task was done, which took `ms`, and its results wait for the next unit; gives the task that takes them. */
  pass(worker: number, task: Task, ms: number): Task | undefined {
    const work = this.#finish(worker, task, ms);
    const next = this.#units[work?.next ?? -1];
    if (!work || work.next === undefined || !next) return undefined;
    const following = { ...task, unit: work.next };
    next.again.push(following);
    next.again.sort(inOrder);
    return following;
  }

  /** Takes the votes on a task, which took `ms`; gives all votes of its block, SLM by SLM, once it is whole. */
  vote(worker: number, task: Task, votes: V[], ms: number): V[][] | undefined {
    if (!this.#finish(worker, task, ms)) return undefined;
    let parts = this.#parts.get(task.block);
    if (!parts) this.#parts.set(task.block, (parts = { rows: this.#units.map(() => 0), votes: this.#units.map(() => []) }));
    parts.votes[task.unit]?.push({ from: task.from, votes });
    parts.rows[task.unit] = (parts.rows[task.unit] ?? 0) + task.to - task.from;
    const all = this.#rowsIn(task.block);
    const voters = this.#units.flatMap((work, unit) => (work.next === undefined ? [unit] : []));
    if (voters.some((unit) => (parts.rows[unit] ?? 0) < all)) return undefined;
    this.#parts.delete(task.block);
    this.#done += 1;
    return voters.map((unit) => (parts.votes[unit] ?? []).sort((a, b) => a.from - b.from).flatMap((part) => part.votes));
  }

  /** The worker died: what it had in hand is given out again, and what it alone held is loaded again by its successor. */
  crashed(worker: number): void {
    const hand = this.#workers[worker];
    if (!hand) return;
    for (const task of hand.tasks) {
      const work = this.#units[task.unit];
      work?.again.push(task);
      if (work) work.waiting += task.to - task.from;
    }
    for (const work of this.#units) work.again.sort(inOrder);
    const had = new Set([...hand.holds, ...hand.first, ...(hand.loading === undefined ? [] : [hand.loading])]);
    this.#workers[worker] = { holds: new Set(), first: [], loading: undefined, tasks: [] };
    const lost = [...had].filter((unit) => this.#copies(unit) === 0);
    (this.#workers[worker] as Hand).first = this.#dearestFirst(lost);
  }

  /** No more copies from now on: memory may be what workers die of. */
  spareMemory(): void {
    this.#memory = 0;
  }

  /** A worker that holds the unit, where one does. */
  holder(unit: number): number | undefined {
    const found = this.#workers.findIndex((hand) => hand.holds.has(unit));
    return found < 0 ? undefined : found;
  }

  get finished(): boolean {
    return this.#done === this.#todo.length;
  }

  #rowsIn(block: number): number {
    return Math.min(BLOCK, this.#rows - block * BLOCK);
  }

  #dearestFirst(units: Iterable<number>): number[] {
    return [...units].sort((a, b) => this.#cost(b) - this.#cost(a) || a - b);
  }

  /** What the worker is to load because no other will; a part behind another once their files are here, and until then what else there is. */
  #first(hand: Hand): number | undefined {
    const at = hand.first.findIndex((unit) => {
      const known = this.#units[unit]?.known;
      return known?.after === undefined || known.here;
    });
    return at < 0 ? undefined : hand.first.splice(at, 1)[0];
  }

  /** Takes a task out of the worker's hand; undefined: it was given out again after a crash. */
  #finish(worker: number, task: Task, ms: number): Work | undefined {
    const hand = this.#workers[worker];
    const work = this.#units[task.unit];
    const place = hand?.tasks.indexOf(task) ?? -1;
    if (!hand || !work || place < 0) return undefined;
    hand.tasks.splice(place, 1);
    const rows = task.to - task.from;
    work.ms += ms;
    work.rows += rows;
    work.left -= rows;
    const seen = (work.seen.get(task.block) ?? 0) + rows;
    work.seen.set(task.block, seen);
    if (seen === this.#rowsIn(task.block)) {
      work.seen.delete(task.block);
      work.blocks += 1;
    }
    return work;
  }

  /** Milliseconds a row: as measured, or by comparison with what is. */
  #cost(unit: number): number {
    const work = this.#units[unit] as Work;
    if (work.rows > 0) return Math.max(work.ms / work.rows, 1e-3);
    if (work.known.ms !== undefined) return work.known.ms;
    let ms = 0;
    let relative = 0;
    for (const { known, ...other } of this.#units) {
      if (other.rows === 0 && known.ms === undefined) continue;
      ms += other.rows > 0 ? other.ms / other.rows : (known.ms ?? 0);
      relative += known.relative;
    }
    return work.known.relative * (relative > 0 ? ms / relative : 1);
  }

  /** Milliseconds that are left for each worker, if they share the work well. */
  #leftEach(): number {
    return this.#units.reduce((sum, work, unit) => sum + work.left * this.#cost(unit), 0) / this.#workers.length;
  }

  #has(hand: Hand, unit: number): boolean {
    return hand.holds.has(unit) || hand.loading === unit || hand.first.includes(unit);
  }

  /** Copies of a unit, those that are being loaded, or will be, among them. */
  #copies(unit: number): number {
    return this.#workers.filter((hand) => this.#has(hand, unit)).length;
  }

  #memoryUsed(): number {
    return this.#units.reduce((sum, work, unit) => sum + work.known.memory * this.#copies(unit), 0);
  }

  #full(hand: Hand): boolean {
    const ms = hand.tasks.reduce((sum, task) => sum + (task.to - task.from) * this.#cost(task.unit), 0);
    if (hand.tasks.length === 0) return false;
    if (hand.tasks.length >= TASKS) return true;
    // Far from the end a second task does no harm, however long it takes.
    return ms >= HAND && (hand.tasks.length > 1 || ms > this.#leftEach() * SHARE);
  }

  /** Of the units in hand that have something to do: the one that fewest others can help with, then the one furthest behind. */
  #choose(hand: Hand): number | undefined {
    const slowest = Math.min(...this.#units.map((work) => work.blocks));
    const limit = slowest + Math.max(AHEAD, TASKS * this.#workers.length);
    let best: number | undefined;
    let rank = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (const unit of hand.holds) {
      const work = this.#units[unit] as Work;
      if (!this.#canGoOn(work, limit)) continue;
      const own = [this.#holders(unit), work.known.after === undefined ? work.place : work.blocks] as const;
      if (own[0] > (rank[0] as number) || (own[0] === rank[0] && own[1] >= (rank[1] as number))) continue;
      best = unit;
      rank = [...own];
    }
    return best;
  }

  #holders(unit: number): number {
    return this.#workers.filter((hand) => hand.holds.has(unit)).length;
  }

  #canGoOn(work: Work, limit: number): boolean {
    if (work.again.length > 0) return true;
    if (work.known.after !== undefined || work.place >= Math.min(limit, this.#todo.length)) return false;
    for (let part = work; part.next !== undefined; part = this.#units[part.next] as Work) {
      if ((this.#units[part.next] as Work).again.length >= WAITING * Math.max(1, this.#holders(part.next))) return false;
    }
    return true;
  }

  #take(unit: number, hand: Hand): Task {
    const work = this.#units[unit] as Work;
    const repeat = work.again.shift();
    const task = repeat ? { ...repeat } : this.#cut(unit, work);
    work.waiting -= task.to - task.from;
    hand.tasks.push(task);
    return task;
  }

  /** The next rows that were never given out: a block, or less where little is left. */
  #cut(unit: number, work: Work): Task {
    const block = this.#todo[work.place] as number;
    const all = this.#rowsIn(block);
    const cost = this.#cost(unit);
    const most = Math.max(LEAST_ROWS, LEAST_MS / cost, (this.#leftEach() * SHARE) / cost);
    // In halves, so that no part is much smaller than the others.
    let rows = BLOCK;
    while (rows > most) rows = Math.ceil(rows / 2);
    const from = work.row;
    const to = Math.min(all, from + rows);
    work.row = to === all ? 0 : to;
    if (to === all) work.place += 1;
    return { unit, block, from, to };
  }

  /** The unit of which one more copy, here, brings the end forward by more than it takes to load; of several the smallest. */
  #help(hand: Hand): number | undefined {
    // What is missing for now may be all that there is to wait for.
    if (this.#units.some((_, unit) => this.#holders(unit) === 0)) return undefined;
    const now = this.#ends();
    const worth = [...this.#units.entries()].flatMap(([unit, work]) => {
      if (this.#has(hand, unit) || work.enough || work.waiting === 0) return [];
      if (!work.known.here || this.#memoryUsed() + work.known.memory > this.#memory) return [];
      const saved = now - this.#ends(hand, unit) - work.loadMs;
      return saved > 0 ? [{ unit, saved, memory: work.known.memory }] : [];
    });
    const most = Math.max(...worth.map(({ saved }) => saved));
    return worth.filter(({ saved }) => saved >= most / 2).sort((a, b) => a.memory - b.memory || b.saved - a.saved)[0]?.unit;
  }

  /**
   * Milliseconds until the rows that are in no worker's hand are done, each unit's shared as well as can be by the workers that
   * hold it, `hand` holding `more` as well: the largest, over all sets of workers, of the work that no other can do, divided
   * by their number.
   */
  #ends(hand?: Hand, more?: number): number {
    const work = this.#units.map(({ waiting }, unit) => ({
      ms: waiting * this.#cost(unit),
      holders: this.#workers.reduce((bits, one, at) => (this.#has(one, unit) || (one === hand && unit === more) ? bits | (1 << at) : bits), 0),
    }));
    let longest = 0;
    for (let some = 1; some < 1 << this.#workers.length; some++) {
      let count = 0;
      for (let bits = some; bits > 0; bits &= bits - 1) count += 1;
      const alone = work.reduce((sum, { ms, holders }) => ((holders & ~some) === 0 ? sum + ms : sum), 0);
      longest = Math.max(longest, alone / count);
    }
    return longest;
  }
}

function inOrder(a: Task, b: Task): number {
  return a.block - b.block || a.from - b.from;
}
