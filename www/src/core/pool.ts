// The workers that vote: hired, given work, replaced when they die. What they do next the scheduler says.
import type { Signal } from '@preact/signals';
import type { Device } from './device';
import { bytesOf } from './download';
import { codeOf, messageOf, PageError, Remote } from './rpc';
import { type Known, Scheduler, type Task } from './scheduler';
import type { SlmManifest, Vote } from './types';
import type { Build } from '../workers/engine';

/** Where an SLM's loading stands; it is ready once one worker holds it. */
export interface Loading {
  id: string;
  state: 'waiting' | 'downloading' | 'loading' | 'ready' | 'failed';
  here: number;
  total: number;
}

/** What a worker answers to `vote`. `start`: milliseconds since 1970; `ms`: how long the SLM took. */
export interface Voted {
  votes: Vote[];
  texts: number;
  start: number;
  ms: number;
}

/** What a worker answers to `load`. `ms`: reading, checking and loading the files, without their download. */
export interface Loaded {
  ms: number;
  build: Build;
}

/** What the pool tells the run. */
export interface Events {
  /** All SLMs have voted on a block. */
  whole(block: number, votes: Vote[][]): Promise<void>;
  /** A worker has loaded an SLM, and votes with this build of the wasm. */
  loaded(build: Build): void;
  /** A worker died and another took its place. */
  restarted(why: string): void;
  /** The pool cannot go on. */
  failed(error: unknown): void;
}

/** Deaths of workers that a run bears. */
const CRASHES = 3;
/** More workers than this would wait for memory, not for a core. */
const MOST_WORKERS = 8;

/** Workers of a pool: one a core, or one that keeps the GPU busy. */
export function workersOf(cores: number | undefined, device: Device): number {
  return device === 'gpu' ? 1 : Math.max(1, Math.min(MOST_WORKERS, cores ?? 2));
}

/** Bytes that the SLMs may take in memory, copies and all: a quarter of the device's, which only some browsers tell. */
export function memoryBudget(deviceGiB: number | undefined): number {
  return ((deviceGiB ?? 4) / 4) * 2 ** 30;
}

/** Bytes that one copy of an SLM takes in memory: half-precision weights are widened to f32. */
export function memoryOf(slm: SlmManifest): number {
  return slm.precision === 'f16' ? 2 * slm.bytes : slm.bytes;
}

export class Pool {
  readonly manifests: SlmManifest[];
  readonly device: Device;
  /** Resolves once every SLM can vote. */
  readonly ready: Promise<void>;
  #isReady: () => void = () => undefined;
  #isLost: (error: unknown) => void = () => undefined;
  readonly loads: Signal<Loading[]>;
  readonly #events: Events;
  readonly #scheduler: Scheduler<Vote>;
  readonly #remotes: (Remote | undefined)[];
  readonly #busy: { texts: number; ms: number }[];
  #going = true;
  #stopped = false;
  #crashes = 0;

  /** `rates`: texts a second of each SLM, where it was measured; `here`: whether its files are on this device. */
  constructor(manifests: SlmManifest[], device: Device, rates: (number | undefined)[], here: boolean[], loads: Signal<Loading[]>, events: Events) {
    this.manifests = manifests;
    this.device = device;
    this.loads = loads;
    this.#events = events;
    const known = manifests.map((slm, at): Known => {
      const rate = rates[at];
      return { relative: slm.relative_cost, ms: rate === undefined ? undefined : 1000 / rate, memory: memoryOf(slm), here: here[at] ?? false };
    });
    const { hardwareConcurrency, deviceMemory } = navigator as Navigator & { deviceMemory?: number };
    this.#remotes = Array.from({ length: workersOf(hardwareConcurrency, device) }, () => undefined);
    this.#scheduler = new Scheduler(known, this.#remotes.length, memoryBudget(deviceMemory));
    this.#busy = manifests.map(() => ({ texts: 0, ms: 0 }));
    this.ready = new Promise((resolve, reject) => {
      this.#isReady = resolve;
      this.#isLost = reject;
    });
    this.ready.catch(() => undefined); // whoever waits for it is told; so is `failed`
    loads.value = manifests.map((slm) => ({ id: slm.id, state: 'waiting', here: 0, total: bytesOf(slm) }));
    this.#pumpAll();
  }

  /** Whether these SLMs, in these versions, are the pool's, on this device. */
  holds(manifests: SlmManifest[], device: Device): boolean {
    return this.device === device && this.manifests.length === manifests.length && manifests.every((slm, at) => this.manifests[at]?.id === slm.id && this.manifests[at]?.version === slm.version);
  }

  /** Votes on these blocks of a file of `rows` rows, or goes on with it: a pool does one run. */
  run(todo: number[], rows: number): void {
    if (this.#scheduler.finished) this.#scheduler.give(todo, rows);
    this.#going = true;
    this.#pumpAll();
  }

  /** Gives out no more work; what is in hand is finished. */
  pause(): void {
    this.#going = false;
  }

  /** Texts a second of SLM `slm` on these texts, in a worker that holds it. */
  async measure(slm: number, texts: string[]): Promise<number> {
    return this.#holder(slm).call<number>('measure', { slm, texts });
  }

  /** What SLM `slm` says of these texts, besides any run. */
  async probe(slm: number, texts: string[]): Promise<Vote[]> {
    return this.#holder(slm).call<Vote[]>('probe', { slm, texts });
  }

  #holder(slm: number): Remote {
    const remote = this.#remotes[this.#scheduler.holder(slm) ?? -1];
    if (!remote) throw new PageError('slm-not-loaded', 'the model is not loaded; press retry');
    return remote;
  }

  /** Texts a second of each SLM over what it voted on, where that is enough to tell. */
  rates(): (number | undefined)[] {
    return this.#busy.map(({ texts, ms }) => (texts < 16 ? undefined : (texts * 1000) / Math.max(1, ms)));
  }

  stop(): void {
    this.#stopped = true;
    for (const remote of this.#remotes) remote?.stop();
    this.loads.value = [];
  }

  #pumpAll(): void {
    for (let worker = 0; worker < this.#remotes.length; worker++) this.#pump(worker);
  }

  #pump(worker: number): void {
    while (this.#going && !this.#stopped) {
      const step = this.#scheduler.next(worker);
      if (!step) return;
      const remote = (this.#remotes[worker] ??= hire(worker));
      if ('load' in step) void this.#load(worker, remote, step.load);
      else void this.#vote(worker, remote, step.vote);
    }
  }

  async #load(worker: number, remote: Remote, slm: number): Promise<void> {
    const manifest = this.manifests[slm] as SlmManifest;
    // Further copies are loaded unseen.
    const set = (change: Partial<Loading>) => {
      if (this.loads.value[slm]?.state === 'ready') return;
      this.loads.value = this.loads.value.map((load, at) => (at === slm ? { ...load, ...change } : load));
    };
    set({ state: 'downloading', here: 0 });
    try {
      const start = performance.now();
      const { ms, build } = await remote.call<Loaded>('load', { slm, manifest, device: this.device }, (here: number) => {
        set({ here, state: here >= bytesOf(manifest) ? 'loading' : 'downloading' });
      });
      tell('load', start, performance.now(), { slm: manifest.id, worker, ms });
      this.#events.loaded(build);
      this.#scheduler.loaded(worker, ms);
      set({ state: 'ready', here: bytesOf(manifest) });
      if (this.loads.value.every((load) => load.state === 'ready')) this.#isReady();
      this.#pumpAll();
    } catch (error) {
      if (codeOf(error) === 'worker-crashed') this.#crashed(worker, remote, error);
      else if (codeOf(error) === 'worker-stopped') return;
      else if (this.#scheduler.failed(worker)) this.#pumpAll();
      else {
        set({ state: 'failed' });
        this.#fail(error);
      }
    }
  }

  async #vote(worker: number, remote: Remote, task: Task): Promise<void> {
    let whole: Vote[][] | undefined;
    try {
      const { votes, texts, start, ms } = await remote.call<Voted>('vote', task);
      const busy = this.#busy[task.slm] as { texts: number; ms: number };
      busy.texts += texts;
      busy.ms += ms;
      tell('vote', start - performance.timeOrigin, start - performance.timeOrigin + ms, { slm: this.manifests[task.slm]?.id, worker, texts });
      whole = this.#scheduler.vote(worker, task, votes, ms);
      this.#pumpAll();
    } catch (error) {
      if (codeOf(error) === 'worker-crashed') this.#crashed(worker, remote, error);
      else if (codeOf(error) !== 'worker-stopped') this.#fail(error);
    }
    if (whole) await this.#events.whole(task.block, whole).catch((error: unknown) => this.#fail(error));
  }

  /** A worker died: another takes its place, loads what was lost and repeats what it had in hand. */
  #crashed(worker: number, dead: Remote, error: unknown): void {
    if (this.#stopped || this.#remotes[worker] !== dead) return; // its other calls failed with it
    dead.stop();
    this.#remotes[worker] = undefined;
    this.#scheduler.crashed(worker);
    this.loads.value = this.loads.value.map((load, slm) => (this.#scheduler.holder(slm) === undefined ? { ...load, state: 'waiting' } : load));
    this.#crashes += 1;
    if (this.#crashes > CRASHES) {
      this.#fail(new PageError('worker-crashed', `the workers stopped ${this.#crashes} times (${messageOf(error)}). The device may be short of memory: close other tabs, then press retry. Rows that are done are kept`));
      return;
    }
    if (this.#crashes > 1) this.#scheduler.spareMemory();
    this.#events.restarted(messageOf(error));
    this.#pumpAll();
  }

  #fail(error: unknown): void {
    if (this.#stopped) return;
    this.#isLost(error);
    this.#events.failed(error);
  }
}

function hire(worker: number): Remote {
  return new Remote(new Worker(new URL('../workers/slm.worker.ts', import.meta.url), { type: 'module', name: `slm-${worker}` }));
}

/**
 * An entry in the browser's performance timeline. It is cleared at once, lest a long run fill the memory: a
 * `PerformanceObserver` of type `measure`, and the browser's profiler, see it all the same.
 */
function tell(name: string, start: number, end: number, detail: Record<string, unknown>): void {
  performance.measure(name, { start: Math.max(0, start), end: Math.max(0, end), detail });
  performance.clearMeasures(name);
}
