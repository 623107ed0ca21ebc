import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { plain } from './build.plain.node.js';
import { node } from './runtime.node.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => load(options, node({ plain })) };
export type Annotator = import('./api.js').Annotator;
