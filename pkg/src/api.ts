/// <reference lib="esnext.disposable" preserve="true" />
// The types of the public interface.
import type { Annotation, ReviewedBy, Rule, Spec, Task } from '../wasm/plain/autoannotator.js';
import type { Build } from './runtime.js';

export type {
  Annotation,
  Label,
  Review,
  ReviewedBy,
  Rule,
  Sample,
  Source,
  Spec,
  Task,
  Verdict,
  Vote,
} from '../wasm/plain/autoannotator.js';

/** What computes. */
export type Device = 'cpu' | 'gpu';

/** A build of the WebAssembly module. */
export type BuildName = 'plain' | 'relaxed' | 'gpu' | 'burn';

/** A module: compiled, its bytes, or where it is. */
export type WasmSource = WebAssembly.Module | BufferSource | URL | string;

/** Gives a file of the folder of packed models by its path in there, such as `index.json`: an assets binding, or R2. */
export type ModelSource = (path: string, init: { signal?: AbortSignal }) => Promise<Response>;

/** A text of which the SLMs were not sure. Redacted, unless that was switched off. */
export interface ReviewItem {
  id: string;
  text: string;
}

/** What a review function says of an item: one of the task's labels, or none, and who says so. */
export interface Reviewed {
  label: string | null;
  by: ReviewedBy;
  why?: string;
  prompt_tokens?: number;
  completion_tokens?: number;
  cost_usd?: number;
}

/** Reviews hard samples: one answer an item, in order. */
export type ReviewFunction = (items: ReviewItem[], about: { task: Task; signal?: AbortSignal }) => Promise<Reviewed[]>;

/** An `autoannotator serve`: its address, the token that it may ask for, and how to reach it. */
export interface ReviewEndpoint {
  url: string | URL;
  token?: string;
  fetch?: (input: string, init: RequestInit) => Promise<Response>;
  /** Texts of one request; 8 if absent, 64 at most. */
  batch?: number;
}

/** Who reviews hard samples. */
export type ReviewerOption = 'none' | string | URL | ReviewEndpoint | ReviewFunction;

/** How far loading is: bytes of all models that are here. */
export interface Progress {
  status: 'download' | 'ready';
  /** The model whose file has arrived. */
  slm?: string;
  loaded: number;
  total: number;
}

/** How to load. */
export interface LoadOptions {
  /** A built-in task: `sentiment` or `toxicity`. */
  task?: string;
  /** A spec instead: TOML, JSON, or an object as in JSON. */
  spec?: string | object;
  /** The folder that `autoannotator pack` wrote: an address, a path, or what gives its files. */
  models: string | URL | ModelSource;
  /** The SLMs that vote; those of the spec if absent. */
  slms?: string[];
  /** The precision of the weights; int8 where there is that. */
  precision?: 'int8' | 'f16' | 'f32';
  /** `auto` (the default) takes the GPU where there is one and it is faster here; with `gpu`, that there is none is an error. */
  device?: 'auto' | Device;
  /** The rule of the vote; the spec's if absent. */
  rule?: Rule;
  /** Texts that are voted on at once; 16 if absent. 1 gives each result as soon as it is there. */
  batch?: number;
  /** Who reviews hard samples; `none` if absent. */
  reviewer?: ReviewerOption;
  /** Whether hard samples are redacted before the reviewer sees them; what the spec says if absent, which is yes by default. */
  redact?: boolean;
  /** Told once for each request that the reviewer did not answer; its samples stay without a review. `console.warn` if absent. */
  onReviewError?: (error: Error) => void;
  /** Told why the CPU votes where the GPU was to: at load, or where it fails later. `console.warn` if absent. */
  onWarning?: (error: Error) => void;
  /**
   * Brings burn-wgpu for a model that the GPU has no kernels for, and is called only then: `() => import('autoannotator-burn')`.
   * Without it the CPU takes such a model.
   */
  burn?: () => Promise<{ burn: Build }>;
  /** Stops loading. */
  signal?: AbortSignal;
  /** Told how far loading is. */
  onProgress?: (progress: Progress) => void;
  /** The most bytes that the WebAssembly memory of an instance may take; what the runtime allows if absent. */
  maxMemory?: number;
  /** The WebAssembly modules, where they cannot be found beside this package: after some bundlers. */
  wasm?: Partial<Record<BuildName, WasmSource>>;
}

/** A text; one without an id has its 1-based number as id. */
export type Text = string | { id: string; text: string };

/** What is there. */
export interface Info {
  /** The spec, its labels spelled out. */
  spec: Spec;
  /** The models that vote. */
  slms: { id: string; version: string; precision: string }[];
  device: Device;
  build: BuildName;
  /** Bytes of the WebAssembly memory, which only grows. */
  memoryBytes: number;
  /** How often an instance was replaced after a trap. */
  restarts: number;
}

/** Small language models that vote on texts. */
export interface Annotator extends Disposable, AsyncDisposable {
  /** What is there now. */
  info(): Promise<Info>;
  /** One annotation a text, in order. A text at which the module stops is set aside with the code `wasm-trap`. */
  annotate(texts: Iterable<Text> | AsyncIterable<Text>, options?: { signal?: AbortSignal }): AsyncGenerator<Annotation, void, undefined>;
  /** Frees everything. Calls afterwards throw `DisposedError`. */
  dispose(): void;
}

/** What each entry of the package exports as `Annotator`. */
export interface AnnotatorLoader {
  /** Loads the models and gives what votes with them. */
  load(options: LoadOptions): Promise<Annotator>;
}

