// The recipes of the package's README, run as they stand there.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, test } from 'node:test';
import * as esbuild from 'esbuild';
import { chromium } from 'playwright-core';
import * as vite from 'vite';
import { inWorkerd } from './isolates.mjs';
import { consumer, env, fileServer, folder, lines, models, noModels, reviewer, root, RUNTIMES } from './kit.mjs';

const recipes = path.join(root, 'pkg/recipes');
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const ARGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const HARD = 'the rocket by @someone is not bad at all, write to me@example.com';

describe('recipes', { skip: noModels }, () => {
  test('a crowd-labelling page', async () => {
    const out = await consumer('crowd');
    await cp(path.join(recipes, 'crowd.html'), path.join(out, 'index.html'));
    await vite.build({ root: out, logLevel: 'error', build: { target: 'es2022' } });
    await writeFile(path.join(out, 'dist/texts.json'), JSON.stringify(['I love this film', HARD, 'worst day ever, I hate it']));
    const served = await fileServer({ '/models/': models, '/': path.join(out, 'dist') });
    const browser = await chromium.launch({ executablePath, args: ARGS });
    try {
      const page = await browser.newPage();
      page.on('pageerror', (error) => assert.fail(error.stack));
      await page.goto(served.url);
      await page.click('button[value=positive]');
      await page.waitForFunction(() => document.title === 'Done');
      assert.deepEqual(await page.locator('li').allTextContents(), ['positive (consensus): I love this film', `positive (human): ${HARD}`, 'negative (consensus): worst day ever, I hate it']);
    } finally {
      await browser.close();
      served.stop();
    }
  });

  test('a moderation worker', async () => {
    const worker = await inWorkerd('moderation.js', recipes);
    const say = async (body) => {
      const response = await worker.miniflare.dispatchFetch('http://edge/', { method: 'POST', body });
      return [response.status, await response.text()];
    };
    try {
      assert.deepEqual(await say('thank you, see you tomorrow'), [202, 'sent']);
      assert.deepEqual(await say('you are a stupid idiot and I hate you'), [403, 'refused']);
      assert.deepEqual(await say('  '), [202, 'held back']);
    } finally {
      await worker.stop();
    }
  });

  for (const [name, [file, ...args]] of Object.entries(RUNTIMES)) {
    test(`a batch job, ${name}`, async () => {
      const out = await consumer('batch');
      await cp(path.join(recipes, 'batch.js'), path.join(out, 'batch.js'));
      const desk = await reviewer();
      const texts = ['I love this film', HARD, '"quoted"\nlines'];
      const child = spawn(file, [...args, 'batch.js', models, desk.url], { cwd: out, env, stdio: ['pipe', 'pipe', 'inherit'] });
      child.stdin.end(texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
      let said = '';
      child.stdout.on('data', (part) => (said += part));
      const code = await new Promise((done) => child.on('close', done));
      desk.stop();
      assert.equal(code, 0);
      const found = lines(said);
      assert.deepEqual(found.map(({ sample }) => sample.text), texts);
      assert.deepEqual(found.slice(0, 2).map(({ label, source }) => [label, source]), [['positive', 'consensus'], ['neutral', 'llm']]);
    });
  }

  test('a browser extension’s service worker', async () => {
    const out = await consumer('extension');
    const extension = path.join(out, 'extension');
    await cp(path.join(recipes, 'extension'), extension, { recursive: true });
    await esbuild.build({ absWorkingDir: out, entryPoints: ['extension/background.js'], outdir: 'extension/built', bundle: true, format: 'esm', loader: { '.wasm': 'file' }, logLevel: 'error' });
    const index = JSON.parse(await readFile(path.join(models, 'index.json'), 'utf8'));
    const slms = index.slms.filter(({ id, precision }) => id === 'sentiment-minilm-l3' && precision === 'int8');
    await mkdir(path.join(extension, 'models'));
    await writeFile(path.join(extension, 'models/index.json'), JSON.stringify({ slms }));
    for (const { id, version } of slms) await cp(path.join(models, id, version), path.join(extension, 'models', id, version), { recursive: true });
    await writeFile(path.join(extension, 'page.html'), '<!doctype html><title>-</title>');
    const context = await chromium.launchPersistentContext(folder('profile'), { executablePath, args: [...ARGS, `--disable-extensions-except=${extension}`, `--load-extension=${extension}`], ignoreDefaultArgs: ['--disable-extensions'] });
    try {
      const worker = context.serviceWorkers()[0] ?? (await context.waitForEvent('serviceworker', { timeout: 20_000 }));
      const page = await context.newPage();
      await page.goto(new URL('/page.html', worker.url()).href);
      assert.deepEqual(await page.evaluate(() => chrome.runtime.sendMessage({ texts: ['I love this film', 'worst day ever, I hate it'] })), ['positive', 'negative']);
    } finally {
      await context.close();
    }
  });
});
