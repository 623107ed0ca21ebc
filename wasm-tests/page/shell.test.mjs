// What the browser makes of the server's headers and of the page's hashes.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { proxy, serve, stubLlm } from './servers.mjs';

const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--headless=new', '--no-sandbox', '--disable-background-networking'] });

test('a script that is not the built one is not run', { timeout: 120_000 }, async (context) => {
  const server = await serve();
  const front = await proxy(server.url);
  const browser = await launch();
  context.after(async () => {
    await browser.close();
    front.stop();
    server.stop();
  });
  const said = [];
  const visit = async () => {
    const page = await (await browser.newContext()).newPage();
    page.on('console', (message) => said.push(message.text()));
    await page.goto(front.url);
    return page;
  };
  await (await visit()).waitForSelector('.drop');
  assert.deepEqual(said, [], 'the page starts, and nothing is refused');
  // A space for the last character, which would run as well.
  const change = (script) => Buffer.concat([script.subarray(0, -1), Buffer.from(' ')]);
  front.fault = (request) => (/\/assets\/.*\.js$/.test(request.url) ? { change } : undefined);
  const page = await visit();
  await page.waitForLoadState('networkidle');
  assert.equal(await page.locator('#app > *').count(), 0);
  assert.ok(said.some((text) => text.includes('integrity')), said.join('\n'));
});

/** A page of another site. */
async function site() {
  const server = http.createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>labels</title>'));
  const port = await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
  return { url: `http://localhost:${port}`, stop: () => server.close() };
}

test('pages of listed origins may use the API, others may not', { timeout: 120_000 }, async (context) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-origin-'));
  const config = path.join(folder, 'server.toml');
  const [llm, listed, other] = [await stubLlm(), await site(), await site()];
  const hash = createHash('sha256').update('open sesame').digest('hex');
  await writeFile(config, `origins = ["${listed.url}"]\n[[tokens]]\nname = "me"\nsha256 = "${hash}"\nscopes = ["review"]\n`);
  const server = await serve(llm.url, ['--config', config]);
  const browser = await launch();
  context.after(async () => {
    await browser.close();
    for (const one of [server, llm, listed, other]) one.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const review = async (from) => {
    const page = await browser.newPage();
    await page.goto(from);
    return page.evaluate(async (url) => {
      const headers = { authorization: 'Bearer open sesame', 'content-type': 'application/json', 'idempotency-key': 'one' };
      const body = JSON.stringify({ task: 'sentiment', items: [{ id: '1', text: 'a text' }] });
      try {
        const answer = await fetch(`${url}/v1/review`, { method: 'POST', headers, body });
        return (await answer.json()).items[0].id;
      } catch (error) {
        return error.name;
      }
    }, server.url);
  };
  assert.equal(await review(listed.url), '1');
  assert.equal(await review(other.url), 'TypeError');
});
