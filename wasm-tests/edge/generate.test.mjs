// The projects that `autoannotator generate` writes: a page and a worker, built and run, and all three of a hostile spec.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { chromium } from 'playwright-core';
import { companion, env, exec, folder, home, lines, models, noModels, reviewer, root, tarball } from './kit.mjs';
import { deployed, install } from './worker.mjs';

const SENTIMENT = path.join(root, 'examples/sentiment.toml');
const HARD = 'the rocket by @someone is not bad at all, write to me@example.com';
const TEXTS = ['I love this film', 'worst day ever, I hate it', HARD];
const ARGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
/** Words that would be code wherever they were pasted into any. */
const HOSTILE = [
  '</script><script>document.title="pwned"</script>',
  `'"; globalThis.pwned = 1; //`,
  '${globalThis.pwned = 1} `touch pwned` $(touch pwned)',
  'a\nb\r\n[vars]\nREVIEW_URL = "http://127.0.0.1:9"',
  '../../%2e%2e/<img src=x onerror="document.title=`pwned`">',
];

/** `autoannotator generate` into a new folder. */
async function generate(kind, spec, ...more) {
  const out = path.join(folder('generate'), kind);
  const args = kind === 'cli' ? [] : ['--package', await tarball(), '--home', home];
  const { stdout } = await exec(companion(), ['generate', kind, '--spec', spec, '--out', out, ...args, ...more], { cwd: root, env });
  return { out, said: stdout };
}

/** The companion's rows for texts. */
async function native(spec, texts, ...more) {
  const out = folder('native');
  const at = (name) => path.join(out, name);
  await writeFile(at('texts.jsonl'), texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  await exec(companion(), ['annotate', at('texts.jsonl'), '--spec', spec, '--out', at('out.jsonl'), ...more], { env: { ...env, AUTOANNOTATOR_HOME: home } });
  return lines(await readFile(at('out.jsonl'), 'utf8'));
}

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** The two small sentiment models under other names and labels, in a home of their own. */
async function renamed(labels) {
  const out = folder('renamed');
  const index = JSON.parse(await readFile(path.join(models, 'index.json'), 'utf8'));
  const slms = [];
  for (const id of ['minilm-l3', 'minilm-l6']) {
    const manifest = index.slms.find((slm) => slm.id === `sentiment-${id}` && slm.precision === 'int8');
    const from = path.join(models, manifest.id, manifest.version);
    const parts = await Promise.all(manifest.shards.map(({ name }) => readFile(path.join(from, name))));
    const packed = Buffer.concat(parts);
    const length = Number(packed.readBigUInt64LE(0));
    const header = JSON.parse(packed.subarray(8, 8 + length).toString());
    const meta = JSON.parse(header.__metadata__.autoannotator);
    header.__metadata__.autoannotator = JSON.stringify({ ...meta, id, task: 'hostile', labels });
    let json = JSON.stringify(header);
    while (Buffer.byteLength(json) % 8) json += ' ';
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
    const bytes = Buffer.concat([size, Buffer.from(json), packed.subarray(8 + length)]);
    assert.ok(bytes.length < 25 << 20, 'one shard');
    const hash = sha256(bytes);
    const version = hash.slice(0, 12);
    const to = path.join(out, 'packed', id, version);
    await mkdir(to, { recursive: true });
    await writeFile(path.join(to, 'weights-001-of-001.bin'), bytes);
    await cp(path.join(from, manifest.tokenizer.name), path.join(to, manifest.tokenizer.name));
    const shards = [{ name: 'weights-001-of-001.bin', bytes: bytes.length, sha256: hash }];
    slms.push({ ...manifest, id, task: 'hostile', labels, version, bytes: bytes.length, sha256: hash, shards });
  }
  await writeFile(path.join(out, 'packed/index.json'), JSON.stringify({ slms }));
  return out;
}

/** A spec in JSON, and where it lies. */
async function specFile(spec) {
  const file = path.join(folder('spec'), 'annotator.json');
  await writeFile(file, JSON.stringify(spec));
  return file;
}

/** The built page, served as a static host would. */
async function built(out) {
  await install(out);
  await exec('npm', ['run', 'build'], { cwd: out, env });
  const { preview } = await import(path.join(out, 'node_modules/vite/dist/node/index.js'));
  const server = await preview({ root: out, logLevel: 'error', preview: { port: 0, host: '127.0.0.1' } });
  const { port } = server.httpServer.address();
  return { url: `http://127.0.0.1:${port}/`, stop: () => server.close() };
}

/** Whether the page, in which this runs, has kept a person's label. */
const keeps = (label) => new Promise((resolve) => {
  const opening = indexedDB.open(`autoannotator ${location.pathname}`);
  opening.onsuccess = () => {
    const all = opening.result.transaction('annotations').objectStore('annotations').getAll();
    all.onsuccess = () => {
      opening.result.close();
      resolve(all.result.some((kept) => kept.source === 'human' && kept.label === label));
    };
  };
});

/** Asks again until it is so. */
async function until(so) {
  for (let time = 0; time < 100; time++) {
    if (await so()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`it was never so: ${so}`);
}

describe('generated projects', { skip: noModels }, () => {
  let browser;
  before(async () => {
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGS });
  });
  after(() => browser?.close());

  /** The page in a browser that was never there; whatever it logs as an error, a refused policy too, fails the test. */
  async function open(url) {
    const context = await browser.newContext({ acceptDownloads: true });
    const page = await context.newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(error.stack));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    page.on('dialog', (dialog) => errors.push(`a dialog: ${dialog.message()}`) && dialog.dismiss());
    await page.goto(url);
    return { page, errors, close: () => context.close() };
  }

  const whole = (page) => page.waitForSelector('#stop', { state: 'hidden', timeout: 180_000 });

  async function saved(page, button) {
    const [download] = await Promise.all([page.waitForEvent('download'), page.click(button)]);
    return readFile(await download.path(), 'utf8');
  }

  test('a page labels as the companion does', async () => {
    const { out, said } = await generate('page', SENTIMENT);
    assert.match(said, /new +public\/models\/sentiment-mpnet\//);
    const served = await built(out);
    const { page, errors, close } = await open(served.url);
    try {
      const reference = await native(SENTIMENT, TEXTS);
      await page.fill('#paste', TEXTS.join('\n'));
      await page.click('#use');
      await page.click('#start');
      await whole(page);
      const labelled = lines(await saved(page, '#jsonl'));
      // Every probability too: it is the same build of the same models.
      for (const [at, row] of labelled.entries()) {
        const expected = reference[at];
        assert.deepEqual(Object.keys(row), Object.keys(expected));
        for (const name of ['text', 'label', 'source', 'verdict', 'why', 'sentiment-mpnet.label', 'sentiment-minilm-l3.version']) assert.equal(row[name], expected[name], `${at + 1}: ${name}`);
        for (const [name, value] of Object.entries(expected)) if (name.includes('.p.')) assert.ok(Math.abs(row[name] - value) < 0.02, `${at + 1}: ${name} ${row[name]} ${value}`);
      }
      assert.equal(labelled[2].verdict, 'hard', 'the third is for a person');

      // Reviewed by the keyboard alone, undone and done again.
      await page.locator('#review').focus();
      await until(async () => (await page.textContent('#sample')) === HARD);
      await page.keyboard.press('2');
      await until(async () => (await page.textContent('#reviewed')) === '1');
      await page.keyboard.press('u');
      await until(async () => (await page.textContent('#open')) === '1');
      await page.keyboard.press('3');
      await until(async () => (await page.textContent('#reviewed')) === '1');
      // Elsewhere a key is no label.
      await page.locator('#filter').focus();
      await page.keyboard.press('1');
      const csv = await saved(page, '#csv');
      assert.match(csv.split('\n')[0], /^text,label,source,verdict,why,confidence,sentiment-minilm-l3\.label,/);
      assert.match(csv, /,positive,human,hard,/);

      // A reload loses nothing.
      await until(async () => /kept in this browser/.test(await page.textContent('#where')));
      await until(() => page.evaluate(keeps, 'positive'));
      await page.reload();
      await page.waitForSelector('#results:not([hidden])');
      await until(async () => (await page.textContent('#reviewed')) === '1');
      assert.equal(await saved(page, '#csv'), csv);
      await page.selectOption('#filter', { label: 'labelled positive' });
      await until(async () => (await page.locator('#list > li').count()) === 2);
      await page.locator('#list summary').first().click();
      await until(async () => (await page.locator('#list .votes > li').count()) === 3);

      // A file, with its columns.
      await page.click('#leave');
      await page.setInputFiles('#file', { name: 'a.csv', mimeType: 'text/csv', buffer: Buffer.from('n,tweet\n7,"I love this, film"\n8,\n') });
      await until(async () => (await page.inputValue('#column')) === '1');
      await page.click('#start');
      await whole(page);
      assert.deepEqual(lines(await saved(page, '#jsonl')).map(({ n, tweet, label, verdict }) => [n, tweet, label, verdict]), [
        ['7', 'I love this, film', 'positive', 'accepted'],
        ['8', '', null, 'set-aside'],
      ]);
      await page.click('#leave');
      await page.setInputFiles('#file', { name: 'a.pdf', mimeType: 'application/pdf', buffer: Buffer.from('x') });
      await until(async () => /no kind that this page reads/.test(await page.textContent('#problem-text')));
      assert.deepEqual(errors, []);

      // The policy holds: nothing inline runs, and nothing is fetched from elsewhere.
      const policy = await page.getAttribute('meta[http-equiv]', 'content');
      assert.match(policy, /default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; .*connect-src 'self'; /);
      assert.equal(await page.evaluate(() => fetch('http://127.0.0.1:9/').then(() => 'fetched', () => 'refused')), 'refused');
      assert.equal(await page.evaluate(() => {
        const script = document.createElement('script');
        script.textContent = 'globalThis.ran = true';
        document.head.append(script);
        return globalThis.ran;
      }), undefined);
    } finally {
      await close();
      await served.stop();
    }
  });

  test('a worker answers as the companion does', async () => {
    const { out, said } = await generate('worker', SENTIMENT);
    assert.match(said, /left out: sentiment-mpnet /);
    const spec = await specFile({ task: 'sentiment', slms: ['sentiment-minilm-l3', 'sentiment-minilm-l6'] });
    const reference = await native(spec, TEXTS);
    const desk = await reviewer();
    let worker = await deployed(out);
    try {
      const { status, body } = await worker.annotate(TEXTS);
      assert.equal(status, 200, JSON.stringify(body));
      assert.deepEqual(body.annotations.map(({ label, verdict }) => [label, verdict.status]), reference.map(({ label, verdict }) => [label, verdict]));
      const info = await worker.ask('/info');
      assert.ok(info.body.memoryBytes <= 96 * 2 ** 20, `${info.body.memoryBytes} bytes`);
      assert.equal((await worker.annotate('x')).status, 400);
      assert.equal((await worker.annotate(['x'.repeat(2 ** 20)])).status, 413);
      assert.equal((await worker.ask('/models/index.json')).status, 404, 'the models are the worker’s alone');
      await worker.stop();

      // Reviews cost money: nobody asks for them without the token.
      worker = await deployed(out, { REVIEW_URL: desk.url, REVIEW_TOKEN: 'sesame' });
      assert.equal((await worker.annotate(TEXTS)).status, 503);
      await worker.stop();
      worker = await deployed(out, { REVIEW_URL: desk.url, REVIEW_TOKEN: 'sesame', ACCESS_TOKEN: 'open' });
      for (const authorization of [undefined, 'Bearer ope', 'Bearer opens', 'open']) {
        assert.equal((await worker.annotate(TEXTS, authorization ? { authorization } : {})).status, 401);
      }
      assert.equal(desk.seen.length, 0);
      const reviewed = await worker.annotate(TEXTS, { authorization: 'Bearer open' });
      assert.deepEqual(reviewed.body.annotations.map(({ label, source }) => [label, source]), [['positive', 'consensus'], ['negative', 'consensus'], ['neutral', 'llm']]);
      assert.equal(desk.seen.length, 1);
      assert.equal(desk.seen[0].headers.authorization, 'Bearer sesame');
      assert.ok(!desk.seen[0].body.includes('me@example.com') && desk.seen[0].body.includes('rocket'));
    } finally {
      await worker.stop();
      desk.stop();
    }
  });

  test('a hostile spec is data in all three', async () => {
    const labels = HOSTILE.slice(0, 3);
    const desk = await server503();
    after(() => desk.stop());
    const written = await specFile({
      task: HOSTILE.join(' '),
      labels: labels.map((name, at) => ({ name, aliases: [`alias ${HOSTILE[at + 1]}`], definition: HOSTILE[(at + 3) % 5] })),
      slms: ['minilm-l3', 'minilm-l6'],
      review: { to: 'llm', url: `${desk.url}/?"';<b>` },
    });
    const packed = path.join(await renamed(labels), 'packed');
    const reference = await native(written, TEXTS, '--review', 'none', '--home', path.dirname(packed));
    const expected = reference.map(({ label, verdict }) => [label, verdict]);
    assert.deepEqual(expected.map(([label]) => label), [labels[2], labels[0], null]);

    const worker = await deployed((await generate('worker', written, '--models', packed)).out, { REVIEW_URL: '' });
    try {
      const { body } = await worker.annotate(TEXTS);
      assert.deepEqual(body.annotations.map(({ label, verdict }) => [label, verdict.status]), expected);
    } finally {
      await worker.stop();
    }

    const { out } = await generate('page', written, '--models', packed);
    const served = await built(out);
    const { page, errors, close } = await open(served.url);
    try {
      await page.fill('#paste', TEXTS.join('\n'));
      await page.click('#use');
      await page.check('#send');
      await page.click('#start');
      await whole(page);
      // The reviewer does not answer, so the third is for a person.
      await page.waitForSelector('#problem:not([hidden])');
      await until(async () => /The reviewer did not answer/.test(await page.textContent('#problem-text')));
      assert.ok(desk.seen.length > 0 && desk.seen.every(({ body }) => !body.includes('me@example.com')));
      await page.locator('#review').focus();
      await page.keyboard.press('1');
      const rows = lines(await saved(page, '#jsonl'));
      assert.deepEqual(rows.map(({ label, source }) => [label, source]), [[labels[2], 'consensus'], [labels[0], 'consensus'], [labels[0], 'human']]);
      assert.deepEqual(await page.locator('#labels bdi').allTextContents(), labels);
      assert.equal(await page.locator('#labels script, #choices img, header img:not(.top > img)').count(), 0);
      assert.ok(!(await page.title()).startsWith('pwned') && (await page.evaluate(() => globalThis.pwned)) === undefined);
      assert.deepEqual(errors.filter((error) => !/503/.test(error)), []);
    } finally {
      await close();
      await served.stop();
    }

    const batch = (await generate('cli', written)).out;
    await mkdir(path.join(batch, 'inbox'));
    await writeFile(path.join(batch, 'inbox/texts.jsonl'), TEXTS.map((text) => `${JSON.stringify({ text })}\n`).join(''));
    await exec(path.join(batch, 'annotate.sh'), [], { env: { ...env, AUTOANNOTATOR_HOME: path.dirname(packed) } });
    assert.deepEqual(lines(await readFile(path.join(batch, 'labelled/texts.jsonl.jsonl'), 'utf8')).map(({ label, verdict }) => [label, verdict]), expected);
    for (const place of [batch, out, root]) assert.ok(!existsSync(path.join(place, 'pwned')), `something was run in ${place}`);
  });
});

/** A review server that is out of order. */
function server503() {
  return reviewer(() => ({ status: 503 }));
}
