// One instance of the WebAssembly module, with the SLMs in it.
import type { Gpu } from '../wasm/gpu/autoannotator.js';
import type { Redactor, Rule, Sample, Slm, SlmLoader, Verdict, Vote } from '../wasm/plain/autoannotator.js';
import type { Annotation, BuildName, Device, LoadOptions, Progress, Review, Spec, WasmSource } from './api.js';
import { fromWasm, messageOf, OptionError, TrapError, WasmError } from './errors.js';
import type { Models } from './models.js';
import { type Glue, moduleOf, type Runtime } from './runtime.js';

const PIECE = 1 << 20;

type OnGpu = SlmLoader & { finishOn(gpu: Gpu, tokenizer: Uint8Array): Promise<Slm> };

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
  #slms: Slm[] = [];
  #gpu: Gpu | undefined;
  #redactor: Redactor | undefined;

  private constructor(build: BuildName, glue: Glue, memory: WebAssembly.Memory, traps: Traps) {
    this.build = build;
    this.glue = glue;
    this.#memory = memory;
    this.#traps = traps;
  }

  /** Starts an instance of a build, without SLMs. */
  static async start(name: BuildName, runtime: Runtime, given?: WasmSource): Promise<Instance> {
    const build = runtime.builds[name];
    if (!build) throw new WasmError('wasm-load', `this entry of the package has no build '${name}'`);
    try {
      const { create } = await build.factory();
      const module = await (given === undefined ? kept(build, () => build.module()) : moduleOf(given, runtime));
      const traps: Traps = {};
      const glue = create((error) => {
        traps.error = fromWasm(error);
        traps.tell?.(traps.error);
      });
      const { memory } = await glue.init({ module_or_path: module });
      return new Instance(name, glue, memory, traps);
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
    let loader: SlmLoader | undefined;
    let tokenizer = new Uint8Array();
    try {
      for await (const { slm, kind, bytes, last } of models.files(signal, onProgress)) {
        if (kind === 'tokenizer') {
          tokenizer = bytes;
          loader = new this.glue.SlmLoader(slm.version);
          continue;
        }
        const taking = loader as SlmLoader;
        // In pieces: each is copied into the module's memory, which only grows.
        for (let at = 0; at < bytes.length; at += PIECE) this.#sync(() => taking.push(bytes.subarray(at, at + PIECE)));
        if (!last) continue;
        loader = undefined; // `finish` uses it up
        const gpu = this.#gpu;
        const made = gpu ? await this.#call(() => (taking as OnGpu).finishOn(gpu, tokenizer)) : this.#sync(() => taking.finish(tokenizer));
        this.#slms.push(made);
        this.#sync(() => made.voteOn(task, label_map?.[slm.id]));
      }
    } finally {
      if (loader) this.#quietly(loader);
    }
  }

  get device(): Device {
    return this.#gpu ? 'gpu' : 'cpu';
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
    for (const slm of this.#slms) this.#quietly(slm);
    if (this.#redactor) this.#quietly(this.#redactor);
    if (this.#gpu) {
      this.#gpu.destroy();
      this.#quietly(this.#gpu);
    }
    this.#slms = [];
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
    const known = fromWasm(error);
    if (known instanceof TrapError) this.#traps.error = known;
    return known;
  }

  /** Frees what may be in use, or in an instance that trapped. */
  #quietly(thing: { free(): void }): void {
    try {
      thing.free();
    } catch {
      // The instance goes as a whole.
    }
  }
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
