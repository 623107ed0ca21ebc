import { afterEach, expect, test, vi } from 'vitest';
import { ask, seal } from '../src/core/api';

afterEach(() => {
  seal(false);
  vi.unstubAllGlobals();
});

test('while nothing may be sent, a request that carries something is refused before it is made', async () => {
  const sent = vi.fn(async () => new Response('{}'));
  vi.stubGlobal('fetch', sent);
  await ask('/v1/review', { method: 'POST', body: 'x' });
  expect(sent).toHaveBeenCalledTimes(1);
  seal(true);
  for (const body of ['x', '', new Blob(['x'])]) await expect(ask('/v1/review', { method: 'POST', body })).rejects.toThrow(/never sends/);
  await ask('/v1/status');
  expect(sent).toHaveBeenCalledTimes(2);
});
