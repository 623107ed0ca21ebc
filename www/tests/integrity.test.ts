import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const dist = (path: string) => new URL(`../dist${path}`, import.meta.url);

test('the built page takes its scripts and styles only with their hashes', () => {
  const tags = readFileSync(dist('/index.html'), 'utf8').match(/<(?:script|link)\b[^>]*>/g) ?? [];
  const loads = tags.filter((tag) => !tag.includes('rel="icon"'));
  expect(loads.length).toBeGreaterThanOrEqual(2);
  for (const tag of loads) {
    const [, url] = /\b(?:src|href)="([^"]+)"/.exec(tag) ?? [];
    const [, integrity] = /\bintegrity="([^"]+)"/.exec(tag) ?? [];
    const hash = createHash('sha384').update(readFileSync(dist(url ?? ''))).digest('base64');
    expect(integrity, tag).toBe(`sha384-${hash}`);
  }
});
