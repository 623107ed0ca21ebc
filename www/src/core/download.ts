// Model files: fetched with byte progress, checked by SHA-256, kept in the browser's cache, resumed file by file.
import { PageError } from './rpc';
import type { Shard, SlmManifest } from './types';

const CACHE = 'autoannotator-models-v1';

/** Where the model files are. */
const MODELS = '/models';
const INDEX = `${MODELS}/index.json`;

/** The files of an SLM with their addresses: the shards in order, the tokenizer last. */
export function filesOf(slm: SlmManifest): { url: string; file: Shard }[] {
  const base = `${MODELS}/${encodeURIComponent(slm.id)}/${encodeURIComponent(slm.version)}`;
  return [...slm.shards, slm.tokenizer].map((file) => ({ url: `${base}/${encodeURIComponent(file.name)}`, file }));
}

/** Bytes of an SLM's download, whole. */
export function bytesOf(slm: SlmManifest): number {
  return filesOf(slm).reduce((sum, { file }) => sum + file.bytes, 0);
}

async function openCache(): Promise<Cache | undefined> {
  try {
    return await caches.open(CACHE);
  } catch {
    return undefined; // no cache in this context: everything still works, but is fetched again next time
  }
}

/** Bytes of an SLM that are here already. */
export async function cachedBytes(slm: SlmManifest): Promise<number> {
  const cache = await openCache();
  if (!cache) return 0;
  const sizes = await Promise.all(filesOf(slm).map(async ({ url, file }) => ((await cache.match(url)) ? file.bytes : 0)));
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

/** The server's index of SLMs; the one kept from the last visit where the server cannot be reached. */
export async function fetchIndex(): Promise<{ slms: SlmManifest[]; offline: boolean }> {
  const cache = await openCache();
  try {
    const response = await fetch(INDEX, { cache: 'no-cache' });
    if (!response.ok) throw new PageError('models-index', `the server answered ${response.status} for ${INDEX}`);
    const kept = response.clone();
    const slms = readIndex(await response.json());
    await cache?.put(INDEX, kept).catch(() => undefined);
    await dropOldVersions(slms, cache).catch(() => undefined);
    return { slms, offline: false };
  } catch (error) {
    const kept = await cache?.match(INDEX);
    if (kept) return { slms: readIndex(await kept.json()), offline: true };
    if (error instanceof PageError) throw error;
    throw new PageError('models-index', 'the list of models cannot be fetched; is the server running? Start it with `autoannotator serve` and reload');
  }
}

function readIndex(value: unknown): SlmManifest[] {
  const slms = (value as { slms?: unknown } | null)?.slms;
  if (!Array.isArray(slms)) throw new PageError('models-index', 'the list of models is not readable; run `autoannotator pack` again');
  return slms as SlmManifest[];
}

/** Steps that tests replace. */
export interface Tools {
  fetch: typeof fetch;
  wait: (ms: number) => Promise<void>;
  cache: Cache | undefined;
}

const TRIES = 4;

/** Brings one file, from the cache or the server. `onBytes` is told how many bytes of it are here. */
export async function bring(url: string, file: Shard, tools: Tools, onBytes: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const kept = await tools.cache?.match(url);
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
    if (bytes.length === file.bytes && (await sha256(bytes)) === file.sha256) {
      onBytes(bytes.length);
      return bytes;
    }
    await tools.cache?.delete(url); // spoilt on disk: fetch it again
  }
  let bytes = await download(url, file, tools, onBytes, 'default');
  if ((await sha256(bytes)) !== file.sha256) bytes = await download(url, file, tools, onBytes, 'reload');
  if ((await sha256(bytes)) !== file.sha256) {
    throw new PageError(
      'hash-mismatch',
      `${file.name} is not the file the server's index names (its SHA-256 differs, also when fetched anew). It was thrown away. Run \`autoannotator pack\` again on the server, then press retry`,
    );
  }
  await tools.cache?.put(url, new Response(bytes, { headers: { 'content-length': String(bytes.length) } })).catch(() => undefined);
  return bytes;
}

async function download(
  url: string,
  file: Shard,
  tools: Tools,
  onBytes: (bytes: number) => void,
  cache: RequestCache,
): Promise<Uint8Array<ArrayBuffer>> {
  let why = '';
  for (let attempt = 0; attempt < TRIES; attempt++) {
    if (attempt > 0) await tools.wait(500 * 2 ** attempt);
    onBytes(0);
    try {
      const response = await tools.fetch(url, { cache });
      if (response.status === 404) {
        throw new PageError('model-missing', `the server has no ${file.name} any more; reload the page to see its new list of models`);
      }
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      return await readAll(response, file, onBytes);
    } catch (error) {
      if (error instanceof PageError) throw error;
      why = error instanceof Error ? error.message : String(error);
    }
  }
  throw new PageError(
    'download-interrupted',
    `${file.name} could not be downloaded (${why}), after ${TRIES} tries. What has arrived is kept: check the connection and press retry`,
  );
}

async function readAll(response: Response, file: Shard, onBytes: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const all = new Uint8Array(file.bytes);
  let at = 0;
  const reader = response.body?.getReader();
  if (!reader) throw new Error('the answer has no body');
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > all.length) {
      await reader.cancel().catch(() => undefined);
      return new Uint8Array(0); // longer than it should be: its hash will not match
    }
    all.set(value, at);
    at += value.length;
    onBytes(at);
  }
  if (at < all.length) throw new Error(`only ${at} of ${all.length} bytes arrived`);
  return all;
}

/** SHA-256 in lower-case hexadecimal. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new PageError('insecure-context', 'the browser only checks downloads on https or localhost; open the page there');
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Shards that are fetched at once. */
const AT_ONCE = 2;

/** Brings an SLM: hands its shards to `push` in order, each checked and then let go of, and gives its tokenizer. */
export async function bringSlm(
  slm: SlmManifest,
  onBytes: (bytes: number) => void,
  push: (shard: Uint8Array<ArrayBuffer>) => Promise<void>,
  tools?: Tools,
): Promise<Uint8Array<ArrayBuffer>> {
  const own = tools ?? (await browserTools());
  const files = filesOf(slm);
  const here = files.map(() => 0);
  const start = (at: number): Promise<Uint8Array<ArrayBuffer>> => {
    const { url, file } = files[at] as { url: string; file: Shard };
    const bytes = bring(url, file, own, (count) => {
      here[at] = count;
      onBytes(here.reduce((sum, part) => sum + part, 0));
    });
    bytes.catch(() => undefined); // told when its turn comes
    return bytes;
  };
  const last = files.length - 1;
  const tokenizer = start(last);
  const coming = Array.from({ length: Math.min(AT_ONCE, last) }, (_, at) => start(at));
  for (let at = 0; at < last; at++) {
    const shard = await (coming.shift() as Promise<Uint8Array<ArrayBuffer>>);
    if (at + AT_ONCE < last) coming.push(start(at + AT_ONCE));
    await push(shard);
  }
  return tokenizer;
}

/** Brings what is missing of an SLM into the browser's cache; false: there is none, and whoever loads it downloads it. */
export async function bringIntoCache(slm: SlmManifest, onBytes: (bytes: number) => void): Promise<boolean> {
  const tools = await browserTools();
  if (!tools.cache) return false;
  if ((await cachedBytes(slm)) < bytesOf(slm)) await bringSlm(slm, onBytes, async () => undefined, tools);
  return true;
}

async function browserTools(): Promise<Tools> {
  return {
    fetch: (input, init) => fetch(input, init),
    wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    cache: await openCache(),
  };
}

/** Drops the files of versions that are not in the server's index any more. */
async function dropOldVersions(slms: SlmManifest[], cache: Cache | undefined): Promise<void> {
  const listed = new Set(slms.flatMap((slm) => filesOf(slm).map(({ url }) => url)));
  for (const request of (await cache?.keys()) ?? []) {
    const { pathname } = new URL(request.url);
    if (pathname !== INDEX && !listed.has(pathname)) await cache?.delete(request);
  }
}

/** What is wrong with the room on disk for `bytes` more, or undefined. */
export async function roomProblem(bytes: number): Promise<string | undefined> {
  if (bytes === 0 || !navigator.storage?.estimate) return undefined;
  const { quota = Number.POSITIVE_INFINITY, usage = 0 } = await navigator.storage.estimate();
  if (quota - usage >= bytes * 1.05) return undefined;
  const mb = (n: number) => `${Math.max(0, Math.floor(n / 1e6))} MB`;
  return `The browser leaves this page ${mb(quota - usage)}, and the models need ${mb(bytes)}. The run still works, but they will be downloaded again next time. Free disk space, or leave private browsing, to keep them.`;
}
