// Node.js and Bun: `node node.js FOLDER` with the folder that `autoannotator pack` wrote.
import http from 'node:http';
import { Annotator } from 'autoannotator';
import { handle, once } from './src/handler.js';

const { TASK = 'sentiment', PORT = '8787', REVIEW_URL, REVIEW_TOKEN } = process.env;
const load = once(() =>
  Annotator.load({
    task: TASK,
    slms: [`${TASK}-minilm-l3`, `${TASK}-minilm-l6`],
    models: process.argv[2],
    reviewer: REVIEW_URL ? { url: REVIEW_URL, token: REVIEW_TOKEN } : 'none',
  }),
);

const server = http.createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const { method, headers, url } = request;
  const body = method === 'GET' || method === 'HEAD' ? undefined : Buffer.concat(parts);
  const answer = await handle(new Request(`http://${headers.host}${url}`, { method, body }), load);
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  response.end(Buffer.from(await answer.arrayBuffer()));
});
server.listen(Number(PORT), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
