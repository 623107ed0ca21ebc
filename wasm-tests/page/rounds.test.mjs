// A tab labels and hands its reviews in; the server holds a round, and goes a step back after it. The tab, which labels all the
// while, goes over to either.
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
const ROWS = 5120;
/** Every so many rows one that the companion labels too. */
const STEP = 16;
/** Milliseconds that a worker waits before it votes, as on a slow device: the rows last longer than the round, which has the cores. */
const SLOW = 3000;
/** The files of the SLMs. */
const FILES = '**/models/*/*/*';
/** In the pool before the page hands anything in; with three more the round begins. */
const POOLED = 150;

const PHRASES = {
  positive: ['guidance raised to', 'order intake above', 'margin widened past', 'dividend lifted to'],
  negative: ['guidance cut to', 'order intake below', 'margin narrowed under', 'dividend trimmed to'],
  neutral: ['annual meeting on day', 'report number', 'listing moved to desk', 'auditor appointed for year'],
};
const LABELS = Object.keys(PHRASES);
/** What the SLMs do not agree on. */
const HARD = [
  'screen died after 4 days. FOUR. days.',
  "It's windy.",
  'My phone updated overnight and now the keyboard lags on every single letter. Thanks for nothing.',
  'Honestly the cake is dry, but the coffee makes up for it.',
  'They have oat milk now! No extra charge! What a day!',
  "It's a phone. It makes calls. I don't know what else you want me to say.",
];

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
  await run(companion(), ['pool', 'add', path.join(folder, 'reviews.csv'), '--task', 'sentiment', '--keep-text', '--home', home], { cwd: root });
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

const rounds = async () => (await (await fetch(`${server.url}/v1/rounds`)).json()).sentiment;
const lines = (text) => text.split('\n').filter(Boolean).map((line) => JSON.parse(line));

/** The packed int8 version of each SLM. */
async function versions() {
  const { slms } = await (await fetch(`${server.url}/models/index.json`)).json();
  return SLMS.map((id) => slms.find((slm) => slm.id === id && slm.precision === 'int8').version);
}

async function until(what, check) {
  for (let tries = 0; tries < LONG / 200; tries++) {
    const found = await check();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`never: ${what}; ${JSON.stringify(await rounds())}`);
}

async function written(name, texts) {
  const file = path.join(folder, name);
  await writeFile(file, texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  return file;
}

/** What the companion says of some of the rows, with the versions that are packed now. */
async function companionSays(texts) {
  const file = await written('some.jsonl', texts.filter((_, at) => at % STEP === 0));
  const out = path.join(folder, 'said.jsonl');
  await run(companion(), ['annotate', file, '--spec', path.join(folder, 'spec.toml'), '--review', 'none', '--home', home, '--out', out], { cwd: root });
  return lines(await readFile(out, 'utf8'));
}

/**
 * In the page: two workers, on any number of cores; what is asked of them waits for `pace`. Each block that is stored is noted,
 * with the versions of all its votes.
 */
function watch(pace) {
  globalThis.pace = pace;
  globalThis.stored = [];
  Object.defineProperty(navigator, 'hardwareConcurrency', { value: 2 });
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...more) {
    const { name, args } = message;
    if (name === 'settle') globalThis.stored.push({ block: args.block, versions: args.votes.map((votes) => [...new Set(votes.map((vote) => vote.version))].join('+')).join() });
    if (name === 'run') setTimeout(() => post.call(this, message, ...more), globalThis.pace);
    else post.call(this, message, ...more);
  };
}

const stored = (page) => page.evaluate(() => globalThis.stored);

/** A page that labels the file, with consent to nothing, and what it posts. */
async function labelling(file) {
  const page = await (await browser.newContext({ acceptDownloads: true })).newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  const posted = [];
  page.on('request', (request) => request.method() === 'POST' && posted.push(request));
  await page.addInitScript(watch, SLOW);
  await page.goto(server.url);
  await page.setInputFiles('#choose-file', file);
  await page.waitForSelector('.what');
  await page.check('input[value=sentiment]');
  await page.check('input[value=cpu]');
  assert.equal(await page.isChecked('input[name=hand-in]'), false, 'nothing is kept by the server unless the person says so');
  await page.click('.what button.primary');
  await page.waitForFunction(() => Number(/\((\d[\d,]*)\)/.exec(document.querySelector('#tab-review')?.textContent ?? '')?.[1]) >= 3, undefined, { timeout: LONG });
  return { page, posted };
}

/** Three reviews, with consent: the pool is full. */
async function handIn(page, posted) {
  await page.click('#tab-review');
  await decide(page, 3);
  await new Promise((resolve) => setTimeout(resolve, 6000));
  assert.deepEqual(posted, [], 'without consent nothing is sent');
  await page.click('#tab-overview');
  await page.check('input[name=hand-in]');
  // What the page is told comes a moment after what was asked here.
  await page.waitForSelector('.hand-in:has-text("3 handed in")', { timeout: LONG });
  assert.equal(posted.length, 1);
  assert.equal(JSON.parse(posted[0].postData()).annotations.length, 3);
  assert.equal(await page.textContent('#tab-sent'), 'Sent (3)', 'what is handed in has left the device too');
}

/** The SLMs that the round makes better; the tab labels during all of it. */
async function betterAfterRound(page, first) {
  await until('a round begins', async () => (await rounds()).running ?? (await rounds()).last);
  const { length } = await stored(page);
  const round = await until('a round has ended', async () => (await rounds()).last);
  assert.ok((await stored(page)).slice(length).some((one) => one.versions === first.join()), 'the tab labels during the round');
  assert.equal(round.outcome, 'done', JSON.stringify(round));
  const better = SLMS.filter((slm) => round.reports.some((report) => report.slm === slm && report.outcome === 'promoted'));
  assert.ok(better.length > 0, JSON.stringify(round));
  await page.waitForSelector('.hand-in:has-text("better")', { timeout: LONG });
  return better;
}

/** The next file of an SLM that the page loads comes once this was done. */
async function whileLoading(page, act) {
  const held = async (route) => {
    await act(page);
    await route.continue();
  };
  await page.route(FILES, held, { times: 1 });
}

/** The versions before go on: they label one more block. */
async function oneMore(page) {
  const { length } = await stored(page);
  await until('the versions before go on', async () => (await stored(page)).length > length);
}

async function pauseAndResume(page) {
  await page.click('text=Pause');
  await page.click('text=Resume');
  await page.waitForSelector('.pill.running');
}

const rollBack = (slm, ...to) => run(companion(), ['versions', '--roll-back', slm, ...to, '--home', home], { cwd: root });

/** Waits until the tab labels with these versions and says so, before it is through. */
async function goesOver(page, now, changed) {
  await until(`a block of ${now}`, async () => {
    const all = await stored(page);
    assert.ok(all.length < ROWS / BLOCK, 'the tab was through before it took the versions over');
    return all.at(-1)?.versions === now.join();
  });
  const said = await page.textContent('[data-code="versions-new"]');
  assert.ok(said.includes(`new versions of ${changed.join(', ')}:`), said);
}

test('a tab that labels takes new versions over between two blocks, and older ones again, and loses no row', { timeout: 4 * LONG }, async () => {
  const texts = [...HARD, ...Array.from({ length: ROWS - HARD.length }, (_, number) => text(number + 1000).text)];
  const first = await versions();
  const said = new Map([[first.join(), await companionSays(texts)]]);
  const { page, posted } = await labelling(await written('texts.jsonl', texts));

  await whileLoading(page, oneMore);
  await handIn(page, posted);
  const better = await betterAfterRound(page, first);
  const tuned = await versions();
  said.set(tuned.join(), await companionSays(texts));
  await goesOver(page, tuned, better);

  // A step back, which Resume finds as well while the tab loads it.
  const [slm] = better;
  await whileLoading(page, pauseAndResume);
  await rollBack(slm);
  const back = await versions();
  assert.deepEqual(back, tuned.map((version, at) => (SLMS[at] === slm ? first[at] : version)));
  said.set(back.join(), await companionSays(texts));
  await goesOver(page, back, [slm]);

  // And forward again, as it labels.
  await whileLoading(page, oneMore);
  await rollBack(slm, '--to', '1');
  assert.deepEqual(await versions(), tuned);
  await goesOver(page, tuned, [slm]);

  await page.evaluate(() => (globalThis.pace = 0));
  await page.waitForSelector('.pill.done', { timeout: LONG });
  assert.equal(await page.locator('[data-code=versions-failed], [data-code=run-stopped]').count(), 0);
  const blocks = await stored(page);
  const inTurn = blocks.map((one) => one.versions).filter((versions, at, all) => versions !== all[at - 1]);
  assert.deepEqual(inTurn, [first, tuned, back, tuned].map(String), 'one set of versions after another, mixed in no block');
  assert.deepEqual(blocks.map((one) => one.block).sort((a, b) => a - b), Array.from({ length: ROWS / BLOCK }, (_, block) => block), 'every block, once');

  const [download] = await Promise.all([page.waitForEvent('download'), page.click('button[aria-label="Export JSONL"]')]);
  const labelled = lines(await readFile(await download.path(), 'utf8'));
  assert.deepEqual(labelled.map((row) => row.text), texts, 'every row, once, in order');
  const versionsOf = new Map(blocks.map((one) => [one.block, one.versions]));
  labelled.forEach((row, at) => {
    const own = SLMS.map((slm) => row[`${slm}.version`]).join();
    assert.equal(own, versionsOf.get(Math.floor(at / BLOCK)), `row ${at} has the versions that voted on its block`);
    if (at % STEP !== 0) return;
    // What versions say is what the companion says with them.
    const wanted = said.get(own)[at / STEP];
    for (const slm of SLMS) for (const label of LABELS) assert.ok(Math.abs(row[`${slm}.p.${label}`] - wanted[`${slm}.p.${label}`]) < 0.03, `row ${at}, ${slm}`);
  });
});
