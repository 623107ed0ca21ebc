import { createHash } from 'node:crypto';
import { expect, test, vi } from 'vitest';
import { bring, bringSlm, filesOf, type Tools } from '../src/core/download';
import type { SlmManifest } from '../src/core/types';

const good = new Uint8Array([1, 2, 3, 4, 5]);
const bad = new Uint8Array([1, 2, 3, 4, 6]);
const file = { name: 'a.bin', bytes: 5, sha256: createHash('sha256').update(good).digest('hex') };

/** A cache that holds bytes in a map. */
function cacheOf(kept: Map<string, Uint8Array<ArrayBuffer>>): Cache {
  return {
    match: async (url: string) => (kept.has(url) ? new Response(kept.get(url)) : undefined),
    put: async (url: string, response: Response) => void kept.set(url, new Uint8Array(await response.arrayBuffer())),
    delete: async (url: string) => kept.delete(url),
  } as unknown as Cache;
}

function tools(answers: (Uint8Array<ArrayBuffer> | number | Error)[], kept = new Map<string, Uint8Array<ArrayBuffer>>()) {
  const modes: (RequestCache | undefined)[] = [];
  const fetch = vi.fn(async (_url: unknown, init?: RequestInit) => {
    modes.push(init?.cache);
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    if (typeof answer === 'number') return new Response('', { status: answer });
    return new Response(answer);
  });
  return { fetch: fetch as unknown as typeof globalThis.fetch, wait: async () => undefined, cache: cacheOf(kept), modes, kept, calls: fetch.mock.calls };
}

const nothing = () => undefined;

test('a good file is kept, and not fetched again', async () => {
  const first = tools([good]);
  expect(await bring('/f', file, first as Tools, nothing)).toEqual(good);
  const second = tools([], first.kept);
  expect(await bring('/f', file, second as Tools, nothing)).toEqual(good);
  expect(second.calls.length).toBe(0);
});

test('a file that is spoilt in the cache is fetched again', async () => {
  const kept = new Map([['/f', bad]]);
  expect(await bring('/f', file, tools([good], kept) as Tools, nothing)).toEqual(good);
  expect(kept.get('/f')).toEqual(good);
});

test('a wrong hash is fetched once more past the caches, then it is an error and nothing is kept', async () => {
  const mended = tools([bad, good]);
  expect(await bring('/f', file, mended as Tools, nothing)).toEqual(good);
  expect(mended.modes).toEqual(['default', 'reload']);
  const spoilt = tools([bad, bad]);
  await expect(bring('/f', file, spoilt as Tools, nothing)).rejects.toMatchObject({ code: 'hash-mismatch' });
  expect(spoilt.kept.size).toBe(0);
});

test('an interrupted download is tried again, then told', async () => {
  expect(await bring('/f', file, tools([new Error('reset'), 503, good.slice(0, 3), good]) as Tools, nothing)).toEqual(good);
  await expect(bring('/f', file, tools([500, 500, 500, new Error('reset')]) as Tools, nothing)).rejects.toMatchObject({ code: 'download-interrupted' });
});

test('a file that is longer than it should be is refused', async () => {
  const long = new Uint8Array(9);
  await expect(bring('/f', file, tools([long, long]) as Tools, nothing)).rejects.toMatchObject({ code: 'hash-mismatch' });
});

test('a file the server no longer has is not asked for again', async () => {
  const gone = tools([404]);
  await expect(bring('/f', file, gone as Tools, nothing)).rejects.toMatchObject({ code: 'model-missing' });
  expect(gone.calls.length).toBe(1);
});

/** An SLM of five shards, its files by address, and a network that answers when it is told to. */
function distant() {
  const shaOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
  const part = (name: string, bytes: Uint8Array<ArrayBuffer>) => ({ name, bytes: bytes.length, sha256: shaOf(bytes) });
  const contents = [0, 1, 2, 3, 4].map((at) => new Uint8Array(10 + at).fill(at));
  const tokenizer = new Uint8Array([9, 9]);
  const slm = { id: 'm', version: 'v', shards: contents.map((bytes, at) => part(`${at}.bin`, bytes)), tokenizer: part('tokenizer.json', tokenizer) } as SlmManifest;
  const bodies = new Map(filesOf(slm).map(({ url }, at) => [url, contents[at] ?? tokenizer]));
  const open = new Map<string, (answer: Response) => void>();
  const fetch = (url: string) => new Promise<Response>((resolve) => open.set(url, resolve));
  const own = { fetch: fetch as unknown as typeof globalThis.fetch, wait: async () => undefined, cache: cacheOf(new Map()) } as Tools;
  const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
  const answer = async (url: string, response = new Response(bodies.get(url))) => {
    const resolve = await vi.waitUntil(() => open.get(url));
    open.delete(url);
    resolve(response);
    await settle();
  };
  const shard = (at: number) => filesOf(slm)[at]?.url as string;
  return { slm, contents, tokenizer, own, open, answer, shard, settle };
}

test('shards are handed over in order, two on their way at once, beside the tokenizer', async () => {
  const { slm, contents, tokenizer, own, open, answer, shard, settle } = distant();
  const pushed: number[] = [];
  let told = 0;
  const brought = bringSlm(slm, (bytes) => (told = bytes), async (bytes) => void pushed.push(bytes[0] as number), own);
  await vi.waitUntil(() => open.size === 3);
  expect([...open.keys()].sort()).toEqual([shard(0), shard(1), shard(5)]);
  await answer(shard(1)); // out of order: it waits for its turn
  expect(pushed).toEqual([]);
  expect([...open.keys()]).toContain(shard(0));
  expect([...open.keys()]).not.toContain(shard(2));
  await answer(shard(0));
  await vi.waitUntil(() => pushed.length === 2);
  expect(pushed).toEqual([0, 1]);
  for (const at of [3, 2, 4, 5]) await answer(shard(at));
  expect(await brought).toEqual(tokenizer);
  expect(pushed).toEqual([0, 1, 2, 3, 4]);
  expect(told).toBe(contents.reduce((sum, bytes) => sum + bytes.length, tokenizer.length));
});

test('a second time nothing is fetched', async () => {
  const { slm, tokenizer, own, answer, shard, settle } = distant();
  const first = bringSlm(slm, nothing, async () => undefined, own);
  await settle();
  for (const at of [0, 1, 2, 3, 4, 5]) await answer(shard(at));
  await first;
  let told = 0;
  expect(await bringSlm(slm, (bytes) => (told = bytes), async () => undefined, { ...own, fetch: undefined as never })).toEqual(tokenizer);
  expect(told).toBe(62);
});

test('a shard that cannot be had ends it, and nothing after it is handed over', async () => {
  const { slm, own, answer, shard, settle } = distant();
  const pushed: number[] = [];
  const lost = expect(bringSlm(slm, nothing, async (bytes) => void pushed.push(bytes[0] as number), own)).rejects.toMatchObject({ code: 'model-missing' });
  await settle();
  await answer(shard(0));
  await answer(shard(2));
  await answer(shard(1), new Response('', { status: 404 }));
  await lost;
  expect(pushed).toEqual([0]);
});
