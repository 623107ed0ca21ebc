// The built page in Chromium, against the real companion. `npm run page` in wasm-tests/.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import { cases, file as reference, labels, pack } from '../reference.mjs';
import { companion, proxy, require, root, serve, stubLlm } from './servers.mjs';

const SAMPLE = path.join(root, 'www/public/sample-tweets.csv');
/** Milliseconds a run may take: three SLMs on two slow cores. */
const LONG = Number(process.env.PAGE_TEST_TIMEOUT ?? 15 * 60_000);
const ARGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

let llm;
let server;
let front;
let browser;
let folder;
/** Seconds the page took for it, models and all. */
let took = 0;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-page-'));
  llm = await stubLlm();
  server = await serve(llm.url);
  front = await proxy(server.url);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGS });
});

/** The companion's rows for a file. */
async function annotate(file, precision = 'int8') {
  const out = path.join(folder, `${path.basename(file)}.${precision}.jsonl`);
  const options = ['--task', 'sentiment', '--precision', precision, '--review', 'none', '--out', out];
  await promisify(execFile)(companion(), ['annotate', file, ...options], { cwd: root, maxBuffer: 1 << 26 });
  return lines(await readFile(out, 'utf8'));
}

after(async () => {
  await browser?.close();
  front?.stop();
  server?.stop();
  llm?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

beforeEach(() => {
  front.fault = undefined;
  front.seen.length = 0;
  llm.seen.length = 0;
});

function lines(text) {
  return text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** A page of a browser that was never here, or of one that was. Its errors fail the test. */
async function open(context, url = front.url) {
  const page = await context.newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  page.on('dialog', (dialog) => assert.fail(`a dialog: ${dialog.message()}`));
  await page.addInitScript(() => {
    globalThis.timeline = [];
    const take = (list) => globalThis.timeline.push(...list.getEntries().map(({ name, startTime, duration, detail }) => ({ name, startTime, duration, ...detail })));
    new PerformanceObserver(take).observe({ type: 'measure' });
  });
  await page.goto(url);
  return page;
}

const fresh = (options = {}) => browser.newContext({ acceptDownloads: true, viewport: { width: 1280, height: 860 }, ...options });

async function choose(page, file, { task = 'sentiment', reviewer = 'person', ...options } = {}) {
  await page.waitForSelector('.drop');
  await page.setInputFiles('#choose-file', file);
  await page.waitForSelector('.what');
  await page.check(`input[value=${task}]`);
  await page.check(`input[value=${reviewer}]`);
  await page.waitForSelector('.models');
  if (options.precision) await choosePrecision(page, options.precision);
}

/** The plan is made anew with the choice, and shows it once it is there. */
async function choosePrecision(page, precision) {
  await page.click(`input[value=${precision}]`);
  await page.waitForSelector(`input[value=${precision}]:checked`);
}

const start = (page) => page.click('.what button.primary');
const done = (page) => page.waitForSelector('.pill.done', { timeout: LONG });
const notice = (page, code) => page.waitForSelector(`[data-code="${code}"]`, { timeout: LONG });

async function exported(page, format = 'jsonl') {
  const [download] = await Promise.all([page.waitForEvent('download'), page.click(`button[aria-label="Export ${format.toUpperCase()}"]`)]);
  return readFile(await download.path(), 'utf8');
}

/** Each SLM voted on `texts` texts, and the workers that hold the dearest one ended together. */
async function shared(page, texts) {
  const { timeline, cores } = await page.evaluate(() => ({ timeline: globalThis.timeline, cores: navigator.hardwareConcurrency }));
  const votes = timeline.filter((entry) => entry.name === 'vote');
  const voted = {};
  const cost = {};
  for (const { slm, part, duration, texts: some } of votes) {
    voted[`${slm} ${part}`] = (voted[`${slm} ${part}`] ?? 0) + some;
    cost[slm] = (cost[slm] ?? 0) + duration;
  }
  assert.equal(Object.keys(cost).length, 3);
  assert.ok(Object.values(voted).every((some) => some === texts), `each SLM votes on each text once: ${JSON.stringify(voted)}`);
  if (cores > 1) assert.ok(voted['sentiment-mpnet 1'] > 0, 'the dearest SLM is cut into parts');
  assert.ok(new Set(votes.map((vote) => vote.worker)).size >= Math.min(cores, 2), 'several cores vote');
  const [dearest] = Object.keys(cost).sort((a, b) => cost[b] - cost[a]);
  const ends = votes.filter((vote) => vote.slm === dearest).reduce((ends, vote) => ends.set(vote.worker, Math.max(ends.get(vote.worker) ?? 0, vote.startTime + vote.duration)), new Map());
  const last = Math.max(...ends.values());
  const wall = last - Math.min(...votes.map((vote) => vote.startTime));
  const idle = last - Math.min(...ends.values());
  assert.ok(idle <= 0.35 * wall, `a worker had nothing to do for the last ${idle.toFixed(0)} of ${wall.toFixed(0)} ms`);
}

/** Looks at what is to be sent, and lets it and all that follows be sent. */
async function agree(page) {
  await page.click('.send-bar button.primary', { timeout: LONG });
  await page.check('dialog.send input[name=freely]');
  await page.click('dialog.send button.primary');
  await page.waitForSelector('dialog.send', { state: 'hidden' });
}

/** Waits until the LLM was asked about everything it is to be asked about. */
async function reviewed(page) {
  await page.waitForFunction(() => /decided\.$/.test(document.querySelector('#who-title ~ p')?.textContent?.trim() ?? ''), undefined, { timeout: LONG });
}

/** Whether tab and companion both multiply and add in one rounding. */
function fuses() {
  try {
    return /^flags.*\bfma\b.*\bavx2\b|^flags.*\bavx2\b.*\bfma\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
  } catch {
    return false;
  }
}

/**
 * How far apart the probabilities of tab and companion may be in int8. Where both fuse they agree to the bit, but for the
 * exponentials; elsewhere an activation may be rounded to two levels.
 */
const ROUNDING = fuses() ? 1e-4 : 0.03;

/**
 * The page's rows are the companion's. In f32: same labels and verdicts, probabilities within 1e-4. In int8 probabilities
 * within `ROUNDING`, and the same wherever no SLM's two best labels are that near each other.
 */
function same(rows, wanted, precision = 'int8') {
  assert.equal(rows.length, wanted.length);
  const within = precision === 'int8' ? ROUNDING : 1e-4;
  let open = 0;
  rows.forEach((row, at) => {
    const other = wanted[at];
    assert.deepEqual(Object.keys(row), Object.keys(other), `columns of row ${at + 1}`);
    const slms = Object.keys(other).filter((name) => name.endsWith('.precision')).map((name) => name.slice(0, -'.precision'.length));
    const near = slms.some((slm) => {
      const best = Object.keys(other).filter((name) => name.startsWith(`${slm}.p.`)).map((name) => other[name]).sort((a, b) => b - a);
      return best[0] - best[1] <= 2 * within;
    });
    if (near) open += 1;
    for (const [name, value] of Object.entries(other)) {
      const where = `row ${at + 1}, ${name}`;
      if (typeof value === 'number') {
        if (!near || name.includes('.p.')) assert.ok(Math.abs(row[name] - value) <= within, `${where}: ${row[name]} and ${value}`);
      } else if (!near && !name.endsWith('.engine')) assert.deepEqual(row[name], value, where);
    }
  });
  assert.ok(open <= rows.length / 4, `${open} of ${rows.length} rows are too near to tell`);
}

function apart(rows) {
  return { accepted: rows.filter((row) => row.verdict === 'accepted'), hard: rows.filter((row) => row.verdict === 'hard') };
}

test('every row ends labelled or in the queue, as the companion has it, and nothing is sent', { timeout: 4 * LONG }, async () => {
  const context = await fresh();
  const page = await open(context);
  await choose(page, SAMPLE, { precision: 'f32' });
  const from = performance.now();
  await start(page);
  await done(page);
  took = (performance.now() - from) / 1000;
  const rows = lines(await exported(page));
  same(rows, await annotate(SAMPLE, 'f32'), 'f32');
  await shared(page, rows.filter((row) => row.verdict !== 'set-aside').length);
  const { accepted, hard } = apart(rows);
  assert.ok(accepted.length > 0 && hard.length > 0, 'the sample has both');
  assert.ok(rows.length >= 200);
  for (const row of rows) assert.ok(row.label !== null || row.verdict !== 'accepted', 'an accepted row has its label');
  const waiting = Number(/\((\d+)\)/.exec(await page.textContent('#tab-review'))[1]);
  assert.equal(waiting, hard.length, 'every hard row waits for the person');
  assert.deepEqual(front.seen.filter((request) => request.method !== 'GET' || request.body !== ''), [], 'nothing was sent');
  assert.match(await exported(page, 'csv'), /^topic,text,label,source,verdict/);
  await context.close();
});

test('the LLM sees the hard rows only, redacted; what it cannot label comes to the person', { timeout: 4 * LONG }, async () => {
  const context = await fresh();
  const page = await open(context);
  await choose(page, SAMPLE, { reviewer: 'llm' });
  await page.waitForSelector('.sent-rows mark');
  await start(page);
  await agree(page);
  await done(page);
  await reviewed(page);
  const rows = lines(await exported(page));
  const { accepted, hard } = apart(rows);
  const bodies = front.seen.filter((request) => request.method === 'POST');
  const items = bodies.flatMap((request) => JSON.parse(request.body).items);
  assert.deepEqual(items.map((item) => Number(item.id)).sort((a, b) => a - b), rows.flatMap((row, at) => (row.verdict === 'hard' ? [at + 1] : [])));
  const everything = front.seen.map((request) => `${request.url}\n${JSON.stringify(request.headers)}\n${request.body}`).join('\n');
  const hardTexts = hard.map((row) => row.text);
  for (const { text } of accepted) {
    const quoted = JSON.stringify(text).slice(1, -1);
    if (!hardTexts.some((other) => other.includes(text))) assert.ok(!items.some((item) => item.text.includes(text)) && !everything.includes(quoted), `accepted and sent: ${text}`);
  }
  const secrets = rows.flatMap((row) => row.text.match(/[\w.]+@example\.com|@\w{3,}|\b555-\d{4}|\+1 202 555 \d{4}|4111 1111 1111 1111/g) ?? []);
  assert.ok(secrets.length >= 8);
  for (const secret of secrets) {
    assert.ok(!everything.includes(secret), `left the device: ${secret}`);
    assert.ok(!llm.seen.some((text) => text.includes(secret)), `reached the LLM: ${secret}`);
  }
  assert.equal(new Set(bodies.map((request) => request.headers['idempotency-key'])).size, bodies.length);
  const sent = new Map(items.map((item) => [Number(item.id), item.text]));
  let left = 0;
  rows.forEach((row, at) => {
    if (row.verdict !== 'hard') return;
    const text = sent.get(at + 1);
    if (text.length % 5 === 0) {
      left += 1;
      assert.equal(row.label, null, 'a reply that is no label gives none');
    } else {
      assert.equal(row.label, ['negative', 'neutral', 'positive'][text.length % 3]);
      assert.equal(row.source, 'llm');
    }
  });
  assert.equal(Number(/\((\d+)\)/.exec(await page.textContent('#tab-review'))[1]), left);
  await context.close();
});

test('after a reload in mid-run, and a closed tab, it goes on and ends the same', { timeout: 4 * LONG }, async () => {
  const context = await fresh();
  let page = await open(context);
  const file = await longer();
  const wanted = await annotate(file);
  await choose(page, file);
  await start(page);
  const doneRows = async () => Number((await page.textContent('.run-count strong')).replaceAll(',', ''));
  await page.waitForFunction(() => Number(document.querySelector('.run-count strong')?.textContent) >= 32, undefined, { timeout: LONG });
  const first = await doneRows();
  assert.ok(first < wanted.length, 'the run is still going');
  await page.reload();
  await notice(page, 'went-on');
  assert.ok((await doneRows()) >= first, 'nothing was lost');
  await page.waitForFunction((more) => Number(document.querySelector('.run-count strong')?.textContent.replaceAll(',', '')) > more, first, { timeout: LONG });
  await page.close();
  page = await open(context);
  await done(page);
  const ended = lines(await exported(page));
  same(ended, wanted);
  const shards = front.seen.filter((request) => /\/models\/.+\/.+\//.test(request.url)).map((request) => request.url);
  assert.equal(new Set(shards).size, shards.length, 'no file was downloaded twice');
  await keyboard(page, ended);
  await a11y(page);
  await context.close();
});

/** The sample, several times over where the SLMs are fast, so that there is a middle of the run. */
async function longer() {
  const [header, ...rows] = (await readFile(SAMPLE, 'utf8')).trimEnd().split(/\n(?=[a-z]+,)/);
  const times = took > 0 && took < 8 ? 25 : 1;
  const file = path.join(folder, 'longer.csv');
  await writeFile(file, `${header}\n${`${rows.join('\n')}\n`.repeat(times)}`);
  return file;
}

/** The review by keyboard, on a finished run. */
async function keyboard(page, ended) {
  const hardRows = ended.flatMap((row, at) => (row.verdict === 'hard' ? [at] : []));
  const shownRow = async () => Number(/Row (\d+)/.exec(await page.getAttribute('.sample', 'aria-label'))[1]) - 1;
  const onRow = (row) => page.waitForSelector(`.sample[aria-label="Row ${row + 1}"]`);
  await page.focus('#tab-overview');
  await page.keyboard.press('ArrowRight');
  await page.waitForSelector('.sample');
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'tab-review');
  assert.equal(await shownRow(), hardRows[0]);
  await page.keyboard.press('1');
  await onRow(hardRows[1]);
  await page.keyboard.press('s');
  await onRow(hardRows[2]);
  await page.keyboard.press('p');
  await onRow(hardRows[3]);
  await page.keyboard.press('u');
  await onRow(hardRows[2]);
  await page.keyboard.press('e');
  await onRow(hardRows[3]);
  await page.keyboard.press('?');
  await page.waitForSelector('dialog[open] .keys');
  await page.keyboard.press('1');
  await page.keyboard.press('Escape');
  assert.equal(await shownRow(), hardRows[3], 'keys do nothing behind the list of keys');
  await page.reload();
  await page.waitForSelector('.sample');
  const rows = lines(await exported(page));
  assert.deepEqual([rows[hardRows[0]].label, rows[hardRows[1]].label, rows[hardRows[2]].label], ['negative', null, 'neutral']);
  assert.equal(rows[hardRows[2]].source, 'human');
  await page.keyboard.press('u');
  await onRow(hardRows[2]); // undo works after a reload too
}

/** No view has an accessibility defect that axe can see, in light and dark, nor is wider than a phone. */
async function a11y(page) {
  const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    for (const view of ['overview', 'review', 'results', 'sent']) {
      await page.click(`#tab-${view}`);
      await page.waitForTimeout(500);
      if (view === 'results') await page.click('.item .expand');
      await page.waitForTimeout(300);
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'] }));
      const said = violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join('; ')}`);
      assert.deepEqual(said, [], `${view} in ${colorScheme}`);
    }
  }
  await page.setViewportSize({ width: 360, height: 740 });
  for (const view of ['overview', 'review', 'results', 'sent']) {
    await page.click(`#tab-${view}`);
    await page.waitForTimeout(300);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360, `${view} is wider than a phone`);
  }
}

test('a spoilt file, a broken download and a dead worker are told, and the run goes on', { timeout: 4 * LONG }, async () => {
  const context = await fresh();
  const page = await open(context);
  const file = await longer();
  await choose(page, file);
  const shard = (request) => /\/models\/.+\/.+\//.test(request.url) && !request.url.endsWith('tokenizer.json');
  front.fault = (request) => (shard(request) ? { change: (bytes) => (bytes.writeUInt8(bytes.readUInt8(100) ^ 1, 100), bytes) } : undefined);
  await start(page);
  await notice(page, 'run-stopped');
  assert.match(await page.textContent('[data-code="run-stopped"]'), /SHA-256/);
  front.fault = (request) => (shard(request) ? { cut: 1000 } : undefined);
  await page.click('[data-code="run-stopped"] button');
  await page.waitForSelector('[data-code="run-stopped"]', { state: 'detached' });
  await notice(page, 'run-stopped');
  assert.match(await page.textContent('[data-code="run-stopped"]'), /could not be downloaded/);
  front.fault = undefined;
  await page.click('[data-code="run-stopped"] button');
  await page.waitForFunction(() => Number(document.querySelector('.run-count strong')?.textContent) > 0, undefined, { timeout: LONG });
  const worker = await holderOfTwo(page);
  await worker.evaluate(() => void setTimeout(() => reportError(new Error('killed by the test'))));
  await notice(page, 'worker-restarted');
  await page.click('.run button:text("Pause")');
  await page.waitForSelector('.pill.paused');
  await page.click('.run button:text("Resume")');
  await done(page);
  same(lines(await exported(page)), await annotate(file));

  // The reviewer: down, then busy, then up.
  await page.click('button:text("New file")');
  await page.click('dialog[open] .danger');
  await choose(page, SAMPLE);
  await start(page);
  await done(page);
  front.fault = (request) => (request.url === '/v1/review' ? { status: 500, body: 'oh no' } : undefined);
  await page.click('button:text("Send the hard rows to the LLM")');
  await page.click('dialog.send button.primary');
  await notice(page, 'reviewer-down');
  assert.match(await page.textContent('[data-code="reviewer-down"]'), /500.*wait in your queue/);
  let calls = 0;
  front.fault = (request) => (request.url === '/v1/review' && calls++ === 0 ? { status: 429, headers: { 'retry-after': '2' } } : undefined);
  await page.click('[data-code="reviewer-down"] button');
  await page.waitForSelector('[data-state=waiting] .countdown');
  await reviewed(page);
  const rows = lines(await exported(page));
  assert.ok(rows.some((row) => row.source === 'llm'));
  const keys = front.seen.filter((request) => request.url === '/v1/review').map((request) => [request.headers['idempotency-key'], request.body]);
  assert.equal(new Set(keys.map(([key]) => key)).size, new Set(keys.map(([, body]) => body)).size, 'a batch keeps its key however often it is sent');
  await context.close();
});

/** A worker that holds two SLMs. */
async function holderOfTwo(page) {
  const handle = await page.waitForFunction(
    () => {
      const held = globalThis.timeline.filter((entry) => entry.name === 'load').map((entry) => entry.worker);
      const worker = held.find((one, at) => held.indexOf(one) < at);
      return worker !== undefined && `slm-${worker}`;
    },
    undefined,
    { timeout: LONG },
  );
  const name = await handle.jsonValue();
  for (const worker of page.workers()) if ((await worker.evaluate(() => globalThis.name)) === name) return worker;
  return assert.fail(`no worker ${name}`);
}

test('int8 votes unless f32 is chosen, and the run keeps to its choice', { timeout: 4 * LONG }, async () => {
  const { slms } = await (await fetch(`${server.url}/models/index.json`)).json();
  const versions = (int8) => slms.filter((slm) => slm.task === 'sentiment' && (slm.precision === 'int8') === int8).map((slm) => [slm.id, slm.version]);
  const file = path.join(folder, 'short.csv');
  await writeFile(file, 'text\nI love it\nIt is a phone\nIt broke on day one\n');
  const context = await fresh();
  const page = await open(context);
  for (const precision of ['int8', 'f32']) {
    await choose(page, file);
    assert.equal(await page.isChecked('input[value=int8]'), true, 'int8 is the default');
    await choosePrecision(page, precision);
    await start(page);
    await done(page);
    const rows = lines(await exported(page));
    assert.equal(rows.length, 3);
    for (const [id, version] of versions(precision === 'int8')) {
      for (const row of rows) assert.deepEqual([row[`${id}.version`], row[`${id}.precision`]], [version, precision]);
    }
    await page.click('button:text("New file")');
    await page.click('dialog[open] .danger');
  }
  await context.close();
});

test('bad files are told; what can be used is used, and texts are never markup', { timeout: 4 * LONG }, async () => {
  const context = await fresh();
  const page = await open(context);
  const file = async (name, content) => {
    const at = path.join(folder, name);
    await writeFile(at, content);
    return at;
  };
  const back = async () => {
    await page.click('button:text("New file")');
    await page.waitForSelector('.drop');
  };
  for (const [name, content, words] of [
    ['empty.csv', '', /empty|no rows/i],
    ['header.csv', 'text,label\n', /no rows/i],
    ['picture.csv', Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10, 0, 0]), /not a text file|not valid UTF-8/i],
  ]) {
    await page.setInputFiles('#choose-file', await file(name, content));
    await page.waitForSelector('.notice.error');
    assert.match(await page.textContent('.notice.error'), words, name);
    await page.waitForSelector('.drop');
  }
  const attack = '<img src=x onerror="alert(1)"><script>alert(2)</script>';
  await page.setInputFiles('#choose-file', await file('some.csv', `id,text\n1,"${attack.replaceAll('"', '""')}"\n2, \n3,a,b,c\n4,fine\n5,"never closed\n`));
  await page.waitForSelector('.what');
  assert.match(await page.textContent('.head-rows'), /<img src=x/);
  assert.match(await page.textContent('.plan'), /cannot be read to its end/);
  assert.match(await page.textContent('.aside-why'), /only whitespace/);
  assert.match(await page.textContent('.aside-why'), /more or fewer fields/);
  assert.equal(await page.locator('main img').count(), 0);
  await back();
  const utf16 = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from('text\nça va très bien\n', 'utf16le')]);
  await page.setInputFiles('#choose-file', await file('utf16.csv', utf16));
  await page.waitForSelector('.what');
  assert.match(await page.textContent('.head-rows'), /ça va très bien/);
  await back();
  await page.setInputFiles('#choose-file', await file('latin.csv', Buffer.from('text\nça va\n', 'latin1')));
  await page.waitForSelector('.aside-why');
  assert.match(await page.textContent('.aside-why'), /encoding/);
  await page.selectOption('.two-fields label:last-child select', 'windows-1252');
  await page.waitForFunction(() => document.querySelector('.head-rows')?.textContent?.includes('ça va'));
  await back();
  await page.setInputFiles('#choose-file', await file('latin-header.csv', Buffer.from('text,größe\nça va,1\n', 'latin1')));
  await page.click('button:text("Read it as windows-1252")');
  await page.waitForFunction(() => document.querySelector('.head-rows')?.textContent?.includes('ça va'));
  await back();
  await page.setInputFiles('#choose-file', await file('columns.csv', 'a,b\nx,the longer of the two\n'));
  await page.waitForSelector('.what');
  assert.equal(await page.inputValue('.two-fields select'), 'b');
  await page.selectOption('.two-fields select', 'a');
  await page.waitForFunction(() => document.querySelector('.head-rows')?.textContent === 'x');
  await context.close();
});

test('a long file does not freeze the page', { timeout: 4 * LONG }, async () => {
  const context = await fresh();
  const page = await open(context);
  const at = path.join(folder, 'long.csv');
  await writeFile(at, `text\n${'Neither good nor bad, it came on time and it works, more or less.\n'.repeat(100_000)}`);
  await page.waitForSelector('.drop');
  await page.evaluate(() => {
    globalThis.longest = 0;
    let last = performance.now();
    setInterval(() => {
      globalThis.longest = Math.max(globalThis.longest, performance.now() - last);
      last = performance.now();
    }, 20);
  });
  await page.setInputFiles('#choose-file', at);
  await page.waitForSelector('.what', { timeout: LONG });
  assert.match(await page.textContent('.facts'), /100,000/);
  const longest = await page.evaluate(() => globalThis.longest);
  assert.ok(longest < 1000, `the page stood still for ${longest.toFixed(0)} ms`);
  await context.close();
});

/** A browser with WebGPU, which computes in software here, and a page in it. */
async function withGpu(rows, work) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...ARGS, '--enable-unsafe-webgpu'] });
  try {
    const context = await browser.newContext({ acceptDownloads: true, viewport: { width: 1280, height: 860 } });
    const file = path.join(folder, `gpu-${rows}.csv`);
    await writeFile(file, (await readFile(SAMPLE, 'utf8')).split('\n').slice(0, rows + 1).join('\n'));
    const page = await open(context);
    await choose(page, file);
    await work(page, file);
  } finally {
    await browser.close();
  }
}

async function chooseDevice(page, device) {
  await page.click(`input[name=device][value=${device}]`);
  await page.waitForSelector(`input[value=${device}]:checked`);
}

test('a GPU in software is left alone unless it is asked for, and then votes as the companion does', { timeout: 4 * LONG }, async () => {
  await withGpu(8, async (page, file) => {
    await page.waitForSelector('[data-device=cpu]:has-text("computes on the CPU")');
    await chooseDevice(page, 'gpu');
    await page.waitForSelector('[data-device=gpu]');
    await start(page);
    await done(page);
    const rows = lines(await exported(page));
    const wanted = await annotate(file, 'f32');
    assert.equal(rows.length, wanted.length);
    rows.forEach((row, at) => {
      const own = Object.keys(row);
      for (const name of own.filter((name) => name.endsWith('.engine'))) assert.equal(row[name], 'gpu');
      for (const name of own.filter((name) => name.includes('.p.'))) assert.ok(Math.abs(row[name] - wanted[at][name]) < 0.05, `row ${at + 1}, ${name}: ${row[name]} and ${wanted[at][name]}`);
    });
  });
});

test('a GPU that is lost in mid-run is told, and the CPU ends the run', { timeout: 4 * LONG }, async () => {
  await withGpu(24, async (page, file) => {
    await chooseDevice(page, 'gpu');
    await page.waitForSelector('[data-device=gpu]');
    await start(page);
    await page.waitForFunction(() => globalThis.timeline.some((entry) => entry.name === 'vote'), undefined, { timeout: LONG });
    const worker = page.workers().find((one) => one.url().includes('slm.worker'));
    await worker.evaluate(() => {
      const { createCommandEncoder } = GPUDevice.prototype;
      GPUDevice.prototype.createCommandEncoder = function (...options) {
        this.destroy();
        return createCommandEncoder.apply(this, options);
      };
    });
    await notice(page, 'gpu-lost');
    await done(page);
    same(lines(await exported(page)), await annotate(file));
    assert.equal(await page.locator('[data-code="run-stopped"]').count(), 0);
  });
});

/** What the server answers where it has these tiny SLMs alone: addresses and bodies. */
function tinyModels(models) {
  const files = {};
  const slms = Object.entries(models).map(([id, packed]) => {
    const entry = (name, body) => {
      files[`/models/${id}/1/${name}`] = body;
      return { name, bytes: body.length, sha256: createHash('sha256').update(body).digest('hex') };
    };
    const [shard, tokenizer] = [entry('shard', packed), entry('tokenizer', reference('bert/tokenizer.json'))];
    return { id, task: 'sentiment', labels, version: '1', base: id, precision: 'f32', max_length: 48, bytes: shard.bytes, sha256: shard.sha256, relative_cost: 1, shards: [shard], tokenizer };
  });
  return { ...files, '/models/index.json': JSON.stringify({ slms }) };
}

test('an architecture that the GPU kernels do not know: the CPU serves or, where the server has it, burn-wgpu', { timeout: LONG }, async (t) => {
  const bert = cases.find(({ model }) => model === 'bert');
  // Heads of two values, where the kernels take multiples of four.
  const models = tinyModels({ usual: pack(bert), odd: pack(bert, 'f32', { num_attention_heads: 12 }) });
  const built = (name) => path.join(root, 'pkg/wasm/burn', name);
  const run = async (files) => {
    front.fault = ({ url }) => files[url] && { status: 200, headers: { 'content-type': url.endsWith('.js') ? 'text/javascript' : 'application/wasm' }, body: files[url] };
    let rows;
    await withGpu(8, async (page) => {
      await chooseDevice(page, 'gpu');
      await page.waitForSelector('[data-device=gpu]');
      await start(page);
      await notice(page, 'gpu-kernels');
      await done(page);
      assert.equal(await page.locator('[data-code="run-stopped"], [data-code="gpu-lost"]').count(), 0);
      rows = { said: await page.textContent('[data-code="gpu-kernels"]'), rows: lines(await exported(page)) };
    });
    return rows;
  };
  const engines = ({ rows }) => rows.map((row) => [row['usual.engine'], row['odd.engine']].join(' '));
  const onCpu = await run(models);
  assert.match(onCpu.said, /odd has an architecture that the GPU kernels do not know: the CPU serves\./);
  assert.deepEqual(engines(onCpu), Array(8).fill('cpu cpu'));
  if (!existsSync(built('autoannotator_bg.wasm'))) return t.diagnostic('burn-wgpu is not built; run `cargo xtask wasm --variant burn`');
  const burn = Object.fromEntries(['autoannotator.js', 'autoannotator_bg.wasm'].map((name) => [`/wasm/burn/${name}`, readFileSync(built(name))]));
  const onBurn = await run({ ...models, ...burn });
  assert.match(onBurn.said, /burn-wgpu serves on the GPU\./);
  assert.deepEqual(engines(onBurn), Array(8).fill('burn burn'));
  onBurn.rows.forEach((row, at) => {
    for (const name of Object.keys(row).filter((name) => name.includes('.p.'))) assert.ok(Math.abs(row[name] - onCpu.rows[at][name]) < 1e-3, `${name}: ${row[name]} and ${onCpu.rows[at][name]}`);
  });
});

test('an adapter that may be fast is measured against the CPU, and the faster one serves', { timeout: 4 * LONG }, async () => {
  await withGpu(8, async (page) => {
    // The page takes the software adapter for a real one.
    await page.addInitScript(() => {
      const named = { vendor: 'test', architecture: 'test', device: '', description: 'Test GPU', isFallbackAdapter: false };
      Object.defineProperty(GPUAdapter.prototype, 'info', { get: () => named });
    });
    await page.reload();
    await page.waitForSelector('[data-device=cpu]:has-text("until the GPU (test Test GPU) was measured")');
    await start(page);
    await done(page);
    const rows = lines(await exported(page));
    assert.equal(rows.length, 8);
    for (const row of rows) for (const name of Object.keys(row).filter((name) => name.endsWith('.engine'))) assert.equal(row[name], 'cpu');
    await page.click('button:text("Start over")');
    await page.click('dialog[open] .danger');
    await page.waitForSelector('[data-device=cpu]:has-text("times as fast as the GPU")');
  });
});
