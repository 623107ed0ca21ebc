// BPE, unigram and BERTweet tokenizers in the built wasm: the ids that the Python tokenizers give
// (tests/reference/tokenizers/make.py), from the files that the companion built (tests/tokenizers.rs holds those equal).
import assert from 'node:assert/strict';
import test from 'node:test';
import { file, json } from '../reference.mjs';
import { aa, utf8 } from './wasm.mjs';

const { corpus, max_length, tokens } = json('tokenizers/tokens.json');
const hidden = 2;
const config = {
  model_type: 'bert', vocab_size: 700, hidden_size: hidden, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 2,
  max_position_embeddings: max_length, type_vocab_size: 1, layer_norm_eps: 1e-12, relative_attention_num_buckets: 0, pad_token_id: 0,
};
const meta = {
  format: 2, id: 'tiny', task: 'sentiment', labels: ['negative', 'positive'], base: 'tiny', config, pooling: 'mean', temperature: 1,
  max_length, precision: 'f32',
};

/** A model of zeros that any of the tokenizers fits. */
function pack() {
  const at = 'encoder.layer.0.';
  const square = ['attention.self.query', 'attention.self.key', 'attention.self.value', 'attention.output.dense', 'intermediate.dense', 'output.dense'];
  const norms = ['embeddings.', `${at}attention.output.`, `${at}output.`].map((place) => `${place}LayerNorm`);
  const shapes = {
    'embeddings.word_embeddings.weight': [config.vocab_size, hidden], 'embeddings.position_embeddings.weight': [max_length, hidden],
    'embeddings.token_type_embeddings.weight': [1, hidden], 'head.weight': [2, hidden], 'head.bias': [2],
    ...Object.fromEntries(square.flatMap((name) => [[`${at}${name}.weight`, [hidden, hidden]], [`${at}${name}.bias`, [hidden]]])),
    ...Object.fromEntries(norms.flatMap((name) => [[`${name}.weight`, [hidden]], [`${name}.bias`, [hidden]]])),
  };
  let end = 0;
  const header = { __metadata__: { autoannotator: JSON.stringify(meta) } };
  for (const [name, shape] of Object.entries(shapes)) {
    const start = end;
    end += 4 * shape.reduce((product, size) => product * size, 1);
    header[name] = { dtype: 'F32', shape, data_offsets: [start, end] };
  }
  let text = JSON.stringify(header);
  text = text.padEnd(Math.ceil(text.length / 8) * 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, utf8(text), Buffer.alloc(end)]);
}

const packed = pack();

for (const [name, path] of [
  ['roberta', 'built/roberta.json'],
  ['deberta', 'built/deberta.json'],
  ['bertweet', 'built/bertweet.json'],
  ['modernbert', 'modernbert/tokenizer.json'],
]) {
  test(`${name}: token ids are the original's on a nasty corpus`, () => {
    const slm = aa.Slm.load(packed, file(`tokenizers/${path}`));
    assert.equal(corpus.length, tokens[name].length);
    corpus.forEach((entry, i) => {
      const text = typeof entry === 'string' ? entry : entry.repeat.repeat(entry.times);
      assert.deepEqual([...slm.tokenize(text)], tokens[name][i].ids, JSON.stringify(text.slice(0, 60)));
    });
    slm.free();
  });
}
