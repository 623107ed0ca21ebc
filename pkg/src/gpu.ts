import { load } from './annotator.js';
import type { AnnotatorLoader } from './api.js';
import { gpu } from './build.gpu.js';
import { browser } from './runtime.browser.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => load(options, browser({ gpu })) };
export type Annotator = import('./api.js').Annotator;
