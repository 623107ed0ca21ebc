// The build of the wasm that votes: with relaxed SIMD where the browser has it.
import * as plain from '#wasm';
import relaxedUrl from '#wasm-relaxed-bg?url';
import { codeOf } from '../core/rpc';
import { relaxedSimd } from '../core/simd';
import { instantiate, wasm } from './wasm';

export type Build = 'plain' | 'relaxed';

export interface Engine {
  build: Build;
  Slm: typeof plain.Slm;
}

let ready: Promise<Engine> | undefined;

/** The build, loaded once a worker. */
export function engine(): Promise<Engine> {
  ready ??= choose().catch((error: unknown) => {
    ready = undefined;
    throw error;
  });
  return ready;
}

async function choose(): Promise<Engine> {
  if (relaxedSimd()) {
    try {
      const relaxed = await import('#wasm-relaxed');
      await instantiate(relaxed.default, relaxedUrl);
      return { build: 'relaxed', Slm: relaxed.Slm };
    } catch (error) {
      if (codeOf(error) !== 'wasm-compile') throw error;
    }
  }
  await wasm();
  return { build: 'plain', Slm: plain.Slm };
}
