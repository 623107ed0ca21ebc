// The annotator: votes batch by batch, asks the reviewer about what is hard, gives everything in order.
import type { Annotation, Annotator, BuildName, Info, LoadOptions, Rule, Sample, Spec, Text } from './api.js';
import { AutoannotatorError, DisposedError, messageOf, ModelsError, NoKernelsError, OptionError, TrapError, WasmError } from './errors.js';
import { relaxedSimd, simd } from './features.js';
import { Instance } from './instance.js';
import { Models } from './models.js';
import { type Reviewer, reviewerOf } from './reviewer.js';
import type { Runtime } from './runtime.js';

const BATCH = 16;
/** The least and the most bytes that `maxMemory` may say. */
const MEMORY = [2 ** 22, 2 ** 32] as const;
/** Batches whose reviews are under way at once. */
const REVIEWING = 4;
/** Instances that may trap one after another without a text voted on in between. */
const MAX_TRAPS = 5;
/** What Rust's `trim` takes for whitespace. */
const BLANK = /^\p{White_Space}*$/u;

/** Loads the models in a runtime and gives what votes with them. */
export async function load(options: LoadOptions, runtime: Runtime): Promise<Annotator> {
  const settings = settingsOf(options);
  if (!simd()) throw new WasmError('wasm-simd', 'this engine has no WebAssembly SIMD, without which the models do not run; use a current one');
  const device = options.device ?? 'auto';
  if (runtime.builds.burn) return onBurn(options, settings, runtime);
  if (device === 'gpu') return asDemanded(options, settings, runtime);
  if (device === 'auto' && (await hardwareGpu(runtime))) return faster(options, settings, runtime);
  return LocalAnnotator.start(options, settings, runtime, cpuBuild(options, runtime));
}

interface Settings {
  batch: number;
  reviewer: Reviewer | undefined;
}

function settingsOf({ device = 'auto', batch = BATCH, rule, reviewer, task, spec, maxMemory = MEMORY[1] }: LoadOptions): Settings {
  if (!['auto', 'cpu', 'gpu'].includes(device)) throw new OptionError('option', `'device' is auto, cpu or gpu, not '${device}'`);
  if (rule !== undefined && rule !== 'unanimous' && rule !== 'majority') throw new OptionError('option', `'rule' is unanimous or majority, not '${String(rule)}'`);
  if (!(Number.isInteger(batch) && batch >= 1)) throw new OptionError('option', "'batch' is a number of texts, 1 or more");
  if (!(maxMemory >= MEMORY[0] && maxMemory <= MEMORY[1])) throw new OptionError('option', "'maxMemory' is a number of bytes, from 4 MiB to 4 GiB");
  if ((task === undefined) === (spec === undefined)) throw new OptionError('option', "say either 'task' or 'spec'");
  return { batch, reviewer: reviewerOf(reviewer) };
}

/** The build for the CPU: the fastest of those there are. */
function cpuBuild({ wasm, device }: LoadOptions, { builds }: Runtime): BuildName {
  const here = (build: BuildName) => builds[build] !== undefined && (wasm === undefined || wasm[build] !== undefined);
  if (here('relaxed') && (relaxedSimd() || !here('plain'))) return 'relaxed';
  if (here('plain')) return 'plain';
  // Those for the GPU have the CPU's kernels too.
  for (const build of ['gpu', 'burn'] as const) if (here(build) && device !== 'gpu') return build;
  throw new WasmError('wasm-load', `there is no build for the CPU here, only ${Object.keys(wasm ?? builds).join(', ')}`);
}

/** Milliseconds that a browser may take to name its GPU: some never answer, and the CPU must not wait for it. */
const GPU_PATIENCE = 5000;

/** Whether there is a GPU that is none in software. */
async function hardwareGpu({ builds }: Runtime): Promise<boolean> {
  type Adapter = { info?: { vendor?: string; architecture?: string; description?: string; isFallbackAdapter?: boolean } };
  const { gpu } = (globalThis.navigator ?? {}) as { gpu?: { requestAdapter(options: object): Promise<Adapter | null> } };
  if (!builds.gpu || !gpu) return false;
  // As the engine asks: where there are two GPUs, it is the same one.
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<null>((resolve) => (timer = setTimeout(() => resolve(null), GPU_PATIENCE)));
  const answer = gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  const adapter = await Promise.race([answer, silence]).finally(() => clearTimeout(timer));
  const { vendor, architecture, description, isFallbackAdapter } = adapter?.info ?? { isFallbackAdapter: true };
  return adapter !== null && !isFallbackAdapter && !/swiftshader|llvmpipe|basic render/i.test(`${vendor} ${architecture} ${description}`);
}

/** Loads on burn-wgpu; on the CPU where there is no GPU, if that will do. */
async function onBurn(options: LoadOptions, settings: Settings, runtime: Runtime): Promise<Annotator> {
  try {
    return await LocalAnnotator.start(options, settings, runtime, 'burn');
  } catch (error) {
    if (options.device === 'gpu' || (error as { code?: string }).code !== 'slm-no-gpu') throw error;
    return LocalAnnotator.start({ ...options, device: 'cpu' }, settings, runtime, 'burn');
  }
}

/** Loads on the GPU: by our kernels or, where they do not know a model, by the burn-wgpu that the caller brings. */
async function onGpu(options: LoadOptions, settings: Settings, runtime: Runtime): Promise<LocalAnnotator> {
  try {
    return await LocalAnnotator.start(options, settings, runtime, 'gpu');
  } catch (error) {
    if (!(error instanceof NoKernelsError) || !options.burn) throw error;
    return withBurn(options.burn, options, settings, runtime);
  }
}

async function withBurn(bring: NonNullable<LoadOptions['burn']>, options: LoadOptions, settings: Settings, runtime: Runtime): Promise<LocalAnnotator> {
  try {
    const { burn } = await bring();
    return await LocalAnnotator.start(options, settings, { ...runtime, builds: { ...runtime.builds, burn } }, 'burn');
  } catch (error) {
    if (options.signal?.aborted || error instanceof ModelsError || error instanceof NoKernelsError) throw error;
    throw new NoKernelsError('autoannotator-burn', error);
  }
}

/** Loads on the GPU. That there is none is an error; that it cannot take a model is none. */
async function asDemanded(options: LoadOptions, settings: Settings, runtime: Runtime): Promise<Annotator> {
  try {
    return await onGpu(options, settings, runtime);
  } catch (error) {
    if (!(error instanceof NoKernelsError)) throw error;
    warn(options, error);
    const onCpu: LoadOptions = { ...options, device: 'cpu' };
    return LocalAnnotator.start(onCpu, settings, runtime, cpuBuild(onCpu, runtime));
  }
}

/** Loads on both devices and keeps the faster. */
async function faster(options: LoadOptions, settings: Settings, runtime: Runtime): Promise<Annotator> {
  const cpu = await LocalAnnotator.start(options, settings, runtime, cpuBuild(options, runtime));
  let gpu: LocalAnnotator;
  try {
    gpu = await onGpu(options, settings, runtime);
  } catch (error) {
    if (!options.signal?.aborted && isOfTheGpu(error)) {
      warn(options, error);
      return cpu;
    }
    cpu.dispose();
    options.signal?.throwIfAborted();
    throw error;
  }
  // A trap on the CPU is mended at the next text; a GPU that fails is not taken.
  const cpuMs = await cpu.time().catch(() => Number.POSITIVE_INFINITY);
  const gpuMs = await gpu.time().catch((error: unknown) => {
    warn(options, error);
    return Number.POSITIVE_INFINITY;
  });
  (gpuMs < cpuMs ? cpu : gpu).dispose();
  return gpuMs < cpuMs ? gpu : cpu;
}

/** Whether the CPU may do where the GPU does not: it is neither the models nor the network that fails. */
function isOfTheGpu(error: unknown): boolean {
  return error instanceof TrapError || error instanceof WasmError || (error as { code?: string }).code?.startsWith('slm-') === true;
}

/** Says that, and why, the CPU votes in the GPU's place. */
function warn({ onWarning, burn }: LoadOptions, why: unknown): void {
  const code = (why as { code?: unknown }).code;
  const plain = messageOf(why).replace(/^[a-z]+(-[a-z0-9]+)+: /, '');
  const hint = why instanceof NoKernelsError && !burn ? ". The option 'burn' brings a GPU engine that may take it" : '';
  const error = new AutoannotatorError(typeof code === 'string' ? code : 'slm-gpu', `the CPU votes in the GPU's place (${plain})${hint}`, { cause: why });
  if (onWarning) onWarning(error);
  else console.warn(error.message);
}

/** A sample with its votes, or the trap at which it was given up. */
interface Judged {
  annotation: Annotation;
  /** The text as a reviewer may see it. */
  sent?: string;
}

class LocalAnnotator implements Annotator {
  readonly #options: LoadOptions;
  readonly #settings: Settings;
  readonly #runtime: Runtime;
  readonly #spec: Spec;
  readonly #rule: Rule;
  readonly #models: Models;
  #build: BuildName;
  /** None once it was disposed of, or while another is being made. */
  #instance: Instance | undefined;
  #disposed = false;
  /** Whether the CPU votes, for good. */
  #onCpu: boolean;
  #restarts = 0;
  /** The last call into the instance: one at a time. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: LoadOptions, settings: Settings, runtime: Runtime, spec: Spec, models: Models, instance: Instance) {
    this.#options = options;
    this.#settings = settings;
    this.#runtime = runtime;
    this.#spec = spec;
    this.#rule = options.rule ?? spec.rule;
    this.#models = models;
    this.#build = instance.build;
    this.#instance = instance;
    this.#onCpu = instance.device === 'cpu';
    disposable(this);
  }

  static async start(options: LoadOptions, settings: Settings, runtime: Runtime, build: BuildName): Promise<LocalAnnotator> {
    const { signal, onProgress } = options;
    signal?.throwIfAborted();
    const instance = await Instance.start(build, runtime, options);
    try {
      const spec = instance.spec(options);
      const models = await Models.find(options, options.slms ?? spec.slms, (id, labels) => instance.checkLabels(spec, id, labels), runtime);
      await instance.load(models, spec, options.device === 'cpu', signal, onProgress);
      onProgress?.({ status: 'ready', loaded: models.total, total: models.total });
      return new LocalAnnotator(options, settings, runtime, spec, models, instance);
    } catch (error) {
      instance.free();
      throw error;
    }
  }

  async info(): Promise<Info> {
    const instance = this.#here();
    return {
      spec: this.#spec,
      slms: this.#models.slms.map(({ id, version, precision }) => ({ id, version, precision })),
      device: instance.device,
      build: this.#build,
      memoryBytes: instance.memoryBytes,
      restarts: this.#restarts,
    };
  }

  async *annotate(texts: Iterable<Text> | AsyncIterable<Text>, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<Annotation, void, undefined> {
    this.#here();
    const open: { batch: Promise<Annotation[]>; done: boolean }[] = [];
    const next = () => (open.shift() as (typeof open)[number]).batch;
    for await (const samples of batches(samplesOf(texts), this.#settings.batch)) {
      signal?.throwIfAborted();
      const judged = await this.#judge(samples);
      const entry = { batch: this.#review(judged, signal), done: false };
      entry.batch.then(
        () => (entry.done = true),
        () => (entry.done = true),
      );
      open.push(entry);
      await breath(); // the page, or other requests, come first
      while (open.length > REVIEWING || open[0]?.done) yield* await next();
    }
    while (open.length > 0) yield* await next();
  }

  /** Milliseconds for a few texts, after as many to warm up. */
  async time(): Promise<number> {
    const texts = Array.from({ length: 16 }, (_, at) => `a text of some words, to see how long it takes ${'and so on '.repeat(at % 4)}`);
    const instance = this.#here();
    await instance.vote(texts);
    const start = performance.now();
    await instance.vote(texts);
    return performance.now() - start;
  }

  dispose(): void {
    this.#disposed = true;
    const instance = this.#instance;
    this.#instance = undefined;
    // A call may be under way on a GPU; freed after it.
    void this.#turn.finally(() => instance?.free());
  }

  #here(): Instance {
    if (this.#disposed) throw new DisposedError();
    if (!this.#instance) throw new TrapError('no other instance could be started');
    return this.#instance;
  }

  /** Votes on samples once earlier calls are done. */
  #judge(samples: Sample[]): Promise<Judged[]> {
    const judged = this.#turn.then(async () => {
      const voters = samples.filter(({ text }) => !BLANK.test(text));
      const votes = await this.#votes(voters.map(({ text }) => text));
      const bySample = new Map(voters.map((sample, at) => [sample, votes[at]]));
      const all: Judged[] = [];
      for (const sample of samples) all.push(await this.#verdict(sample, bySample.get(sample)));
      return all;
    });
    this.#turn = judged.catch(() => undefined);
    return judged;
  }

  async #verdict(sample: Sample, votes: Votes | undefined): Promise<Judged> {
    if (votes === undefined) return aside(sample, 'blank-text: there is nothing but whitespace');
    if (votes instanceof TrapError) return aside(sample, votes.message);
    try {
      const instance = this.#here();
      const verdict = instance.verdict(this.#rule, votes);
      const annotation = instance.annotation(sample, votes, verdict);
      if (verdict.status !== 'hard' || !this.#settings.reviewer) return { annotation };
      const { redact, names = [] } = this.#spec.review;
      return { annotation, sent: (this.#options.redact ?? redact) ? instance.redact(sample.text, names) : sample.text };
    } catch (error) {
      if (!(error instanceof TrapError)) throw error;
      await this.#restart(error);
      return aside(sample, error.message);
    }
  }

  /** The votes by text. After a trap the texts are tried again one by one, in a new instance. */
  async #votes(texts: string[]): Promise<Votes[]> {
    if (texts.length === 0) return [];
    try {
      return await this.#here().vote(texts);
    } catch (error) {
      if (!this.#spoilt(error)) throw error;
      await this.#restart(error);
    }
    const all: Votes[] = [];
    let traps = 0;
    for (const text of texts) {
      try {
        all.push(...(await this.#here().vote([text])));
        traps = 0;
      } catch (error) {
        if (!this.#spoilt(error) || ++traps === MAX_TRAPS) throw error;
        all.push(error instanceof TrapError ? error : new TrapError(error));
        await this.#restart(error);
      }
    }
    return all;
  }

  /** Whether an error leaves the instance, or its GPU, of no more use. */
  #spoilt(error: unknown): boolean {
    return error instanceof TrapError || (error as { code?: unknown }).code === 'slm-gpu';
  }

  /** Another instance in the old one's place; on the CPU where the GPU failed, or does not come back after a trap. */
  async #restart(why: unknown): Promise<void> {
    if (this.#disposed) throw new DisposedError();
    this.#instance?.free(); // lets the old device and memory go before the new ones are filled
    this.#instance = undefined;
    this.#restarts += 1;
    if (!this.#onCpu && !(why instanceof TrapError)) this.#toCpu(why);
    const instance = await this.#another().catch((error: unknown) => {
      if (this.#onCpu || !isOfTheGpu(error)) throw error;
      this.#toCpu(error);
      return this.#another();
    });
    if (this.#disposed) {
      instance.free();
      throw new DisposedError();
    }
    this.#instance = instance;
  }

  #toCpu(why: unknown): void {
    warn(this.#options, why);
    this.#onCpu = true;
    this.#build = cpuBuild({ ...this.#options, device: 'cpu' }, this.#runtime);
  }

  async #another(): Promise<Instance> {
    const instance = await Instance.start(this.#build, this.#runtime, this.#options);
    try {
      await instance.load(this.#models, this.#spec, this.#onCpu, undefined);
      return instance;
    } catch (error) {
      instance.free();
      throw error;
    }
  }

  /** Asks the reviewer about those that are hard. Without an answer they stay without a review. */
  async #review(judged: Judged[], signal: AbortSignal | undefined): Promise<Annotation[]> {
    const { reviewer } = this.#settings;
    const hard = reviewer ? judged.filter(({ sent }) => sent !== undefined) : [];
    for (let at = 0; reviewer && at < hard.length; at += reviewer.batch) {
      const some = hard.slice(at, at + reviewer.batch);
      const items = some.map(({ annotation, sent }) => ({ id: annotation.sample.id, text: sent as string }));
      try {
        const reviews = await reviewer.review(items, this.#spec.task, signal);
        some.forEach((one, place) => {
          const { sample, votes, verdict } = one.annotation;
          const review = reviews[place];
          if (review instanceof Error) this.#tell(review);
          else if (review) one.annotation = this.#here().annotation(sample, votes, verdict, review);
        });
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof DisposedError) throw error;
        this.#tell(error instanceof Error ? error : new AutoannotatorError('review-reply', messageOf(error)));
      }
    }
    return judged.map(({ annotation }) => annotation);
  }

  #tell(error: Error): void {
    if (this.#options.onReviewError) this.#options.onReviewError(error);
    else console.warn(error.message);
  }

  declare [Symbol.dispose]: () => void;
  declare [Symbol.asyncDispose]: () => Promise<void>;
}

/** A sample that is not voted on. It is not shown to the instance, which it may have stopped. */
function aside(sample: Sample, why: string): Judged {
  return { annotation: { sample, votes: [], verdict: { status: 'set-aside', why }, review: null, label: null, source: null } };
}

type Votes = Annotation['votes'] | TrapError;

/** Gives `using` its method where the runtime has the symbols. */
export function disposable(annotator: { dispose(): void }): void {
  if (Symbol.dispose) Object.defineProperty(annotator, Symbol.dispose, { value: () => annotator.dispose() });
  if (Symbol.asyncDispose) Object.defineProperty(annotator, Symbol.asyncDispose, { value: async () => annotator.dispose() });
}

/** Texts with ids: their own, or their 1-based numbers. */
export async function* samplesOf(texts: Iterable<Text> | AsyncIterable<Text>): AsyncGenerator<Sample> {
  if (typeof texts === 'string' || texts === null || typeof texts !== 'object') {
    throw new OptionError('option', 'annotate takes an array, or anything else that gives texts one after another');
  }
  let number = 0;
  for await (const text of texts) {
    number += 1;
    const sample = typeof text === 'string' ? { id: String(number), text } : text;
    if (typeof sample?.text !== 'string' || typeof sample.id !== 'string') {
      throw new OptionError('option', `text ${number} is neither a string nor { id, text } with strings`);
    }
    yield { id: sample.id, text: sample.text };
  }
}

/** Arrays of `size` items, the last one shorter. */
export async function* batches<T>(items: AsyncIterable<T>, size: number): AsyncGenerator<T[]> {
  let batch: T[] = [];
  for await (const item of items) {
    batch.push(item);
    if (batch.length < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

function breath(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
