// The build of the wasm that votes: with relaxed SIMD where the browser has it, or on the GPU.
import * as plain from '#wasm';
import type * as onGpu from '#wasm-gpu';
import gpuUrl from '#wasm-gpu-bg?url';
import relaxedUrl from '#wasm-relaxed-bg?url';
import type { Device } from '../core/device';
import { codeOf } from '../core/rpc';
import { relaxedSimd } from '../core/simd';
import { instantiate, wasm } from './wasm';

export type Build = 'plain' | 'relaxed' | 'gpu';

export interface Engine {
  build: Build;
  /** What takes a packed file's bytes. */
  loader(version: string): plain.SlmLoader;
  /** The SLM, once its bytes were taken. */
  finish(loader: plain.SlmLoader, tokenizer: Uint8Array): Promise<plain.Slm>;
}

let ready: Promise<Engine> | undefined;

/** The build, loaded once a worker: a worker is of one device. */
export function engine(device: Device): Promise<Engine> {
  ready ??= (device === 'gpu' ? gpu() : cpu()).catch((error: unknown) => {
    ready = undefined;
    throw error;
  });
  return ready;
}

async function cpu(): Promise<Engine> {
  if (relaxedSimd()) {
    try {
      const relaxed = await import('#wasm-relaxed');
      await instantiate(relaxed.default, relaxedUrl);
      return onCpu('relaxed', relaxed.SlmLoader);
    } catch (error) {
      if (codeOf(error) !== 'wasm-compile') throw error;
    }
  }
  await wasm();
  return onCpu('plain', plain.SlmLoader);
}

function onCpu(build: Build, SlmLoader: typeof plain.SlmLoader): Engine {
  return { build, loader: (version) => new SlmLoader(version), finish: async (loader, tokenizer) => loader.finish(tokenizer) };
}

async function gpu(): Promise<Engine> {
  const build = await import('#wasm-gpu');
  await instantiate(build.default, gpuUrl);
  // The page has decided: an adapter in software is taken where the person asked for it.
  const device = await build.Gpu.request(true);
  return {
    build: 'gpu',
    loader: (version) => new build.SlmLoader(version),
    finish: (loader, tokenizer) => (loader as onGpu.SlmLoader).finishOn(device, tokenizer),
  };
}
