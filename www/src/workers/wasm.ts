// The crate's wasm, loaded once a worker.
import wasmUrl from '#wasm-bg?url';
import init from '#wasm';
import { PageError } from '../core/rpc';

let ready: Promise<void> | undefined;

export function wasm(): Promise<void> {
  ready ??= load().catch((error: unknown) => {
    ready = undefined;
    throw error;
  });
  return ready;
}

async function load(): Promise<void> {
  try {
    await init({ module_or_path: new URL(wasmUrl, self.location.href) });
  } catch (error) {
    if (error instanceof WebAssembly.CompileError) {
      throw new PageError('wasm-compile', `this browser cannot run the page's WebAssembly (${error.message}); use a current Chrome, Edge, Firefox or Safari`);
    }
    throw new PageError('wasm-load', 'the WebAssembly module could not be loaded; check the connection and press retry');
  }
}
