import module from '../wasm/edge/autoannotator_bg.wasm';
import { create } from '../wasm/edge/autoannotator.factory.js';
import type { Build } from './runtime.js';

export const edge: Build = { factory: async () => ({ create }), module: async () => module };
