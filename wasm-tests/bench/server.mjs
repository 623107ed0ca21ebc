// What the tab loads: the builds, the packed SLMs, the ONNX files in the hub's layout, the peers' packages, these pages.
import { createReadStream, statSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pipeline } from 'node:stream';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };

/** A file's place: the folder whose prefix the address starts with. */
function resolve(folders, url) {
  const address = decodeURIComponent(new URL(url, 'http://localhost').pathname);
  const prefix = Object.keys(folders).find((start) => address.startsWith(start));
  if (prefix === undefined) return undefined;
  const rest = path.normalize(address.slice(prefix.length)).replace(/^([^/]+)\/resolve\/[^/]+\//, '$1/');
  return rest.startsWith('..') ? undefined : path.join(folders[prefix], rest);
}

function lengthOf(file) {
  const stat = file && statSync(file, { throwIfNoEntry: false });
  return stat?.isFile() ? stat.size : undefined;
}

/** A server of `folders` ({prefix: folder}) on a free port. Files do not change while it runs. */
export async function files(folders) {
  const server = http.createServer((request, response) => {
    const file = resolve(folders, request.url);
    const length = lengthOf(file);
    if (length === undefined) return response.writeHead(404).end();
    response.setHeader('content-type', TYPES[path.extname(file)] ?? 'application/octet-stream');
    response.setHeader('cache-control', 'public, max-age=31536000, immutable');
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const [start, end] = range ? [Number(range[1]), Math.min(Number(range[2]), length - 1)] : [0, length - 1];
    if (range) response.setHeader('content-range', `bytes ${start}-${end}/${length}`);
    response.setHeader('content-length', end - start + 1);
    response.writeHead(range ? 206 : 200);
    if (request.method === 'HEAD' || length === 0) return response.end();
    pipeline(createReadStream(file, { start, end }), response, () => undefined);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
}
