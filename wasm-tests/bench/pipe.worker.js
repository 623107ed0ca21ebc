// A pipeline of transformers.js in a worker of its own.
import { pipe } from './pipe.js';

onmessage = async ({ data: { id, dtype, texts } }) => {
  postMessage((await (await pipe(id, dtype)).label(texts, 8)).length);
};
