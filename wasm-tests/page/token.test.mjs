// A server that asks for a token, and the page that is given one.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { root, serve, stubLlm } from './servers.mjs';

test('with the token the reviewer is there, and it stays in the tab', { timeout: 120_000 }, async (context) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-token-'));
  const hash = createHash('sha256').update('open sesame').digest('hex');
  const config = path.join(folder, 'server.toml');
  await writeFile(config, `[[tokens]]\nname = "me"\nsha256 = "${hash}"\nscopes = ["review"]\n`);
  const llm = await stubLlm();
  const server = await serve(llm.url, ['--config', config]);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--headless=new', '--no-sandbox', '--disable-background-networking'] });
  context.after(async () => {
    await browser.close();
    server.stop();
    llm.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const page = await browser.newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  await page.goto(server.url);
  await page.setInputFiles('#choose-file', path.join(root, 'www/public/sample-tweets.csv'));
  await page.waitForSelector('input[name=token]');
  const reviewer = page.locator('input[value=llm]');
  assert.ok(await reviewer.isDisabled());
  await page.fill('input[name=token]', 'abracadabra');
  await page.keyboard.press('Tab');
  await page.waitForSelector('[role=alert]:has-text("does not know")');
  await page.fill('input[name=token]', 'open sesame');
  await page.keyboard.press('Tab');
  await page.waitForSelector('input[value=llm]:enabled');
  await page.reload();
  await page.waitForSelector('input[value=llm]:enabled');
  const other = await browser.newPage();
  await other.goto(server.url);
  assert.equal(await other.evaluate(() => sessionStorage.length), 0, 'another tab is asked again');
});
