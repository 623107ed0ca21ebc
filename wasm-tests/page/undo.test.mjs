// A label that was handed in and is taken back: the server's pool has it no more.
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import { decide } from './review.mjs';
import { root, serve } from './servers.mjs';

const LONG = 120_000;

test('a label that is undone leaves the pool again, also after a reload', { timeout: 3 * LONG }, async (context) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-undo-'));
  const spec = path.join(folder, 'spec.toml');
  await writeFile(spec, 'task = "sentiment"\nslms = ["sentiment-minilm-l3", "sentiment-minilm-l6"]\n[review]\nto = "person"\nkeep_text = true\n');
  const server = await serve(undefined, ['--spec', spec]);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--headless=new', '--no-sandbox', '--disable-background-networking'] });
  context.after(async () => {
    await browser.close();
    server.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const page = await browser.newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  const unused = async () => (await (await fetch(`${server.url}/v1/rounds`)).json()).sentiment.unused;
  const pooled = async (count) => {
    for (let tries = 0; (await unused()) !== count; tries++) {
      assert.ok(tries < LONG / 200, `the pool has ${await unused()}, not ${count}`);
      await page.waitForTimeout(200);
    }
  };
  await page.goto(server.url);
  await page.setInputFiles('#choose-file', path.join(root, 'www/public/sample-tweets.csv'));
  await page.check('input[value=sentiment]');
  await page.check('input[value=cpu]');
  await page.check('input[name=hand-in]');
  await page.click('.what button.primary');
  await page.click('#tab-review', { timeout: LONG });
  await page.waitForSelector('.sample', { timeout: LONG });
  await decide(page, 2);
  await pooled(2);
  await page.keyboard.press('u');
  await pooled(1);
  await page.reload();
  await page.waitForSelector('.sample', { timeout: LONG });
  await page.keyboard.press('u');
  await pooled(0);
  assert.equal(await page.locator('[role=alert]').count(), 0);
});
