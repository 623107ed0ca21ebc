// One instance of the WebAssembly module, with the SLMs in it.
import type { Gpu } from '../wasm/gpu/autoannotator.js';
import type { Redactor, Rule, Sample, Slm, SlmLoader, Verdict, Vote } from '../wasm/relaxed/autoannotator.js';
import type { Annotation, BuildName, Device, LoadOptions, Progress, Review, Spec } from './api.js';
import { type AutoannotatorError, fromWasm, MemoryError, messageOf, NoKernelsError, OptionError, TrapError, WasmError } from './errors.js';
import type { Models } from './models.js';
import { type Glue, moduleOf, type Runtime } from './runtime.js';

const PIECE = 1 << 20;
const PAGE = 1 << 16;

type OnGpu = SlmLoader & { finishOn(gpu: Gpu, tokenizer: Uint8Array): Promise<Slm> };
type OnBurn = SlmLoader & { finishOnBurn(tokenizer: Uint8Array): Promise<Slm> };

/** The trap of an instance, and whoever waits for an async call that it would leave without an answer. */
interface Traps {
  error?: Error;
  tell?: (error: Error) => void;
}

/** Modules that were compiled or found, by runtime and build: an instance more costs little. */
const modules = new WeakMap<object, Promise<WebAssembly.Module | BufferSource>>();

/** An instance. After a trap it is of no more use; every call throws a `TrapError` then. */
export class Instance {
  readonly build: BuildName;
  readonly glue: Glue;
  readonly #memory: WebAssembly.Memory;
  readonly #traps: Traps;
  readonly #deterministic: boolean;
  #slms: Slm[] = [];
  #gpu: Gpu | undefined;
  #onBurn = false;
  #redactor: Redactor | undefined;

  private constructor(build: BuildName, glue: Glue, memory: WebAssembly.Memory, traps: Traps, deterministic: boolean) {
    this.build = build;
    this.glue = glue;
    this.#memory = memory;
    this.#traps = traps;
    this.#deterministic = deterministic;
  }

  /** Starts an instance of a build, without SLMs. */
  static async start(name: BuildName, runtime: Runtime, { wasm, maxMemory }: LoadOptions): Promise<Instance> {
    const build = runtime.builds[name];
    if (!build) throw new WasmError('wasm-load', `this entry of the package has no build '${name}'`);
    const given = wasm?.[name];
    const most = maxMemory ?? build.maxMemory;
    try {
      const { create } = await build.factory();
      const module = await (given === undefined ? kept(build, () => build.module()) : moduleOf(given, runtime));
      const traps: Traps = {};
      const glue = create((error) => {
        traps.error = reasonOf(error, glue, memory);
        traps.tell?.(traps.error);
      }, most && Math.floor(most / PAGE));
      const { memory } = await glue.init({ module_or_path: module });
      return new Instance(name, glue, memory, traps, build.deterministic ?? false);
    } catch (error) {
      throw new WasmError(
        'wasm-load',
        `the WebAssembly module '${name}' does not start here (${messageOf(error)}); after some bundlers the option 'wasm' has to say where it is`,
        { cause: error },
      );
    }
  }

  /** Throws where an SLM with these labels cannot vote on the spec's task. What a map says of them is checked at load. */
  checkLabels({ task, label_map }: Spec, id: string, labels: string[]): void {
    if (label_map?.[id]) return;
    try {
      this.#sync(() => this.glue.checkLabels(task, id, labels));
    } catch (error) {
      if ((error as { code?: string }).code === 'slm-labels') throw new OptionError('slm-labels', messageOf(error));
      throw error;
    }
  }

  /** Brings the SLMs of `models` into it, to vote on the spec's task. */
  async load(models: Models, { task, label_map }: Spec, onCpu: boolean, signal: AbortSignal | undefined, onProgress?: (progress: Progress) => void): Promise<void> {
    if (this.build === 'gpu' && !onCpu) this.#gpu = await this.#call(() => this.glue.Gpu?.request(true) as Promise<Gpu>);
    this.#onBurn = this.build === 'burn' && !onCpu;
    let loader: SlmLoader | undefined;
    let tokenizer = new Uint8Array();
    try {
      // At once, and before anything is fetched: as much as the files have, which is less than the models will take.
      if (this.device === 'cpu') this.#sync(() => this.glue.reserve(models.total));
      for await (const { slm, kind, pieces, last } of models.files(signal, onProgress)) {
        if (kind === 'tokenizer') {
          tokenizer = await joined(pieces);
          loader = new this.glue.SlmLoader(slm.version, this.#deterministic);
          continue;
        }
        const taking = loader as SlmLoader;
        for await (const bytes of pieces) {
          // In pieces: each is copied into the module's memory, which only grows.
          for (let at = 0; at < bytes.length; at += PIECE) this.#sync(() => taking.push(bytes.subarray(at, at + PIECE)));
        }
        if (!last) continue;
        loader = undefined; // `finish` uses it up
        const made = await this.#finish(slm.id, taking, tokenizer);
        this.#slms.push(made);
        this.#sync(() => made.voteOn(task, label_map?.[slm.id]));
        // The engine makes the kernels faster while the next SLM is loaded.
        if (this.device === 'cpu' && this.#slms.length < models.slms.length) await this.#call(() => made.vote(['a']));
      }
    } finally {
      const open = loader;
      if (open) this.#quietly(() => open.free());
    }
  }

  async #finish(id: string, loader: SlmLoader, tokenizer: Uint8Array): Promise<Slm> {
    if (this.device === 'cpu') return this.#sync(() => loader.finish(tokenizer));
    const gpu = this.#gpu;
    try {
      return await this.#call(() => (gpu ? (loader as OnGpu).finishOn(gpu, tokenizer) : (loader as OnBurn).finishOnBurn(tokenizer)));
    } catch (error) {
      // There is a GPU, unless burn asks for its own just now: it is the SLM that it cannot take.
      throw (error as { code?: string }).code === 'slm-no-gpu' ? new NoKernelsError(id, error) : error;
    }
  }

  get device(): Device {
    return this.#gpu || this.#onBurn ? 'gpu' : 'cpu';
  }

  /** The spec that the options name. */
  spec({ task, spec }: LoadOptions): Spec {
    if (task !== undefined) return this.#sync(() => this.glue.builtInSpec(task));
    const text = typeof spec === 'string' ? spec : JSON.stringify(spec);
    return this.#sync(() => this.glue.parseSpec(text, text.trimStart().startsWith('{') ? 'json' : 'toml'));
  }

  get memoryBytes(): number {
    return this.#memory.buffer.byteLength;
  }

  /** The votes of all SLMs, by text. */
  async vote(texts: string[]): Promise<Vote[][]> {
    const all: Vote[][] = texts.map(() => []);
    for (const slm of this.#slms) {
      const votes = await this.#call(() => slm.vote(texts));
      votes.forEach((vote, at) => all[at]?.push(vote));
    }
    return all;
  }

  verdict(rule: Rule, votes: Vote[]): Verdict {
    return this.#sync(() => this.glue.verdict(rule, votes));
  }

  annotation(sample: Sample, votes: Vote[], verdict: Verdict, review?: Review): Annotation {
    return this.#sync(() => this.glue.annotation(sample, votes, verdict, review));
  }

  /** The text without what could name a person. */
  redact(text: string, names: string[]): string {
    return this.#sync(() => {
      this.#redactor ??= new this.glue.Redactor(names);
      return this.#redactor.redact(text).text;
    });
  }

  free(): void {
    const gpu = this.#gpu;
    // The device is no memory of the instance's, and stays if nobody destroys it: also after a trap.
    if (gpu) this.#quietly(() => gpu.destroy());
    const all = [...this.#slms, this.#redactor, gpu].filter((thing) => thing !== undefined);
    this.#slms = [];
    this.#redactor = undefined;
    this.#gpu = undefined;
    if (!this.#traps.error) for (const thing of all) this.#quietly(() => thing.free());
  }

  /** A call into the module, whose errors are those of this package. */
  #sync<T>(work: () => T): T {
    if (this.#traps.error) throw this.#traps.error;
    try {
      return work();
    } catch (error) {
      throw this.#note(error);
    }
  }

  /** An async call into the module: one at a time. */
  #call<T>(work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#traps.tell = reject;
      this.#sync(work).then(resolve, (error: unknown) => reject(this.#note(error)));
    });
  }

  #note(error: unknown): Error {
    const known = reasonOf(error, this.glue, this.#memory);
    if (known instanceof TrapError) this.#traps.error = known;
    return known;
  }

  /** Frees what may be in use, or in an instance that trapped. */
  #quietly(free: () => void): void {
    try {
      free();
    } catch {
      // The instance goes as a whole.
    }
  }
}

/** The error of a call into the module; that it had no memory left is known of its allocator. */
function reasonOf(error: unknown, glue: Glue, memory: WebAssembly.Memory): AutoannotatorError {
  const refused = glue.refusedBytes();
  if (refused === 0) return fromWasm(error);
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  const has = mib(memory.buffer.byteLength);
  return new MemoryError(`there is no room for ${mib(refused)} MiB more beside ${has} MiB of WebAssembly memory; take fewer or smaller models, or shorter texts`, error);
}

async function joined(pieces: AsyncIterable<Uint8Array<ArrayBuffer>>): Promise<Uint8Array<ArrayBuffer>> {
  const all: Uint8Array<ArrayBuffer>[] = [];
  for await (const piece of pieces) all.push(piece);
  return all.length === 1 && all[0] ? all[0] : new Uint8Array(await new Blob(all).arrayBuffer());
}

function kept(build: object, bring: () => Promise<WebAssembly.Module | BufferSource>): Promise<WebAssembly.Module | BufferSource> {
  let module = modules.get(build);
  if (!module) {
    module = bring().then((found) => (found instanceof WebAssembly.Module ? found : WebAssembly.compile(found)));
    modules.set(build, module);
    module.catch(() => modules.delete(build));
  }
  return module;
}
