// The built wasm against PyTorch `transformers`: the values that tests/reference/make.py wrote.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { aa, at, utf8 } from './wasm.mjs';

const file = (path) => readFileSync(at(`tests/reference/${path}`));
const json = (path) => JSON.parse(file(path).toString());
const { cases, labels, max_length } = json('cases.json');
const tokens = json('tokens.json');

/** The packed SLM of a case: its tensors as they stand, its head and what it says of itself. */
function pack({ model, head }) {
  const weights = file(`${model}/model.safetensors`);
  const start = 8 + Number(weights.readBigUInt64LE());
  const { __metadata__: _, ...tensors } = JSON.parse(weights.subarray(8, start).toString());
  const config = { relative_attention_num_buckets: 0, type_vocab_size: 0, ...json(`${model}/config.json`) };
  const meta = {
    format: 2, id: model, task: 'sentiment', labels, base: model, config, pooling: 'mean',
    temperature: head.temperature, max_length, precision: 'f32',
  };
  const headValues = Buffer.from(Float32Array.from([...head.weight, ...head.bias]).buffer);
  const [from, bias] = [weights.length - start, head.weight.length * 4];
  tensors['head.weight'] = { dtype: 'F32', shape: [labels.length, head.weight.length / labels.length], data_offsets: [from, from + bias] };
  tensors['head.bias'] = { dtype: 'F32', shape: [labels.length], data_offsets: [from + bias, from + headValues.length] };
  let header = JSON.stringify({ __metadata__: { autoannotator: JSON.stringify(meta) }, ...tensors });
  header = header.padEnd(Math.ceil(header.length / 8) * 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, utf8(header), weights.subarray(start), headValues]);
}

const close = (found, expected, what) => {
  assert.equal(found.length, expected.length, what);
  expected.forEach((value, i) => assert.ok(Math.abs(found[i] - value) < 1e-4, `${what}: ${found[i]}, expected ${value}`));
};

for (const model of ['bert', 'mpnet']) {
  const reference = cases.find((entry) => entry.model === model);
  const slm = aa.Slm.load(pack(reference), file(`${model}/tokenizer.json`));

  test(`${model}: logits, probabilities and what is cut are the reference's`, () => {
    assert.ok(reference.votes.length >= 4);
    const texts = reference.votes.map((vote) => vote.text);
    close(slm.logits(texts), reference.votes.flatMap((vote) => vote.logits), 'logits');
    slm.vote(texts).forEach((vote, i) => {
      close(vote.probabilities, reference.votes[i].probabilities, 'probabilities');
      assert.equal(vote.truncated ?? false, reference.votes[i].truncated);
    });
  });

  test(`${model}: token ids are the Python tokenizer's on a nasty corpus`, () => {
    assert.equal(tokens.corpus.length, tokens[model].length);
    tokens.corpus.forEach((entry, i) => {
      const text = typeof entry === 'string' ? entry : entry.repeat.repeat(entry.times);
      const { ids } = tokens[model][i];
      // The reference cuts at a longer maximum: its start and its closing token are what is left at this one.
      const expected = ids.length > max_length ? [...ids.slice(0, max_length - 1), ids.at(-1)] : ids;
      assert.deepEqual([...slm.tokenize(text)], expected, JSON.stringify(text.slice(0, 60)));
    });
  });

  test(`${model}: a text's logits do not depend on its batch, bit for bit`, () => {
    const texts = tokens.corpus.filter((entry) => typeof entry === 'string');
    const together = slm.logits(texts);
    texts.forEach((text, i) => assert.deepEqual(slm.logits([text]), together.slice(3 * i, 3 * i + 3), JSON.stringify(text)));
  });
}
