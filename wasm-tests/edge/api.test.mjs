// The package's interface, in Node.js.
import assert from 'node:assert/strict';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { entry, fileServer, folder, models, noModels, reviewer, SLMS } from './kit.mjs';

const HARD = 'the rocket by @someone is not bad at all, write to me@example.com';
const TEXTS = ['I love this film', 'worst day ever, I hate it', 'the bus leaves at nine', '  \u0085', HARD];

let aa;
const load = (options = {}) => aa.Annotator.load({ task: 'sentiment', slms: SLMS, models, device: 'cpu', ...options });
const all = async (annotator, texts, options) => {
  const found = [];
  for await (const annotation of annotator.annotate(texts, options)) found.push(annotation);
  return found;
};

describe('the interface', { skip: noModels }, () => {
  before(async () => {
    aa = await entry();
  });

  test('three lines to a first result; order, ids, blank texts', async () => {
    const progress = [];
    const annotator = await load({ onProgress: (step) => progress.push(step) });
    const found = await all(annotator, TEXTS);
    assert.deepEqual(found.map(({ sample }) => sample), TEXTS.map((text, at) => ({ id: String(at + 1), text })));
    assert.deepEqual(found.slice(0, 3).map(({ label }) => label), ['positive', 'negative', 'neutral']);
    assert.deepEqual(found[0].votes.map(({ slm, engine, precision }) => [slm, engine, precision]), SLMS.map((slm) => [slm, 'cpu', 'int8']));
    assert.equal(found[3].verdict.status, 'set-aside');
    assert.match(found[3].verdict.why, /^blank-text: /);
    assert.deepEqual([found[4].verdict.status, found[4].label, found[4].review], ['hard', null, null]);
    assert.equal(progress.at(-1).status, 'ready');
    const loaded = progress.map((step) => step.loaded);
    assert.deepEqual(loaded, [...loaded].sort((a, b) => a - b));
    assert.equal(loaded.at(-1), progress[0].total);
    const info = await annotator.info();
    assert.deepEqual([info.device, info.restarts, info.slms.map((slm) => slm.id)], ['cpu', 0, SLMS]);
    annotator.dispose();
  });

  test('texts may come slowly, with ids, and a result need not wait for them all', async () => {
    const annotator = await load({ batch: 1 });
    let given = 0;
    async function* slow() {
      for (const text of TEXTS.slice(0, 3)) {
        given += 1;
        yield { id: `row ${given}`, text };
      }
    }
    const stream = annotator.annotate(slow());
    assert.equal((await stream.next()).value.sample.id, 'row 1');
    assert.equal(given, 1);
    await stream.return();
    const both = await Promise.all([all(annotator, TEXTS), all(annotator, [...TEXTS].reverse())]);
    assert.deepEqual(both[1].reverse().map(({ votes, label }) => ({ votes, label })), both[0].map(({ votes, label }) => ({ votes, label })), 'two runs at once');
    annotator.dispose();
  });

  test('a rule, a spec as TOML and as an object', async () => {
    const toml = await load({ task: undefined, spec: `task = "sentiment"\nslms = ${JSON.stringify(SLMS)}\nrule = "majority"\n`, slms: undefined });
    assert.equal((await toml.info()).spec.rule, 'majority');
    const [hard] = await all(toml, [HARD]);
    assert.deepEqual(hard.verdict, { status: 'hard', why: 'tie' });
    const object = await load({ task: undefined, spec: { task: 'sentiment', slms: SLMS.slice(0, 1) }, slms: undefined, rule: 'majority' });
    assert.equal((await all(object, [HARD]))[0].verdict.status, 'accepted');
    toml.dispose();
    object.dispose();
  });

  test('errors are classes with codes', async () => {
    const wrong = async (options, name, code, message = /./) => {
      const error = await load(options).then(() => assert.fail('it loaded'), (problem) => problem);
      assert.ok(error instanceof aa.AutoannotatorError, error.stack);
      assert.deepEqual([error.name, error.code], [name, code]);
      assert.ok(error instanceof aa[name]);
      assert.match(error.message, message);
      assert.ok(error.message.startsWith(`${code}: `), error.message);
    };
    await wrong({ device: 'tpu' }, 'OptionError', 'option');
    await wrong({ batch: 0 }, 'OptionError', 'option');
    await wrong({ maxMemory: 1000 }, 'OptionError', 'option', /4 MiB/);
    await wrong({ rule: 'sometimes' }, 'OptionError', 'option');
    await wrong({ models: undefined }, 'OptionError', 'option', /models/);
    await wrong({ task: undefined }, 'OptionError', 'option');
    await wrong({ reviewer: 'no address' }, 'OptionError', 'option');
    await wrong({ task: 'poetry' }, 'AutoannotatorError', 'task-unknown');
    await wrong({ task: undefined, spec: 'task = "sentiment"\nrules = 1\n' }, 'AutoannotatorError', 'spec-key');
    await wrong({ task: 'toxicity' }, 'OptionError', 'slm-labels');
    await wrong({ slms: ['sentiment-elephant'] }, 'ModelsError', 'models-missing', /sentiment-minilm-l3/);
    await wrong({ models: folder('empty') }, 'ModelsError', 'models-missing', /index\.json/);
    await wrong({ wasm: { plain: new Uint8Array([0, 97, 115, 109]) } }, 'WasmError', 'wasm-load');
    const annotator = await load();
    await assert.rejects(annotator.annotate('not a list').next(), { code: 'option' });
    await assert.rejects(annotator.annotate([{ text: 1 }]).next(), { code: 'option' });
    annotator.dispose();
  });

  test('a file that is not the one of the index is refused, and one that is cut', async () => {
    const spoil = async (change) => {
      const out = folder('spoilt');
      const index = JSON.parse(await readFile(path.join(models, 'index.json'), 'utf8'));
      const slm = index.slms.find(({ id, precision }) => id === SLMS[0] && precision === 'int8');
      await mkdir(path.join(out, slm.id, slm.version), { recursive: true });
      for (const { name } of [...slm.shards, slm.tokenizer]) await copyFile(path.join(models, slm.id, slm.version, name), path.join(out, slm.id, slm.version, name));
      const shard = path.join(out, slm.id, slm.version, slm.shards[0].name);
      await writeFile(shard, change(await readFile(shard)));
      await writeFile(path.join(out, 'index.json'), JSON.stringify({ slms: [slm] }));
      return load({ models: out, slms: [slm.id] });
    };
    await assert.rejects(spoil((bytes) => bytes.fill(1, 1000, 1001)), { code: 'models-hash' });
    await assert.rejects(spoil((bytes) => bytes.subarray(1)), { code: 'models-hash' });
    await assert.rejects(spoil((bytes) => Buffer.concat([bytes, Buffer.from('x')])), { code: 'models-hash' });
  });

  test('models by address, by file: address, and by a function; the network’s failures are tried again', async () => {
    const served = await fileServer({ '/models/': models });
    const expected = await load();
    const [reference] = await all(expected, TEXTS.slice(0, 1));
    let failures = 2;
    const flaky = async (file) => {
      if (failures-- > 0) return new Response('busy', { status: 503 });
      return new Response(await readFile(path.join(models, file)));
    };
    for (const source of [`${served.url}/models`, pathToFileURL(models), flaky]) {
      const annotator = await load({ models: source });
      assert.deepEqual((await all(annotator, TEXTS.slice(0, 1)))[0], reference);
      annotator.dispose();
    }
    expected.dispose();
    served.stop();
    await assert.rejects(load({ models: served.url }), { code: 'models-download' });
  });

  test('loading and a run can be stopped', async () => {
    await assert.rejects(load({ signal: AbortSignal.abort() }), { name: 'AbortError' });
    const cut = new AbortController();
    await assert.rejects(load({ signal: cut.signal, onProgress: () => cut.abort() }), { name: 'AbortError' });
    const annotator = await load({ batch: 1 });
    const run = new AbortController();
    const stream = annotator.annotate(TEXTS, { signal: run.signal });
    await stream.next();
    run.abort();
    await assert.rejects(stream.next(), { name: 'AbortError' });
    assert.equal((await all(annotator, TEXTS)).length, TEXTS.length, 'the annotator goes on');
    annotator.dispose();
  });

  test('what is disposed of says so', async () => {
    const annotator = await load({ batch: 1 });
    const stream = annotator.annotate(TEXTS);
    await stream.next();
    annotator.dispose();
    annotator.dispose();
    await assert.rejects(stream.next(), { name: 'DisposedError', code: 'disposed' });
    await assert.rejects(annotator.annotate(TEXTS).next(), { code: 'disposed' });
    await assert.rejects(annotator.info(), { code: 'disposed' });
    const other = await load();
    other[Symbol.dispose]();
    await assert.rejects(other.info(), { code: 'disposed' });
  });

  test('only hard samples go to the reviewer, redacted', async () => {
    const desk = await reviewer((number) => (number === 1 ? { status: 429, headers: { 'retry-after': '1' } } : undefined));
    const annotator = await load({ reviewer: { url: desk.url, token: 'sesame' } });
    const found = await all(annotator, TEXTS);
    assert.deepEqual([found[4].label, found[4].source, found[4].review.by], ['neutral', 'llm', { kind: 'llm', model: 'stub' }]);
    assert.equal(found[4].sample.text, HARD, 'what comes out is the text itself');
    assert.equal(desk.seen.length, 2);
    assert.equal(desk.seen[0].headers['idempotency-key'], desk.seen[1].headers['idempotency-key']);
    assert.equal(desk.seen[1].headers.authorization, 'Bearer sesame');
    const { task, items } = JSON.parse(desk.seen[1].body);
    assert.equal(task, 'sentiment');
    assert.deepEqual(items.map(({ id }) => id), ['1'], 'the ids stay here');
    assert.ok(!items[0].text.includes('me@example.com') && !items[0].text.includes('@someone') && items[0].text.includes('rocket'), items[0].text);
    annotator.dispose();
    desk.stop();
  });

  test('a review function; a label that is none of the task’s is no label', async () => {
    const seen = [];
    const say = (label) => async (items) => {
      seen.push(...items);
      return items.map(() => ({ label, by: { kind: 'human' } }));
    };
    const person = await load({ reviewer: say('positive'), redact: false });
    const [reviewed] = await all(person, [HARD]);
    assert.deepEqual([reviewed.label, reviewed.source, seen[0].text], ['positive', 'human', HARD]);
    const poet = await load({ reviewer: say('sublime') });
    const [none] = await all(poet, [HARD]);
    assert.deepEqual([none.label, none.source], [null, null]);
    assert.match(none.review.why, /sublime/);
    const problems = [];
    const broken = await load({ reviewer: async () => [], onReviewError: (error) => problems.push(error.code) });
    assert.equal((await all(broken, [HARD]))[0].review, null);
    assert.deepEqual(problems, ['review-reply']);
    [person, poet, broken].forEach((annotator) => annotator.dispose());
  });

  test('a reviewer without money is not asked again; one that is down is asked again; no result is lost', async () => {
    const error = (status) => ({ status, body: JSON.stringify({ error: { code: 'x', message: 'no more' } }) });
    const desk = await reviewer(() => error(402));
    const problems = [];
    const annotator = await load({ reviewer: desk.url, batch: 1, onReviewError: (problem) => problems.push(problem.code) });
    const found = await all(annotator, [HARD, TEXTS[0], HARD]);
    assert.deepEqual(found.map(({ label }) => label), [null, 'positive', null]);
    assert.deepEqual(problems, ['review-budget', 'review-budget']);
    const asked = desk.seen.length;
    assert.equal((await all(annotator, [HARD]))[0].label, null);
    assert.equal(desk.seen.length, asked, 'it is not asked any more');
    annotator.dispose();
    desk.stop();
    const weak = await reviewer((number) => (number < 3 ? error(503) : undefined));
    const patient = await load({ reviewer: weak.url });
    assert.equal((await all(patient, [HARD]))[0].label, 'neutral');
    assert.equal(new Set(weak.seen.map(({ headers }) => headers['idempotency-key'])).size, 1);
    patient.dispose();
    weak.stop();
  });

  test('what the server did not ask its LLM about stays without a review, and is told', async () => {
    const items = (why) => ({ status: 200, body: JSON.stringify({ items: [{ id: '1', label: null, why }], usage: {}, model: 'stub' }) });
    const said = ['review-budget: used up', 'it will not say'];
    const desk = await reviewer((number) => items(said[number - 1]));
    const problems = [];
    const annotator = await load({ reviewer: desk.url, onReviewError: (problem) => problems.push([problem.name, problem.code]) });
    assert.equal((await all(annotator, [HARD]))[0].review, null);
    assert.deepEqual(problems, [['ReviewError', 'review-budget']]);
    const [later] = await all(annotator, [HARD]);
    assert.deepEqual([later.label, later.review.label, later.review.why], [null, null, said[1]]);
    annotator.dispose();
    desk.stop();
  });

  test('memory that ends spoils one instance: another takes over, and the text that does it again is set aside', async () => {
    const { Annotator } = await entry('simd.node');
    const loading = { task: 'sentiment', slms: SLMS, models, device: 'cpu' };
    const reference = await Annotator.load({ ...loading, batch: 4 });
    const { memoryBytes } = await reference.info();
    // Room for the models and usual texts, not for a long text's copies.
    const tight = await Annotator.load({ ...loading, batch: 4, maxMemory: memoryBytes + 2 ** 20 });
    const texts = [...TEXTS.slice(0, 3), 'long '.repeat(12_000_000), ...TEXTS.slice(0, 2)];
    const found = await all(tight, texts);
    assert.match(found[3].verdict.why, /^wasm-memory: there is no room for 57\.2 MiB more/, JSON.stringify({ ...found[3], sample: null }));
    assert.deepEqual([found[3].verdict.status, found[3].label, found[3].votes], ['set-aside', null, []]);
    const expected = await all(reference, texts.map((text, at) => (at === 3 ? 'short' : text)));
    expected.forEach((annotation, at) => at === 3 || assert.deepEqual(found[at], annotation));
    assert.equal((await tight.info()).restarts, 2, 'the batch once, and the text alone');
    assert.equal((await all(tight, TEXTS)).length, TEXTS.length);
    // The other instance never noticed.
    assert.equal((await reference.info()).restarts, 0);
    [tight, reference].forEach((annotator) => annotator.dispose());
  });

  test('models that do not fit are refused before any is fetched, or where they end', async () => {
    const { Annotator, MemoryError, TrapError } = await entry('simd.node');
    const asked = [];
    const source = async (file) => {
      asked.push(file);
      return new Response(await readFile(path.join(models, file)));
    };
    const load = (maxMemory) => Annotator.load({ task: 'sentiment', slms: SLMS, models: source, device: 'cpu', maxMemory });
    const refused = async (mib) => {
      const error = await load(mib * 2 ** 20).then(() => assert.fail('it loaded'), (problem) => problem);
      assert.ok(error instanceof MemoryError && error instanceof TrapError, error.stack);
      assert.deepEqual([error.name, error.code], ['MemoryError', 'wasm-memory']);
      assert.match(error.message, /^wasm-memory: there is no room for .* MiB more beside .* MiB of WebAssembly memory; /);
    };
    await refused(25);
    assert.deepEqual(asked, ['index.json']);
    await refused(44); // enough for the files, not for the models
  });

  test('a trap inside an async call, whose promise would never settle, is noticed', async () => {
    const annotator = await load();
    const expected = await all(annotator, TEXTS);
    // The module writes its votes into plain objects: what is thrown there goes through its frames as a trap does.
    let armed = true;
    Object.defineProperty(Object.prototype, 'probabilities', {
      configurable: true,
      set(value) {
        if (armed) {
          armed = false;
          throw new RangeError('injected');
        }
        Object.defineProperty(this, 'probabilities', { value, enumerable: true, writable: true, configurable: true });
      },
    });
    try {
      assert.deepEqual(await all(annotator, TEXTS), expected);
    } finally {
      delete Object.prototype.probabilities;
    }
    assert.equal((await annotator.info()).restarts, 1);
    annotator.dispose();
  });

  test('in a worker it is the same', async () => {
    const { Annotator, DisposedError } = await entry('worker.node');
    const here = await load();
    const expected = await all(here, TEXTS);
    here.dispose();
    const progress = [];
    const asked = [];
    const annotator = await Annotator.load({
      task: 'sentiment',
      slms: SLMS,
      device: 'cpu',
      batch: 2,
      models: async (file) => new Response(await readFile(path.join(models, file))),
      reviewer: async (items) => {
        asked.push(...items);
        return items.map(() => ({ label: 'neutral', by: { kind: 'human' } }));
      },
      onProgress: (step) => progress.push(step),
    });
    const found = await all(annotator, TEXTS);
    assert.deepEqual(found.slice(0, 4), expected.slice(0, 4));
    assert.deepEqual([found[4].label, found[4].source, asked.length], ['neutral', 'human', 1]);
    assert.ok(!asked[0].text.includes('@'));
    assert.equal(progress.at(-1).status, 'ready');
    assert.equal((await annotator.info()).device, 'cpu');
    annotator.dispose();
    await assert.rejects(annotator.annotate(TEXTS).next(), (error) => error instanceof DisposedError);
    const plain = await Annotator.load({ task: 'sentiment', slms: SLMS, models, device: 'cpu' });
    assert.deepEqual(await all(plain, TEXTS), expected);
    plain.dispose();
    await assert.rejects(Annotator.load({ task: 'poetry', models }), { code: 'task-unknown' });
    await assert.rejects(Annotator.load({ task: 'sentiment', slms: ['x'], models }), { name: 'ModelsError', code: 'models-missing' });
  });

});
