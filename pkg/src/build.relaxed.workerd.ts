import module from '../wasm/relaxed/autoannotator_bg.wasm';
import { create } from '../wasm/relaxed/autoannotator.factory.js';
import type { Build } from './runtime.js';

export const relaxed: Build = { factory: async () => ({ create }), module: async () => module };
