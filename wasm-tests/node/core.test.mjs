// Spec, verdict and annotation over the boundary.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { aa, at } from './wasm.mjs';

const vote = (label, probabilities, slm = 's') => ({
  slm, version: '0123456789ab', engine: 'cpu', precision: 'f32', label, probabilities: probabilities.map(Math.fround),
});
const positive = vote('positive', [0.1, 0.2, 0.7]);
const negative = vote('negative', [0.6, 0.3, 0.1]);

test('the version is the crate’s', () => {
  assert.match(readFileSync(at('Cargo.toml'), 'utf8'), new RegExp(`^version = "${aa.version()}"$`, 'm'));
});

test('a built-in spec comes with its labels', () => {
  const spec = aa.builtInSpec('sentiment');
  assert.deepEqual(spec.task.labels.map((label) => label.name), ['negative', 'neutral', 'positive']);
  assert.deepEqual(spec.slms, ['sentiment-minilm-l3', 'sentiment-minilm-l6', 'sentiment-mpnet']);
  assert.equal(spec.rule, 'unanimous');
  assert.throws(() => aa.builtInSpec('poetry'), { name: 'Error', code: 'task-unknown', message: /^task-unknown: .*poetry/ });
});

test('a spec is read from TOML and JSON alike, and its error names the line', () => {
  const toml = aa.parseSpec('task = "toxicity"\nrule = "majority"\n', 'toml');
  assert.deepEqual(aa.parseSpec('{"task": "toxicity", "rule": "majority"}', 'json'), toml);
  assert.equal(toml.rule, 'majority');
  assert.throws(() => aa.parseSpec('task = "toxicity"\nrules = "majority"\n', 'toml'), { code: 'spec-key', message: /line 2/ });
  assert.throws(() => aa.parseSpec('', 'yaml'), { code: 'argument' });
});

test('verdicts', () => {
  const accepted = aa.verdict('unanimous', [positive, vote('positive', [0, 0.1, 0.9], 't')]);
  assert.equal(accepted.status, 'accepted');
  assert.equal(accepted.label, 'positive');
  assert.ok(Math.abs(accepted.confidence - 0.8) < 1e-6);
  assert.deepEqual(aa.verdict('unanimous', [positive, negative]), { status: 'hard', why: 'disagreement' });
  assert.deepEqual(aa.verdict('majority', [positive, negative]), { status: 'hard', why: 'tie' });
  assert.equal(aa.verdict('majority', [positive, negative, positive]).label, 'positive');
  assert.deepEqual(aa.verdict('unanimous', []), { status: 'hard', why: 'no-votes' });
  assert.throws(() => aa.verdict('sometimes', []), { code: 'argument' });
  assert.throws(() => aa.verdict('unanimous', [{ label: 'positive' }]), { code: 'argument' });
});

test('an annotation takes its label from the consensus or the review, and never by default', () => {
  const sample = { id: '1', text: 'fine' };
  const accepted = aa.annotation(sample, [positive], aa.verdict('unanimous', [positive]));
  assert.deepEqual([accepted.label, accepted.source, accepted.review], ['positive', 'consensus', null]);
  assert.deepEqual(accepted.votes, [positive]);
  const hard = aa.verdict('unanimous', [positive, negative]);
  assert.deepEqual([aa.annotation(sample, [positive, negative], hard, null).label], [null]);
  const review = { label: 'neutral', by: { kind: 'llm', model: 'm' }, prompt_tokens: 9, completion_tokens: 1, cost_usd: 0.5 };
  const reviewed = aa.annotation(sample, [positive, negative], hard, review);
  assert.deepEqual([reviewed.label, reviewed.source, reviewed.review], ['neutral', 'llm', review]);
  const refused = aa.annotation(sample, [], hard, { ...review, label: null });
  assert.deepEqual([refused.label, refused.source], [null, null]);
});
