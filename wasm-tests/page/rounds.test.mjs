// A tab labels and hands its reviews in, the server holds a round, and the tab goes over to what it brought.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import { decide } from './review.mjs';
import { cache, companion, root, serve } from './servers.mjs';

const run = promisify(execFile);
const LONG = 5 * 60_000;
const SLMS = ['sentiment-minilm-l3', 'sentiment-minilm-l6'];
const BLOCK = 32;
/** Rows that are left when the new version is there take longer than the page needs to notice it. */
const ROWS = 12_000;
/** In the pool before the page hands anything in; with three more the round begins. */
const POOLED = 150;

const PHRASES = {
  positive: ['guidance raised to', 'order intake above', 'margin widened past', 'dividend lifted to'],
  negative: ['guidance cut to', 'order intake below', 'margin narrowed under', 'dividend trimmed to'],
  neutral: ['annual meeting on day', 'report number', 'listing moved to desk', 'auditor appointed for year'],
};
const LABELS = Object.keys(PHRASES);

function text(number) {
  const label = LABELS[number % 3];
  return { label, text: `${PHRASES[label][Math.floor(number / 3) % 4]} ${number}` };
}

let folder;
let home;
let server;
let browser;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-rounds-'));
  home = path.join(folder, 'home');
  await mkdir(home);
  // The bases that `make pull` brought; everything else is this test's own.
  await symlink(path.join(cache, 'bases'), path.join(home, 'bases'));
  await run(companion(), ['pack', ...SLMS, '--home', home], { cwd: root });
  const reviews = Array.from({ length: POOLED }, (_, number) => text(number));
  await writeFile(path.join(folder, 'reviews.csv'), `text,review.label,review.by\n${reviews.map((one) => `${one.text},${one.label},human`).join('\n')}\n`);
  await run(companion(), ['pool', 'add', path.join(folder, 'reviews.csv'), '--task', 'sentiment', '--home', home], { cwd: root });
  await writeFile(path.join(folder, 'spec.toml'), `task = "sentiment"\nslms = ${JSON.stringify(SLMS)}\n[review]\nto = "person"\nkeep_text = true\n[tune]\npool = ${POOLED + 3}\n`);
  await writeFile(path.join(folder, 'server.toml'), '[rounds.sentiment]\nlayers = 1\nlr = 2e-3\nepochs = 6\n');
  server = await serve(undefined, ['--home', home, '--spec', path.join(folder, 'spec.toml'), '--config', path.join(folder, 'server.toml')]);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  server?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

const index = async () => (await fetch(`${server.url}/models/index.json`)).json();
const rounds = async () => (await (await fetch(`${server.url}/v1/rounds`)).json()).sentiment;

/** The packed int8 version of each SLM. */
async function versions() {
  const { slms } = await index();
  return Object.fromEntries(slms.filter((slm) => slm.precision === 'int8').map((slm) => [slm.id, slm.version]));
}

async function until(what, check) {
  for (let tries = 0; tries < LONG / 200; tries++) {
    const found = await check();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`never: ${what}; ${JSON.stringify(await rounds())}`);
}

test('a running tab takes a new version over between two blocks and loses no row', { timeout: 4 * LONG }, async () => {
  const before = await versions();
  const file = path.join(folder, 'texts.csv');
  await writeFile(file, `text\n${Array.from({ length: ROWS }, (_, number) => text(number + 1000).text).join('\n')}\n`);
  const page = await (await browser.newContext({ acceptDownloads: true })).newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  const posted = [];
  page.on('request', (request) => request.method() === 'POST' && posted.push(request));
  await page.goto(server.url);
  await page.setInputFiles('#choose-file', file);
  await page.waitForSelector('.what');
  await page.check('input[value=sentiment]');
  await page.check('input[value=cpu]');
  assert.equal(await page.isChecked('input[name=hand-in]'), false, 'nothing is kept by the server unless the person says so');
  await page.click('.what button.primary');
  await page.waitForFunction(() => Number(/\((\d[\d,]*)\)/.exec(document.querySelector('#tab-review')?.textContent ?? '')?.[1]) >= 5, undefined, { timeout: LONG });
  await page.click('text=Pause');

  // Three reviews, with consent: the pool is full.
  await page.click('#tab-review');
  await decide(page, 3);
  await new Promise((resolve) => setTimeout(resolve, 6000));
  assert.deepEqual(posted, [], 'without consent nothing is sent');
  await page.click('#tab-overview');
  await page.check('input[name=hand-in]');
  const round = await until('a round has ended', async () => (await rounds()).last);
  assert.equal(round.outcome, 'done', JSON.stringify(round));
  assert.ok(round.reports.some((report) => report.outcome === 'promoted'), JSON.stringify(round));
  assert.equal(posted.length, 1);
  assert.equal(JSON.parse(posted[0].postData()).annotations.length, 3);
  // What the page is told comes a moment after what was asked here.
  await page.waitForSelector('.hand-in:has-text("3 handed in")', { timeout: LONG });
  assert.equal(await page.textContent('#tab-sent'), 'Sent (3)', 'what is handed in has left the device too');
  await page.waitForSelector('.hand-in:has-text("better")', { timeout: LONG });

  const now = await versions();
  assert.notDeepEqual(now, before);
  await page.click('text=Resume');
  await page.waitForSelector('[data-code="versions-new"]', { timeout: LONG });
  await page.waitForSelector('.pill.done', { timeout: LONG });
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('button[aria-label="Export JSONL"]')]);
  const rows = (await readFile(await download.path(), 'utf8')).split('\n').filter(Boolean).map((line) => JSON.parse(line));
  assert.deepEqual(rows.map((row) => row.text), Array.from({ length: ROWS }, (_, number) => text(number + 1000).text), 'every row, once, in order');

  // Each row is wholly of one set of versions, and so is its block.
  const sets = [before, now].map((versions) => SLMS.map((slm) => versions[slm]).join());
  const of = rows.map((row) => sets.indexOf(SLMS.map((slm) => row[`${slm}.version`]).join()));
  assert.ok(!of.includes(-1), 'versions were mixed');
  for (let at = 0; at < ROWS; at++) assert.equal(of[at], of[at - (at % BLOCK)], `block of row ${at}`);
  const later = of.filter((set) => set === 1).length;
  assert.ok(later > 0 && later < ROWS, `${later} of ${ROWS} rows are of the new versions`);

  // What the new versions say is what the companion says with them.
  const out = path.join(folder, 'out.jsonl');
  await run(companion(), ['annotate', file, '--spec', path.join(folder, 'spec.toml'), '--review', 'none', '--home', home, '--out', out], { cwd: root });
  const wanted = (await readFile(out, 'utf8')).split('\n').filter(Boolean).map((line) => JSON.parse(line));
  rows.forEach((row, at) => {
    for (const slm of SLMS) {
      if (row[`${slm}.version`] !== now[slm]) continue;
      for (const label of LABELS) assert.ok(Math.abs(row[`${slm}.p.${label}`] - wanted[at][`${slm}.p.${label}`]) < 0.03, `row ${at}, ${slm}`);
    }
  });
});
