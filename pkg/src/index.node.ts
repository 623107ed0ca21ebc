import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { gpu } from './build.gpu.node.js';
import { plain } from './build.plain.node.js';
import { relaxed } from './build.relaxed.node.js';
import { node } from './runtime.node.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => load(options, node({ plain, relaxed, gpu })) };
export type Annotator = import('./api.js').Annotator;
