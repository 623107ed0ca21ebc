// Node.js, Deno and Bun: paths of files beside addresses.
import { readFile } from 'node:fs/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Runtime } from './runtime.js';

export function node(builds: Runtime['builds']): Runtime {
  return {
    builds,
    base: () => pathToFileURL('./').href,
    read: (address) => (address.protocol === 'file:' ? read(fileURLToPath(address)) : undefined),
    cache: false,
    atOnce: 2,
  };
}

async function read(path: string): Promise<Uint8Array<ArrayBuffer> | 'missing'> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return 'missing';
    throw error;
  }
}
