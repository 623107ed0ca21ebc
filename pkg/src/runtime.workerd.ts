// Cloudflare's workerd: little memory, and modules that were compiled before.
import type { Runtime } from './runtime.js';

export function workerd(builds: Runtime['builds']): Runtime {
  return { builds, base: () => undefined, cache: false, atOnce: 1 };
}
