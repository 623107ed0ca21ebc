// The crate's plain wasm, loaded once a worker.
import wasmUrl from '#wasm-bg?url';
import init from '#wasm';
import { PageError } from '../core/rpc';

let ready: Promise<void> | undefined;

export function wasm(): Promise<void> {
  ready ??= instantiate(init, wasmUrl).catch((error: unknown) => {
    ready = undefined;
    throw error;
  });
  return ready;
}

/** Compiles and starts a build while its bytes arrive. */
export async function instantiate(glue: typeof init, url: string): Promise<void> {
  try {
    await glue({ module_or_path: new URL(url, self.location.href) });
  } catch (error) {
    if (error instanceof WebAssembly.CompileError) {
      throw new PageError('wasm-compile', `this browser cannot run the page's WebAssembly (${error.message}); use a current Chrome, Edge, Firefox or Safari`);
    }
    throw new PageError('wasm-load', 'the WebAssembly module could not be loaded; check the connection and press retry');
  }
}
