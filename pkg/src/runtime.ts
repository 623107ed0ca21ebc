// What differs between the runtimes.
import type { Glue as GpuGlue } from '../wasm/gpu/autoannotator.factory.js';
import type { Glue as CpuGlue } from '../wasm/relaxed/autoannotator.factory.js';
import type { BuildName, WasmSource } from './api.js';
import { OptionError } from './errors.js';

export type Glue = CpuGlue & Partial<Pick<GpuGlue, 'Gpu'>>;

/** A build: what makes its instances, and its module where the caller gives none. */
export interface Build {
  factory(): Promise<{ create: (onTrap: (error: unknown) => void, maxPages?: number) => Glue }>;
  module(): Promise<WebAssembly.Module | BufferSource>;
  /** The most bytes of its memory, where the runtime ends what takes more. */
  maxMemory?: number;
  /** With the kernels that give the same bits in every runtime, if it has others too. */
  deterministic?: boolean;
}

/** A runtime with the builds that an entry of the package has. */
export interface Runtime {
  builds: Partial<Record<BuildName, Build>>;
  /** Reads a file by its address, where `fetch` does not; `missing` where there is none. */
  read?(address: URL): Promise<Uint8Array<ArrayBuffer> | 'missing'> | undefined;
  /** What a relative address is relative to. */
  base(): string | undefined;
  /** Whether the models are kept in the Cache API. */
  cache: boolean;
  /** Files that are fetched at once. */
  atOnce: number;
  /** Gives a file in pieces, as they come, and then its SHA-256: where a whole file beside the models would be too much. */
  pieces?(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Uint8Array<ArrayBuffer>, ArrayBuffer>;
}

/** A whole address. */
export function addressOf(address: URL | string, base: string | undefined): URL {
  if (!URL.canParse(address, base)) throw new OptionError('option', `'${String(address)}' is no address here; give a whole one, such as https://models.example/packed/`);
  return new URL(address, base);
}

/** Fetches and compiles a module. */
export async function compile(address: URL | string): Promise<WebAssembly.Module> {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${response.status} for ${String(address)}`);
  if (response.headers.get('content-type')?.startsWith('application/wasm')) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

/** The module of a source. */
export async function moduleOf(source: WasmSource, runtime: Runtime): Promise<WebAssembly.Module | BufferSource> {
  if (typeof source !== 'string' && !(source instanceof URL)) return source;
  const address = addressOf(source, runtime.base());
  const bytes = await runtime.read?.(address);
  if (bytes === 'missing') throw new Error(`there is no ${address.href}`);
  return bytes ?? compile(address);
}
