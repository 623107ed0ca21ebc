import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { plain } from './build.plain.workerd.js';
import { workerd } from './runtime.workerd.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => load(options, workerd({ plain })) };
export type Annotator = import('./api.js').Annotator;
