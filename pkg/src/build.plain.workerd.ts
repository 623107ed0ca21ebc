import module from '../wasm/plain/autoannotator_bg.wasm';
import { create } from '../wasm/plain/autoannotator.factory.js';
import type { Build } from './runtime.js';

export const plain: Build = { factory: async () => ({ create }), module: async () => module };
