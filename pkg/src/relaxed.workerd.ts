import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { relaxed } from './build.relaxed.workerd.js';
import { workerd } from './runtime.workerd.js';

export * from './exports.js';

const runtime = workerd({ relaxed });

export const Annotator: AnnotatorLoader = { load: (options) => load(options, runtime) };
export type Annotator = import('./api.js').Annotator;
