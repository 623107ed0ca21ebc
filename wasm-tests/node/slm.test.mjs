// An SLM over the boundary: a tiny BERT of made-up weights, written here as the packed file's format says.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import test from 'node:test';
import { aa, utf8 } from './wasm.mjs';

const words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'good', 'bad', 'film', 'a', 'the', 'was', '!'];
const tokenizer = utf8(JSON.stringify({
  version: '1.0', truncation: null, padding: null, added_tokens: [],
  normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: 'BertPreTokenizer' },
  post_processor: { type: 'BertProcessing', sep: ['[SEP]', 3], cls: ['[CLS]', 2] },
  decoder: null,
  model: {
    type: 'WordPiece', unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100,
    vocab: Object.fromEntries(words.map((word, id) => [word, id])),
  },
}));

const hidden = 8;
const config = {
  model_type: 'bert', vocab_size: words.length, hidden_size: hidden, num_hidden_layers: 2, num_attention_heads: 2,
  intermediate_size: 16, max_position_embeddings: 16, type_vocab_size: 2, layer_norm_eps: 1e-12,
  relative_attention_num_buckets: 0, pad_token_id: 0,
};
const meta = {
  format: 2, id: 'tiny', task: 'sentiment', labels: ['negative', 'neutral', 'positive'], base: 'tiny', config,
  pooling: 'mean', temperature: 1.5, max_length: 12, precision: 'f32',
};

let seed = 7;
const random = () => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return seed / 2 ** 31 - 1; };

function tensors() {
  const shapes = {
    'embeddings.word_embeddings.weight': [words.length, hidden], 'embeddings.position_embeddings.weight': [16, hidden],
    'embeddings.token_type_embeddings.weight': [2, hidden], 'embeddings.LayerNorm.weight': [hidden], 'embeddings.LayerNorm.bias': [hidden],
  };
  for (let layer = 0; layer < 2; layer += 1) {
    const at = `encoder.layer.${layer}.`;
    for (const name of ['attention.self.query', 'attention.self.key', 'attention.self.value', 'attention.output.dense']) {
      shapes[`${at}${name}.weight`] = [hidden, hidden];
      shapes[`${at}${name}.bias`] = [hidden];
    }
    Object.assign(shapes, {
      [`${at}intermediate.dense.weight`]: [16, hidden], [`${at}intermediate.dense.bias`]: [16],
      [`${at}output.dense.weight`]: [hidden, 16], [`${at}output.dense.bias`]: [hidden],
    });
    for (const name of ['attention.output.LayerNorm', 'output.LayerNorm']) {
      shapes[`${at}${name}.weight`] = [hidden];
      shapes[`${at}${name}.bias`] = [hidden];
    }
  }
  return { ...shapes, 'head.weight': [3, hidden], 'head.bias': [3] };
}

function pack() {
  const header = { __metadata__: { autoannotator: JSON.stringify(meta) } };
  const values = [];
  for (const [name, shape] of Object.entries(tensors())) {
    const from = values.length * 4;
    const count = shape.reduce((product, size) => product * size, 1);
    const middle = name.endsWith('LayerNorm.weight') ? 1 : 0;
    for (let i = 0; i < count; i += 1) values.push(middle + random() / 2);
    header[name] = { dtype: 'F32', shape, data_offsets: [from, values.length * 4] };
  }
  let json = JSON.stringify(header);
  json = json.padEnd(Math.ceil(json.length / 8) * 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, utf8(json), Buffer.from(Float32Array.from(values).buffer)]);
}

const packed = pack();
const slm = aa.Slm.load(packed, tokenizer);
const texts = ['good film!', 'a bad film', '', '🎉 the film was 很好', 'good '.repeat(40), 'the film was good'];

test('it says what it is', async () => {
  assert.equal(slm.id, 'tiny');
  assert.equal(slm.version, createHash('sha256').update(packed).digest('hex').slice(0, 12));
  assert.deepEqual(slm.labels, meta.labels);
  assert.deepEqual([slm.task, slm.maxLength], ['sentiment', 12]);
});

test('a loader that takes the file in pieces makes the same SLM', async () => {
  const loader = new aa.SlmLoader('0123456789ab');
  for (let at = 0; at < packed.length; at += 777) loader.push(packed.subarray(at, at + 777));
  const other = loader.finish(tokenizer);
  assert.equal(other.version, '0123456789ab');
  assert.deepEqual(await other.logits(texts), await slm.logits(texts));
  other.free();
  const cut = new aa.SlmLoader('0123456789ab');
  cut.push(packed.subarray(0, packed.length - 1));
  assert.throws(() => cut.finish(tokenizer), /^Error: slm-file: .*head/);
});

test('two parts vote as the whole does', async () => {
  const part = (from, to) => {
    const loader = new aa.SlmLoader(slm.version);
    loader.layers(from, to);
    loader.push(packed);
    return loader.finish(tokenizer);
  };
  const [lower, upper] = [part(0, 1), part(1, 2)];
  assert.deepEqual(upper.voteFrom(lower.begin(texts)), await slm.vote(texts));
  assert.throws(() => upper.begin(texts), { code: 'slm-input' });
  await assert.rejects(lower.vote(texts), { code: 'slm-input' });
  assert.throws(() => upper.voteFrom(utf8('nonsense')), { code: 'slm-input' });
  assert.throws(() => part(1, 3), { code: 'slm-file', message: /layers 1 to 3, of 2/ });
  for (const one of [lower, upper]) one.free();
});

test('token ids', async () => {
  assert.deepEqual([...slm.tokenize('The FILM was good!')], [2, 9, 7, 10, 5, 11, 3]);
  assert.deepEqual([...slm.tokenize('')], [2, 3]);
  assert.deepEqual([...slm.tokenize('x'.repeat(100_000))], [2, 1, 3]);
  assert.deepEqual([...slm.tokenize(texts[4])], [2, ...Array(10).fill(5), 3]);
});

test('a tokenizer of another kind is refused by name', async () => {
  const other = JSON.parse(Buffer.from(tokenizer).toString());
  other.model = { type: 'WordLevel', vocab: { a: 0 }, unk_token: 'a' };
  assert.throws(() => aa.Slm.load(packed, utf8(JSON.stringify(other))), { code: 'slm-tokenizer', message: /WordLevel.*WordPiece/ });
});

test('votes are those of a task by its label_map', async () => {
  const other = aa.Slm.load(packed, tokenizer);
  const task = { name: 'mood', labels: [{ name: 'good', aliases: ['POSITIVE'] }, { name: 'bad' }] };
  assert.throws(() => other.voteOn(task), { code: 'slm-labels', message: /these are none of the task: negative, neutral/ });
  assert.throws(() => aa.checkLabels(task, 'tiny', slm.labels), { code: 'slm-labels' });
  assert.throws(() => other.voteOn(task, { labels: { happy: 'good' } }), { code: 'slm-labels', message: /'happy'/ });
  const { model } = other.voteOn(task, { labels: { negative: 'bad' } });
  assert.deepEqual(model, ['neutral']);
  assert.deepEqual(other.voteOn(task, { labels: { neutral: 'good', negative: 'bad' } }), { model: [], task: [] });
  const plain = await slm.vote(texts);
  (await other.vote(texts)).forEach((vote, i) => {
    const [negative, neutral, positive] = plain[i].probabilities;
    assert.ok(Math.abs(vote.probabilities[0] - neutral - positive) < 1e-6 && Math.abs(vote.probabilities[1] - negative) < 1e-6);
    assert.equal(vote.label, vote.probabilities[0] >= vote.probabilities[1] ? 'good' : 'bad');
  });
  aa.checkLabels({ name: 'sentiment', labels: ['pos', 'neg', 'neu'].map((name, i) => ({ name, aliases: [['positive', 'negative', 'neutral'][i]] })) }, 'tiny', slm.labels);
  const spec = aa.parseSpec('task = "sentiment"\nslms = ["a"]\n[label_map.a]\nthreshold = 0.25\nlabels = { joy = "pos" }\n', 'toml');
  assert.deepEqual(spec.label_map, { a: { labels: { joy: 'positive' }, threshold: 0.25 } });
  assert.equal(aa.builtInSpec('sentiment').label_map, undefined);
  other.free();
});

test('votes are the softmax of the logits over the temperature; a long text is flagged', async () => {
  const votes = await slm.vote(texts);
  const logits = await slm.logits(texts);
  votes.forEach((vote, i) => {
    const row = [...logits.subarray(3 * i, 3 * i + 3)].map((logit) => Math.exp(logit / meta.temperature));
    const sum = row.reduce((a, b) => a + b);
    row.forEach((value, label) => assert.ok(Math.abs(value / sum - vote.probabilities[label]) < 1e-6));
    assert.equal(vote.label, meta.labels[vote.probabilities.indexOf(Math.max(...vote.probabilities))]);
    assert.equal(vote.truncated ?? false, i === 4);
    assert.deepEqual([vote.slm, vote.version, vote.engine, vote.precision], ['tiny', slm.version, 'cpu', 'f32']);
  });
});

test('a text’s logits do not depend on its batch, bit for bit', async () => {
  const together = await slm.logits(texts);
  for (const [i, text] of texts.entries()) assert.deepEqual(await slm.logits([text]), together.slice(3 * i, 3 * i + 3));
  const reversed = await slm.logits([...texts].reverse());
  texts.forEach((_, i) => {
    const at = 3 * (texts.length - 1 - i);
    assert.deepEqual(reversed.slice(at, at + 3), together.slice(3 * i, 3 * i + 3));
  });
});

test('token ids give the logits of their texts; ids and lengths that do not fit are an error', async () => {
  const ids = texts.map((text) => [...slm.tokenize(text)]);
  const lengths = Uint32Array.from(ids, (text) => text.length);
  assert.deepEqual(await slm.logitsOfTokens(Uint32Array.from(ids.flat()), lengths), await slm.logits(texts));
  for (const [wrong, sizes] of [[[2, 99, 3], [3]], [[2, 3], [3]], [[2, 3], [2, 0]], [Array(13).fill(5), [17]]]) {
    await assert.rejects(slm.logitsOfTokens(Uint32Array.from(wrong), Uint32Array.from(sizes)), { code: 'slm-input' });
  }
});

test('a file that is cut or foreign is an error with a code, and the module goes on', async () => {
  const before = await slm.logits(texts);
  for (const size of [0, 7, 100, packed.length - 1]) {
    assert.throws(() => aa.Slm.load(packed.subarray(0, size), tokenizer), { name: 'Error', code: /^slm-/ }, `${size} bytes`);
  }
  const hostile = Buffer.from(packed);
  hostile.writeBigUInt64LE(2n ** 62n);
  assert.throws(() => aa.Slm.load(hostile, tokenizer), { code: /^slm-/ });
  assert.throws(() => aa.Slm.load(packed, utf8('{}')), { code: 'slm-tokenizer' });
  assert.deepEqual(await slm.logits(texts), before);
});
