import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { gpu } from './build.gpu.node.js';
import { node } from './runtime.node.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => load(options, node({ gpu })) };
export type Annotator = import('./api.js').Annotator;
