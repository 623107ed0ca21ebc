import { createHash } from 'node:crypto';
import { expect, test, vi } from 'vitest';
import { bring, type Tools } from '../src/core/download';

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
