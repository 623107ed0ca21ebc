// Pages, their workers, and whatever else has fetch and no file system.
import type { Runtime } from './runtime.js';

export function browser(builds: Runtime['builds']): Runtime {
  return {
    builds,
    base: () => globalThis.document?.baseURI ?? globalThis.location?.href,
    cache: typeof caches === 'object',
    atOnce: 2,
  };
}
