// Deno: `deno run --allow-net --allow-read --allow-env deno.js FOLDER` with the folder that `autoannotator pack` wrote.
import { Annotator } from 'autoannotator';
import { handle, once } from './src/handler.js';

const set = (name, otherwise) => Deno.env.get(name) ?? otherwise;
const task = set('TASK', 'sentiment');
const url = set('REVIEW_URL');
const load = once(() =>
  Annotator.load({
    task,
    slms: [`${task}-minilm-l3`, `${task}-minilm-l6`],
    models: Deno.args[0],
    reviewer: url ? { url, token: set('REVIEW_TOKEN') } : 'none',
  }),
);

Deno.serve(
  { hostname: '127.0.0.1', port: Number(set('PORT', '8787')), onListen: ({ port }) => console.log(`http://127.0.0.1:${port}`) },
  (request) => handle(request, load),
);
