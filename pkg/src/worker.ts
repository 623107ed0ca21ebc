// `autoannotator/worker`: the same in a dedicated worker, so that the page stays free.
import type { AnnotatorLoader } from './api.js';
import { WorkerError } from './errors.js';
import { loadIn, type Thread } from './remote.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => loadIn(start(), options) };
export type Annotator = import('./api.js').Annotator;

function start(): Thread {
  if (typeof Worker !== 'function') throw new WorkerError('worker-crashed', 'there are no workers here; import autoannotator itself');
  const worker = new Worker(new URL('./worker.main.js', import.meta.url), { type: 'module' });
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    onMessage: (take) => worker.addEventListener('message', (event) => take(event.data)),
    onDeath: (take) => {
      worker.addEventListener('error', (event) => {
        event.preventDefault();
        take(event.message || 'its script could not be loaded');
      });
      worker.addEventListener('messageerror', () => take('it sent something unreadable'));
    },
    base: () => globalThis.document?.baseURI ?? globalThis.location?.href,
    stop: () => worker.terminate(),
  };
}
