// Node.js, Deno and Bun: paths of files beside addresses.
import { readFile } from 'node:fs/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Runtime } from './runtime.js';

export function node(builds: Runtime['builds']): Runtime {
  return {
    builds,
    base: () => pathToFileURL('./').href,
    open: async (address) => {
      if (address.protocol !== 'file:') return undefined;
      try {
        return new Response(await readFile(fileURLToPath(address)));
      } catch (error) {
        if ((error as { code?: string }).code === 'ENOENT') return new Response(null, { status: 404 });
        throw error;
      }
    },
    cache: false,
    atOnce: 2,
  };
}
