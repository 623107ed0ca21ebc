// The workers that vote: hired, given work, replaced when they die. What they do next the scheduler says.
import type { Signal } from '@preact/signals';
import { type Device, NO_KERNELS } from './device';
import { bringIntoCache, bytesOf } from './download';
import { codeOf, messageOf, PageError, Remote } from './rpc';
import { type Known, Scheduler, type Task } from './scheduler';
import { watch } from './sight';
import type { SlmManifest, Vote } from './types';
import type { Build } from '../workers/engine';

/** Where an SLM's loading stands; it is ready once one worker holds it. */
export interface Loading {
  id: string;
  state: 'waiting' | 'downloading' | 'loading' | 'ready' | 'failed';
  here: number;
  total: number;
}

/** What a unit makes of texts: votes, or what the next part of the SLM takes. */
export type Result = { votes: Vote[] } | { states: Uint8Array };

/** What a worker answers to `run`. `start`: milliseconds since 1970; `ms`: how long the unit took. */
export interface Ran {
  result: Result;
  texts: number;
  start: number;
  ms: number;
}

/** An SLM, or a part of its layers: what a worker loads. */
export interface Unit {
  slm: number;
  /** From the first layer to behind the last one; absent: all of it. */
  layers?: [number, number];
  /** Its place among the SLM's parts. */
  part: number;
  parts: number;
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

/** An SLM whose architecture the GPU's kernels do not know. */
export class NoKernels extends PageError {
  readonly slm: string;
  constructor(slm: string) {
    super(NO_KERNELS, `${slm} has an architecture that the GPU kernels do not know`);
    this.slm = slm;
  }
}

/** Deaths of workers that a run bears; on a GPU fewer, since the CPU can take over. */
const CRASHES = 3;
const GPU_CRASHES = 1;
/** More workers than this would wait for memory, not for a core. */
const MOST_WORKERS = 8;

/** Workers of a pool: one a core, or one that keeps the GPU busy. */
export function workersOf(cores: number | undefined, device: Device): number {
  return device !== 'cpu' ? 1 : Math.max(1, Math.min(MOST_WORKERS, cores ?? 2));
}

/** Bytes that the SLMs may take in memory, copies and all: a quarter of the device's, which only some browsers tell. */
export function memoryBudget(deviceGiB: number | undefined): number {
  return ((deviceGiB ?? 4) / 4) * 2 ** 30;
}

/** Bytes that one copy of an SLM takes in memory: half-precision weights are widened to f32. */
export function memoryOf(slm: SlmManifest): number {
  return slm.precision === 'f16' ? 2 * slm.bytes : slm.bytes;
}

/**
 * The units that workers are to hold. An SLM with more work than a worker's share is cut, so that they fill the workers without
 * each holding all of it: the layers are spread as evenly as whole ones can be.
 */
export function unitsOf(manifests: Pick<SlmManifest, 'relative_cost' | 'layers'>[], workers: number): Unit[] {
  const share = manifests.reduce((sum, slm) => sum + slm.relative_cost, 0) / workers;
  return manifests.flatMap((manifest, slm) => {
    const layers = manifest.layers ?? 0;
    const parts = Math.max(1, Math.min(layers, workers, Math.round(manifest.relative_cost / share)));
    if (parts === 1) return [{ slm, part: 0, parts }];
    const cut = (part: number) => Math.round((part * layers) / parts);
    return Array.from({ length: parts }, (_, part): Unit => ({ slm, layers: [cut(part), cut(part + 1)], part, parts }));
  });
}

/** What the scheduler knows of units before they have run; `rates`: texts a second of each SLM, where it was measured. */
function knownOf(units: Unit[], manifests: SlmManifest[], rates: (number | undefined)[], here: boolean[]): Known[] {
  return units.map(({ slm, layers, part }, at): Known => {
    const manifest = manifests[slm] as SlmManifest;
    const share = layers ? (layers[1] - layers[0]) / (manifest.layers ?? 1) : 1;
    const rate = rates[slm];
    return {
      ...(part > 0 ? { after: at - 1 } : {}),
      relative: manifest.relative_cost * share,
      ms: rate === undefined ? undefined : (1000 * share) / rate,
      memory: memoryOf(manifest) * share,
      here: here[slm] ?? false,
    };
  });
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
  readonly #units: Unit[];
  /** The files of each SLM on their way. */
  readonly #brought: (Promise<boolean> | undefined)[] = [];
  /** What units have taken, by unit. */
  readonly #busy: { texts: number; ms: number }[];
  /** Hidden states on their way to the task that takes them. */
  readonly #states = new Map<string, { states: Uint8Array; texts: number }>();
  #going = true;
  #stopped = false;
  #crashes = 0;

  /** `rates`: texts a second of each SLM, where it was measured; `here`: whether its files are on this device. */
  constructor(manifests: SlmManifest[], device: Device, rates: (number | undefined)[], here: boolean[], loads: Signal<Loading[]>, events: Events) {
    this.manifests = manifests;
    this.device = device;
    this.loads = loads;
    this.#events = events;
    const { hardwareConcurrency, deviceMemory } = navigator as Navigator & { deviceMemory?: number };
    const workers = workersOf(hardwareConcurrency, device);
    // Without the browser's cache each part would be a download of its own.
    this.#units = unitsOf(manifests, 'caches' in globalThis ? workers : 1);
    this.#remotes = Array.from({ length: workers }, () => undefined);
    this.#scheduler = new Scheduler(knownOf(this.#units, manifests, rates, here), workers, memoryBudget(deviceMemory));
    this.#busy = this.#units.map(() => ({ texts: 0, ms: 0 }));
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

  /** Texts a second of SLM `slm` on these texts, after one that warms up; none where the tab was hidden meanwhile. */
  async measure(slm: number, texts: string[]): Promise<number | undefined> {
    const seen = watch();
    await this.#pass(slm, texts.slice(0, 1));
    const { ms } = await this.#pass(slm, texts);
    return seen() ? (texts.length * 1000) / Math.max(1, ms) : undefined;
  }

  /** What SLM `slm` says of these texts, besides any run. */
  async probe(slm: number, texts: string[]): Promise<Vote[]> {
    return (await this.#pass(slm, texts)).votes;
  }

  /** Texts through an SLM, part by part. */
  async #pass(slm: number, texts: string[]): Promise<{ votes: Vote[]; ms: number }> {
    let all = 0;
    let states: Uint8Array | undefined;
    for (const unit of this.#unitsOf(slm)) {
      const { result, ms } = await this.#holder(unit).call<Ran>('run', { unit, texts, states }).catch((error: unknown) => {
        throw this.#asGpu(error);
      });
      all += ms;
      if ('votes' in result) return { votes: result.votes, ms: all };
      states = result.states;
    }
    throw new PageError('slm-not-loaded', 'the model is not loaded; press retry');
  }

  /** A worker that dies beside a run takes a GPU with it. */
  #asGpu(error: unknown): unknown {
    return this.device !== 'cpu' && codeOf(error) === 'worker-crashed' ? new PageError('slm-gpu', messageOf(error)) : error;
  }

  #holder(unit: number): Remote {
    const remote = this.#remotes[this.#scheduler.holder(unit) ?? -1];
    if (!remote) throw new PageError('slm-not-loaded', 'the model is not loaded; press retry');
    return remote;
  }

  #unitsOf(slm: number): number[] {
    return this.#units.flatMap((unit, at) => (unit.slm === slm ? [at] : []));
  }

  /** Whether workers hold all parts of an SLM. */
  #held(slm: number): boolean {
    return this.#unitsOf(slm).every((unit) => this.#scheduler.holder(unit) !== undefined);
  }

  /** Texts a second of each SLM over what it voted on in sight, where that is enough to tell. */
  rates(): (number | undefined)[] {
    return this.manifests.map((_, slm) => {
      const busy = this.#unitsOf(slm).map((unit) => this.#busy[unit] as { texts: number; ms: number });
      if (busy.some(({ texts }) => texts < 16)) return undefined;
      return 1000 / busy.reduce((sum, { texts, ms }) => sum + Math.max(1, ms) / texts, 0);
    });
  }

  stop(): void {
    this.#stopped = true;
    for (const remote of this.#remotes) remote?.stop();
    this.#isLost(new PageError('worker-stopped', 'the worker was stopped'));
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

  async #load(worker: number, remote: Remote, at: number): Promise<void> {
    const unit = this.#units[at] as Unit;
    const { slm } = unit;
    const manifest = this.manifests[slm] as SlmManifest;
    // Further copies, and parts of files that are here, are loaded unseen.
    const set = (change: Partial<Loading>) => {
      if (this.loads.value[slm]?.state === 'ready') return;
      this.loads.value = this.loads.value.map((load, other) => (other === slm ? { ...load, ...change } : load));
    };
    if (unit.part === 0) set({ state: 'downloading', here: 0 });
    try {
      const progress = (here: number) => {
        if (unit.part === 0) set({ here, state: here >= bytesOf(manifest) ? 'loading' : 'downloading' });
      };
      const cached = await this.#bring(at, progress);
      const start = performance.now();
      const { ms, build } = await remote.call<Loaded>('load', { at, unit, manifest, device: this.device }, cached ? undefined : progress);
      tell('load', start, performance.now(), { slm: manifest.id, worker, part: unit.part, ms });
      this.#events.loaded(build);
      this.#scheduler.loaded(worker, ms);
      set({ state: this.#held(slm) ? 'ready' : 'loading', here: bytesOf(manifest) });
      if (this.loads.value.every((load) => load.state === 'ready')) this.#isReady();
      this.#pumpAll();
    } catch (error) {
      if (codeOf(error) === 'worker-crashed') this.#crashed(worker, remote, error);
      else if (codeOf(error) === 'worker-stopped') return;
      else if (this.#scheduler.failed(worker)) this.#pumpAll();
      else {
        set({ state: 'failed' });
        this.#fail(codeOf(error) === NO_KERNELS ? new NoKernels(manifest.id) : error);
      }
    }
  }

  /** Brings the files of a unit's SLM into the browser's cache, where there is one, for workers to read: one that votes has no time to download. */
  async #bring(at: number, progress: (here: number) => void): Promise<boolean> {
    const slm = this.#units[at]?.slm ?? 0;
    const manifest = this.manifests[slm] as SlmManifest;
    const bringing = (this.#brought[slm] ??= bringIntoCache(manifest, progress));
    const cached = await bringing.catch((error: unknown) => {
      this.#brought[slm] = undefined; // to be tried again
      throw error;
    });
    if (this.#stopped) throw new PageError('worker-stopped', 'the worker was stopped');
    if (cached) {
      this.#scheduler.arrived(at);
      this.#pumpAll();
    }
    return cached;
  }

  async #vote(worker: number, remote: Remote, task: Task): Promise<void> {
    let whole: Vote[][] | undefined;
    const { block, from, to } = task;
    const given = this.#states.get(keyOf(task));
    const seen = watch();
    try {
      const { result, texts, start, ms } = await remote.call<Ran>('run', { unit: task.unit, ...(given ?? { rows: { block, from, to } }) });
      const unit = this.#units[task.unit] as Unit;
      const busy = this.#busy[task.unit] as { texts: number; ms: number };
      if (seen()) {
        busy.texts += texts;
        busy.ms += ms;
      }
      tell('vote', start - performance.timeOrigin, start - performance.timeOrigin + ms, { slm: this.manifests[unit.slm]?.id, worker, part: unit.part, texts });
      if ('votes' in result) whole = this.#scheduler.vote(worker, task, result.votes, ms);
      else {
        const next = this.#scheduler.pass(worker, task, ms);
        if (next) this.#states.set(keyOf(next), { states: result.states, texts });
      }
      this.#states.delete(keyOf(task));
      this.#pumpAll();
    } catch (error) {
      if (codeOf(error) === 'worker-crashed') this.#crashed(worker, remote, error);
      else if (codeOf(error) !== 'worker-stopped') this.#fail(error);
    }
    if (whole) await this.#events.whole(block, whole).catch((error: unknown) => this.#fail(error));
  }

  /** A worker died: another takes its place, loads what was lost and repeats what it had in hand. */
  #crashed(worker: number, dead: Remote, error: unknown): void {
    if (this.#stopped || this.#remotes[worker] !== dead) return; // its other calls failed with it
    dead.stop();
    this.#remotes[worker] = undefined;
    this.#scheduler.crashed(worker);
    this.loads.value = this.loads.value.map((load, slm) => (this.#held(slm) ? load : { ...load, state: 'waiting' }));
    this.#crashes += 1;
    if (this.device !== 'cpu' && this.#crashes > GPU_CRASHES) {
      this.#fail(new PageError('slm-gpu', `its worker stopped ${this.#crashes} times; ${messageOf(error)}`));
      return;
    }
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

/** Names the rows of a task and the unit that takes them. */
function keyOf({ unit, block, from }: Task): string {
  return `${unit} ${block} ${from}`;
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
