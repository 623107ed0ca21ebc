// The build of the wasm that votes: with relaxed SIMD where the browser has it, or on the GPU, by our kernels or burn-wgpu.
import * as plain from '#wasm';
import type * as onBurn from '#wasm-burn';
import type * as onGpu from '#wasm-gpu';
import gpuUrl from '#wasm-gpu-bg?url';
import relaxedUrl from '#wasm-relaxed-bg?url';
import { BURN_GLUE, BURN_WASM, type Device, NO_KERNELS } from '../core/device';
import { codeOf, messageOf, PageError } from '../core/rpc';
import { relaxedSimd } from '../core/simd';
import { instantiate, wasm } from './wasm';

export type Build = 'plain' | 'relaxed' | 'gpu' | 'burn';

export interface Engine {
  build: Build;
  /** What takes a packed file's bytes. */
  loader(version: string): plain.SlmLoader;
  /** The SLM, once its bytes were taken. */
  finish(loader: plain.SlmLoader, tokenizer: Uint8Array): Promise<plain.Slm>;
}

const ENGINES: Record<Device, () => Promise<Engine>> = { cpu, gpu, burn };

let ready: Promise<Engine> | undefined;

/** The build, loaded once a worker: a worker is of one device. */
export function engine(device: Device): Promise<Engine> {
  ready ??= ENGINES[device]().catch((error: unknown) => {
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
    finish: (loader, tokenizer) => (loader as onGpu.SlmLoader).finishOn(device, tokenizer).catch(noKernels),
  };
}

/** There is a GPU, so it is the SLM that it cannot take. */
function noKernels(error: unknown): never {
  throw codeOf(error) === 'slm-no-gpu' ? new PageError(NO_KERNELS, messageOf(error)) : error;
}

/** Its module is a file of the server's, so that the page's own build needs none. It asks for a device of its own. */
async function burn(): Promise<Engine> {
  try {
    const build: typeof onBurn = await import(/* @vite-ignore */ BURN_GLUE);
    await instantiate(build.default, BURN_WASM);
    return {
      build: 'burn',
      loader: (version) => new build.SlmLoader(version),
      finish: (loader, tokenizer) => (loader as onBurn.SlmLoader).finishOnBurn(tokenizer),
    };
  } catch (error) {
    throw new PageError('slm-no-gpu', `burn-wgpu could not be loaded: ${messageOf(error)}`);
  }
}
