// What runs in the worker of Node.js, Deno and Bun.
import process from 'node:process';
import { parentPort } from 'node:worker_threads';
import { Annotator } from './index.node.js';
import { serve } from './serve.js';

const take = serve({ post: (message) => parentPort?.postMessage(message) }, Annotator);
parentPort?.on('message', (request) => {
  if (request === 'end') process.exit(0); // of this worker
  else void take(request);
});
