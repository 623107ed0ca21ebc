// `autoannotator/worker` in Node.js, Deno and Bun.
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { AnnotatorLoader } from './api.js';
import { loadIn, type Thread } from './remote.js';

export * from './exports.js';

export const Annotator: AnnotatorLoader = { load: (options) => loadIn(start(), options) };
export type Annotator = import('./api.js').Annotator;

function start(): Thread {
  const worker = new Worker(new URL('./worker.main.node.js', import.meta.url));
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    onMessage: (take) => worker.on('message', take),
    onDeath: (take) => {
      worker.on('error', (error: Error) => take(error.message));
      worker.on('exit', (code) => take(`it ended with ${code}`));
    },
    base: () => pathToFileURL('./').href,
    // It ends by itself, after what it is at, and the process waits for that: Deno at times crashes at a worker that it
    // terminates, or leaves behind.
    stop: () => {
      worker.postMessage('end');
    },
  };
}
