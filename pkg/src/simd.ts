import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { plain } from './build.plain.js';
import { browser } from './runtime.browser.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => load(options, browser({ plain })) };
export type Annotator = import('./api.js').Annotator;
