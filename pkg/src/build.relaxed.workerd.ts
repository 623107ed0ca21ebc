import module from '../wasm/relaxed/autoannotator_bg.wasm';
import { create } from '../wasm/relaxed/autoannotator.factory.js';
import type { Build } from './runtime.js';

/** A worker has 128 MiB, and is ended where it takes more. What is left is for JavaScript: its heap, a shard on its way, requests and answers. */
const MAX_MEMORY = 104 << 20;

export const relaxed: Build = { factory: async () => ({ create }), module: async () => module, maxMemory: MAX_MEMORY };
