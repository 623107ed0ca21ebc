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
  // What the server says to the tokens `late` and `later` is held until the test lets it go.
  let letGo;
  await page.route('**/v1/status', async (route) => {
    if (route.request().headers().authorization?.startsWith('Bearer late')) await new Promise((go) => (letGo = go));
    await route.continue();
  });
  const held = async () => {
    while (!letGo) await page.waitForTimeout(20);
    const go = letGo;
    letGo = undefined;
    return go;
  };
  const give = async (token) => {
    await page.fill('input[name=token]', token);
    await page.keyboard.press('Tab');
  };
  await give('late');
  let answer = await held();
  assert.equal(await page.locator('[role=alert]').count(), 0, 'the server has not judged this token yet');
  await page.fill('input[name=token]', 'half typed');
  answer();
  await page.waitForSelector('[role=alert]:has-text("does not know")');
  assert.equal(await page.inputValue('input[name=token]'), 'half typed', 'an answer does not take away what is being typed');
  await give('later');
  answer = await held();
  await give('open sesame');
  await page.waitForSelector('input[value=llm]:enabled');
  const late = page.waitForResponse((response) => response.request().headers().authorization === 'Bearer later');
  answer();
  await (await late).finished();
  await page.waitForTimeout(200);
  assert.ok(await reviewer.isEnabled(), 'the late answer is of another token');
  await page.reload();
  await page.waitForSelector('input[value=llm]:enabled');
  const other = await browser.newPage();
  await other.goto(server.url);
  assert.equal(await other.evaluate(() => sessionStorage.length), 0, 'another tab is asked again');
});
