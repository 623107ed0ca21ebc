// What a package with a build of its own is made with: `autoannotator-burn`.
export type * from './api.js';
export { load } from './annotator.js';
export * from './exports.js';
export { browser } from './runtime.browser.js';
export { type Build, compile, type Runtime } from './runtime.js';
