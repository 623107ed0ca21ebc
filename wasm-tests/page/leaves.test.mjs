// What leaves the device, as a proxy sees it that is the browser's only way out; and what the page says before and after.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { aa } from '../node/wasm.mjs';
import { decide } from './review.mjs';
import { gateway, proxy, require, root, serve, stubLlm } from './servers.mjs';

const SAMPLE = path.join(root, 'www/public/sample-tweets.csv');
const LONG = Number(process.env.PAGE_TEST_TIMEOUT ?? 15 * 60_000);
const ARGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** The stub's tokens of a review, and prices at which they are $0.0002: 100 and 5 tokens. */
const PRICES = 'prompt_usd_per_million = 1.7\ncompletion_usd_per_million = 6.0\n';

let folder;
let llm;
let file;
/** What stands in the file's rows and nowhere else: one word in each text, one in each of the other columns. */
let words;

/** A number in letters, so that no rule of redaction takes it for something. */
function inLetters(number) {
  const digits = String(number).padStart(4, '0');
  return [...digits].map((digit) => 'bcdfghjklm'[Number(digit)]).join('a');
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'autoannotator-leaves-'));
  llm = await stubLlm();
  const texts = (await readFile(SAMPLE, 'utf8'))
    .trimEnd()
    .split('\n')
    .slice(1, 97)
    .map((line) => line.slice(line.indexOf(',') + 1).replace(/^"|"$/g, '').replaceAll('""', '"'));
  texts.push('Mail jo.doe@example.com and ann@example.org, or ring +1 202 555 0143, about the late parcel', 'Is @courier_jane nice? The card was 4111 1111 1111 1111, odd');
  // Longer than the server takes, and, cut by the models, likely hard.
  texts.push(`It is lovely and it is awful. ${'Who knows, who cares. '.repeat(1700)}`);
  words = texts.map((_, at) => ({ text: `zw${inLetters(at)}`, note: `zx${inLetters(at)}` }));
  file = path.join(folder, 'marked.csv');
  await writeFile(file, `note,text\n${texts.map((text, at) => `${words[at].note},"${`${text} ${words[at].text}`.replaceAll('"', '""')}"`).join('\n')}\n`);
});

after(async () => {
  llm?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** A server that keeps texts, were it let to, and has more lines in the [llm] table of its config. */
async function house(lines) {
  const spec = path.join(folder, 'spec.toml');
  await writeFile(spec, 'task = "sentiment"\n[review]\nto = "llm"\nkeep_text = true\n');
  const config = path.join(folder, 'server.toml');
  await writeFile(config, `[llm]\n${lines}`);
  return serve(llm.url, ['--spec', spec, '--config', config]);
}

/** A page whose browser has no other way out than the gateway. */
async function confined(context, lines = PRICES) {
  const server = await house(lines);
  const way = await gateway(server.url);
  const browser = await chromium.launch({ executablePath: EXECUTABLE, args: ARGS, proxy: { server: way.url, bypass: '<-loopback>' } });
  context.after(async () => {
    await browser.close();
    way.stop();
    server.stop();
  });
  const page = await (await browser.newContext({ acceptDownloads: true, viewport: { width: 1280, height: 860 } })).newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  // The browser itself asks others too, for updates; the page and its workers ask nobody else.
  page.context().on('request', (request) => assert.ok(/^(blob|data):/.test(request.url()) || request.url().startsWith(`${server.url}/`), `the page asks for ${request.url()}`));
  await page.goto(server.url);
  return { page, seen: way.seen, server };
}

async function choose(page, reviewer) {
  await page.waitForSelector('.drop');
  await page.setInputFiles('#choose-file', file);
  await page.waitForSelector('.models');
  await page.check('input[value=cpu]');
  await page.check(`input[value=${reviewer}]`);
}

async function run(page) {
  await page.click('.what button.primary');
  await page.waitForSelector('.pill.done', { timeout: LONG });
}

async function exported(page) {
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('button[aria-label="Export JSONL"]')]);
  return (await readFile(await download.path(), 'utf8')).split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** Lets what the dialog shows be sent. */
async function send(page) {
  await page.click('dialog.send button.primary');
  await page.waitForSelector('dialog.send', { state: 'hidden' });
}

/** Waits until the LLM has answered about everything it was asked about. */
const answered = (page) => page.waitForFunction(() => /decided\.$/.test(document.querySelector('#who-title ~ p')?.textContent?.trim() ?? ''), undefined, { timeout: LONG });

const posts = (seen, server) => seen.filter((request) => request.method === 'POST' && request.url.startsWith(`${server.url}/`));
const settled = (ms = 1500) => new Promise((resolve) => setTimeout(resolve, ms));

/** Nothing but the reviews carries anything, and no part of any request but their texts holds a word of the file. */
function carriesNothing(seen, server) {
  assert.ok(seen.length > 10, 'the gateway sees the requests');
  assert.ok(seen.some((request) => request.url.includes('/models/')), 'the workers go through the gateway too');
  for (const request of seen) {
    const review = request.method === 'POST' && request.url === `${server.url}/v1/review`;
    const where = `${request.method} ${request.url}`;
    if (!review && request.url.startsWith(`${server.url}/`)) {
      assert.equal(request.method, 'GET', where);
      assert.equal(request.body, '', where);
      assert.equal(new URL(request.url).search, '', where);
    }
    const rest = [request.url, decodeURIComponent(request.url), JSON.stringify(request.headers), ...(review ? [] : [request.body])].join('\n');
    for (const word of words) for (const one of [word.text, word.note]) assert.ok(!rest.includes(one), `${one} in ${where}`);
    if (review) for (const word of words) assert.ok(!request.body.includes(word.note), `another column in ${where}`);
  }
}

/** All texts of a list that goes on over several pages. */
async function listed(page, list) {
  const texts = [];
  await page.waitForSelector(`${list} > li`);
  for (;;) {
    texts.push(...(await page.locator(`${list} > li`).allTextContents()));
    const later = page.locator('.pager button:has-text("Later"):enabled');
    if ((await later.count()) === 0) return texts;
    await later.click();
  }
}

test('only redacted hard samples leave, exactly as they were shown before, and the page lists them after', { timeout: 2 * LONG }, async (context) => {
  const { page, seen, server } = await confined(context);
  await choose(page, 'llm');

  // The estimate, before the run.
  await page.click('button:text("Estimate first")');
  await page.waitForSelector('[data-estimate=cost]:has-text("tokens")', { timeout: LONG });
  const expected = await page.textContent('[data-estimate=hard]');
  assert.match(await page.textContent('[data-estimate=cost]'), /\$0\.\d+.*tokens.*reviews/);
  await run(page);
  await page.waitForSelector('.send-bar');
  await settled();
  assert.deepEqual(posts(seen, server), [], 'nothing goes before the person has agreed');
  assert.equal(await page.textContent('#tab-sent'), 'Sent (0)');

  // The look before: closed again it sends nothing.
  await page.click('.send-bar button.primary');
  await page.waitForSelector('dialog.send .sent-rows');
  await accessible(page, 'what is to be sent');
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog.send', { state: 'hidden' });
  await settled();
  assert.deepEqual(posts(seen, server), []);
  await page.click('.send-bar button.primary');
  const shown = await listed(page, 'dialog.send .sent-rows');
  const kinds = await page.textContent('dialog.send [data-kinds]');
  const takes = await page.textContent('dialog.send [data-estimate=look]');
  await send(page);
  await answered(page);

  const rows = await exported(page);
  const hard = rows.flatMap((row, at) => (row.verdict === 'hard' ? [{ id: String(at + 1), text: row.text }] : []));
  assert.ok(hard.length > 4 && hard.length < rows.length - 10, `${hard.length} of ${rows.length}`);
  const wanted = hard.map(({ id, text }) => ({ id, text: aa.redact(text).text })).filter(({ text }) => text.length < 32 * 1024);
  const bodies = posts(seen, server).map((request) => JSON.parse(request.body));
  for (const body of bodies) assert.deepEqual({ ...body, items: [] }, { task: 'sentiment', spec: null, items: [], mode: 'label' });
  const items = bodies.flatMap((body) => body.items);
  assert.deepEqual(items, wanted, 'each hard row once, redacted, and nothing else');
  assert.deepEqual(shown, wanted.map(({ id, text }) => `${id} ${text}`), 'as it was shown before');
  carriesNothing(seen, server);
  const marks = items.flatMap(({ text }) => text.match(/\[[A-Z][A-Z_]+\d*\]/g) ?? []);
  if (marks.length > 0) for (const mark of new Set(marks.map((one) => one.replace(/[[\]\d]/g, '')))) assert.ok(kinds.includes(mark), `${mark} in ${kinds}`);

  // What was expected is what it came to.
  const [low, high] = /\(([\d,]+) to ([\d,]+)\)/.exec(expected)?.slice(1).map((one) => Number(one.replaceAll(',', ''))) ?? [Number(/\d+/.exec(expected)[0]), Number(/\d+/.exec(expected)[0])];
  // With some room, since an interval of 95 % is missed now and then.
  assert.ok(0.8 * low - 2 <= hard.length && hard.length <= 1.2 * high + 2, `${hard.length} in ${expected}`);
  assert.match(takes, /\$/);
  assert.match(await page.textContent('[data-estimate=so-far]'), new RegExp(`^${items.length} reviews so far: \\$`));

  // The list of what was sent, also after a reload.
  await page.reload();
  await page.waitForSelector('#tab-sent');
  await page.click('#tab-sent');
  await page.waitForSelector('.gone time');
  assert.equal(await page.textContent('#tab-sent'), `Sent (${items.length})`);
  const gone = await listed(page, '.gone');
  for (const { id, text } of wanted) assert.ok(gone.some((one) => one.includes(`row ${id},`) && one.endsWith(text)), `${id} is listed`);
  assert.equal(gone.length, items.length);
});

test('never send: nothing is sent, whatever is pressed, and the page says so', { timeout: 2 * LONG }, async (context) => {
  const { page, seen, server } = await confined(context);
  await choose(page, 'never');
  assert.equal(await page.locator('input[name=hand-in]').count(), 0);
  assert.match(await page.textContent('.facts'), /Leaves the devicenothing in this run/);
  // The choice outlives reading the file another way.
  await page.selectOption('.two-fields select', 'note');
  await page.waitForFunction(() => document.querySelector('.head-rows')?.textContent?.startsWith('zx'));
  await page.selectOption('.two-fields select', 'text');
  await page.waitForFunction(() => !document.querySelector('.head-rows')?.textContent?.startsWith('zx'));
  assert.ok(await page.isChecked('input[value=never]'));
  await run(page);
  for (const view of ['overview', 'review', 'results', 'sent']) {
    await page.click(`#tab-${view}`);
    assert.match(await page.textContent('.run'), /Never send:.*nothing of this file leaves this device/);
    assert.equal(await page.locator('button:has-text("LLM"), button:has-text("Send"), input[name=hand-in]').locator('visible=true').count(), 0, `nothing on ${view} sends`);
  }
  assert.match(await page.textContent('#panel-sent'), /Nothing was sent/);
  await page.click('#tab-review');
  await decide(page, 3);
  await page.reload();
  await page.waitForSelector('.sample');
  await settled(6500); // longer than hand-ins wait
  assert.ok((await exported(page)).some((row) => row.source === 'human'));
  assert.deepEqual(posts(seen, server), []);
  carriesNothing(seen, server);
});

test('rows that become hard after the person has agreed are shown before they go, also after a reload', { timeout: 2 * LONG }, async (context) => {
  const { page, seen, server } = await confined(context);
  await choose(page, 'llm');
  await page.click('.what button.primary');
  await page.click('.send-bar button.primary', { timeout: LONG });
  const shown = await listed(page, 'dialog.send .sent-rows');
  await send(page);
  await page.waitForSelector('.pill.done', { timeout: LONG });
  const ids = () => posts(seen, server).flatMap((request) => JSON.parse(request.body).items.map((item) => item.id));
  const agreed = shown.map((one) => one.slice(0, one.indexOf(' ')));
  const unsent = async () => Number(await page.getAttribute('.send-bar', 'data-unsent'));
  const hard = (await exported(page)).flatMap((row, at) => (row.verdict === 'hard' && row.text.length < 32 * 1024 ? [String(at + 1)] : []));
  assert.ok(agreed.length < hard.length, 'more rows became hard later');
  await page.waitForFunction((many) => document.querySelector('#tab-sent')?.textContent === `Sent (${many})`, agreed.length);
  await settled();
  assert.deepEqual(ids().sort(), [...agreed].sort());
  assert.equal(await unsent(), hard.length + 1 - agreed.length, 'the long text too, which is found to be too long when it is looked at');
  await page.reload();
  await page.waitForSelector('.send-bar');
  await settled();
  assert.equal(ids().length, agreed.length, 'a reload is no leave to send');
  // The person takes the rest back, and may choose the LLM again; which again has to be agreed to.
  await page.click('button:has-text("I decide")');
  await page.waitForSelector('.send-bar', { state: 'detached' });
  await page.click('button:text("Send the hard rows to the LLM")');
  await page.waitForSelector('dialog.send .sent-rows > li');
  await settled();
  assert.equal(ids().length, agreed.length);
  await page.check('dialog.send input[name=freely]');
  await send(page);
  await answered(page);
  assert.deepEqual(ids().sort(), [...hard].sort(), 'each once');
  assert.equal(await page.locator('.send-bar').count(), 0);
});

test('a used-up budget is told with what was spent; the rest is for the person, and it can be tried again', { timeout: 2 * LONG }, async (context) => {
  // 105 tokens at these prices are $0.105; a call reserves below $1.
  const { page, seen, server } = await confined(context, 'prompt_usd_per_million = 1000.0\ncompletion_usd_per_million = 1000.0\nbudget_usd = 2.0\n');
  await choose(page, 'llm');
  await run(page);
  await page.click('.send-bar button.primary');
  await send(page);
  await page.waitForSelector('[data-state=budget]', { timeout: LONG });
  await page.waitForSelector('[data-state=budget]:has-text("the server $")');
  const said = await page.textContent('[data-state=budget]');
  const spent = Number(/This run spent \$([\d.]+)/.exec(said)[1]);
  assert.ok(spent > 0 && spent <= 2, said);
  const left = Number(/(\d+) rows that are left/.exec(said)[1]);
  assert.equal(Number(/\((\d+)\)/.exec(await page.textContent('#tab-review'))[1]), left, 'they wait for the person');
  const billed = Number(/^(\d+) reviews/.exec(await page.textContent('[data-estimate=so-far]'))[1]);
  assert.ok(Math.abs(spent - 0.105 * billed) < 0.006, `${spent} for ${billed}: rows that the budget did not cover are not counted as reviewed`);
  await accessible(page, 'a used-up budget');
  await page.click('#tab-review');
  await page.waitForSelector('.sample');
  await page.keyboard.press('1');
  await page.waitForFunction((before) => document.querySelector('#tab-review')?.textContent === `Review (${before - 1})`, left);
  const calls = posts(seen, server).length;
  await page.click('[data-state=budget] button');
  await page.waitForSelector('[data-state=budget]', { timeout: LONG });
  await settled(500);
  assert.ok(posts(seen, server).length > calls, 'it was tried again');
});

test('asked to wait, the page counts down and goes on by itself; the person can work meanwhile', { timeout: 2 * LONG }, async (context) => {
  const server = await house(PRICES);
  const front = await proxy(server.url);
  const browser = await chromium.launch({ executablePath: EXECUTABLE, args: ARGS });
  context.after(async () => {
    await browser.close();
    front.stop();
    server.stop();
  });
  const page = await (await browser.newContext({ acceptDownloads: true })).newPage();
  page.on('pageerror', (error) => assert.fail(`the page threw: ${error.stack}`));
  await page.goto(front.url);
  await choose(page, 'llm');
  await run(page);
  let refused = 0;
  const refuse = (status, headers, most) => (request) =>
    request.url === '/v1/review' && refused++ < most ? { status, headers, body: JSON.stringify({ error: { code: 'x', message: status === 402 ? 'a budget is used up' : 'the LLM is busy' } }) } : undefined;
  front.fault = refuse(429, { 'retry-after': '8' }, 1);
  await page.click('.send-bar button.primary');
  await send(page);
  await page.waitForSelector('[data-state=waiting]');
  const from = performance.now();
  const countdown = async () => Number(/\d+/.exec(await page.textContent('.countdown'))[0]);
  const first = await countdown();
  assert.ok(first > 4 && first <= 8, `${first}`);
  await accessible(page, 'a wait');
  // Meanwhile a row is decided, which then is not asked about again.
  await page.click('#tab-review');
  await page.waitForSelector('.sample');
  const row = /Row (\d+)/.exec(await page.getAttribute('.sample', 'aria-label'))[1];
  await page.keyboard.press('1');
  await page.waitForFunction((id) => document.querySelector('.sample')?.getAttribute('aria-label') !== `Row ${id}`, row);
  assert.ok((await countdown()) < first, 'it counts down');
  await page.waitForSelector('[data-state=waiting]', { state: 'detached', timeout: 15_000 });
  assert.ok(performance.now() - from > 5000, 'it waits as long as it was told');
  await page.click('#tab-overview');
  await answered(page);
  const asked = front.seen.filter((request) => request.url === '/v1/review').map((request) => ({ key: request.headers['idempotency-key'], ids: JSON.parse(request.body).items.map((item) => item.id) }));
  assert.ok(asked[0].ids.includes(row), 'it was among those that were refused');
  assert.ok(!asked.slice(1).some(({ ids }) => ids.includes(row)), 'what the person decided is not asked about');
  assert.equal(new Set(asked.map(({ key }) => key)).size, asked.length, 'another request has another key');
  const rows = await exported(page);
  assert.equal(rows[Number(row) - 1].source, 'human');
  assert.ok(rows.some((one) => one.source === 'llm'));

  // A budget that is raised, after starting over; what was sent before stays listed.
  const before = Number(/\((\d+)\)/.exec(await page.textContent('#tab-sent'))[1]);
  await page.click('button:text("Start over")');
  await page.click('dialog[open] .danger');
  await page.waitForSelector('.models');
  refused = 0;
  front.fault = refuse(402, {}, 1);
  await run(page);
  await page.click('.send-bar button.primary');
  await page.check('dialog.send input[name=freely]');
  await send(page);
  await page.click('[data-state=budget] button', { timeout: LONG });
  await answered(page);
  assert.equal(await page.locator('[data-state=budget]').count(), 0);
  assert.equal(Number(/\((\d+)\)/.exec(await page.textContent('#tab-sent'))[1]), 2 * before);
});

/** No accessibility defect that axe can see, in light and dark, and nothing is wider than a phone. */
async function accessible(page, what) {
  const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa'] }));
    const said = violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join('; ')}`);
    assert.deepEqual(said, [], `${what} in ${colorScheme}`);
  }
  const { width, height } = page.viewportSize();
  await page.setViewportSize({ width: 360, height: 740 });
  await settled(500); // charts follow the width in a moment
  const wide = await page.evaluate(() => (document.documentElement.scrollWidth <= 360 ? [] : [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > 360).map((one) => one.outerHTML.slice(0, 80))));
  assert.deepEqual(wide, [], `${what} is wider than a phone`);
  await page.setViewportSize({ width, height });
}
