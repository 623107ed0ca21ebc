// The built wasm against PyTorch `transformers`: the values that tests/reference/make.py wrote.
import assert from 'node:assert/strict';
import test from 'node:test';
import { cases, file, json, max_length, pack } from '../reference.mjs';
import { aa } from './wasm.mjs';

const tokens = json('tokens.json');

const close = (found, expected, what) => {
  assert.equal(found.length, expected.length, what);
  expected.forEach((value, i) => assert.ok(Math.abs(found[i] - value) < 1e-4, `${what}: ${found[i]}, expected ${value}`));
};

for (const model of ['bert', 'mpnet']) {
  const reference = cases.find((entry) => entry.model === model);
  const slm = aa.Slm.load(pack(reference), file(`${model}/tokenizer.json`));

  test(`${model}: logits, probabilities and what is cut are the reference's`, async () => {
    assert.ok(reference.votes.length >= 4);
    const texts = reference.votes.map((vote) => vote.text);
    close(await slm.logits(texts), reference.votes.flatMap((vote) => vote.logits), 'logits');
    (await slm.vote(texts)).forEach((vote, i) => {
      close(vote.probabilities, reference.votes[i].probabilities, 'probabilities');
      assert.equal(vote.truncated ?? false, reference.votes[i].truncated);
    });
  });

  test(`${model}: token ids are the Python tokenizer's on a nasty corpus`, async () => {
    assert.equal(tokens.corpus.length, tokens[model].length);
    tokens.corpus.forEach((entry, i) => {
      const text = typeof entry === 'string' ? entry : entry.repeat.repeat(entry.times);
      const { ids } = tokens[model][i];
      // The reference cuts at a longer maximum: its start and its closing token are what is left at this one.
      const expected = ids.length > max_length ? [...ids.slice(0, max_length - 1), ids.at(-1)] : ids;
      assert.deepEqual([...slm.tokenize(text)], expected, JSON.stringify(text.slice(0, 60)));
    });
  });

  test(`${model}: a text's logits do not depend on its batch, bit for bit`, async () => {
    const texts = tokens.corpus.filter((entry) => typeof entry === 'string');
    const together = await slm.logits(texts);
    for (const [i, text] of texts.entries()) assert.deepEqual(await slm.logits([text]), together.slice(3 * i, 3 * i + 3), JSON.stringify(text));
  });
}
