// Data files over the boundary: rows in, labelled rows out.
import assert from 'node:assert/strict';
import test from 'node:test';
import { aa, text, utf8 } from './wasm.mjs';

/** Reads a whole file in chunks of `size` bytes. */
function read(format, bytes, options = {}, size = 7) {
  const reader = new aa.RowReader(format, options);
  const rows = [];
  for (let from = 0; from < bytes.length; from += size) rows.push(...reader.push(bytes.subarray(from, from + size)));
  rows.push(...reader.finish());
  const columns = reader.columns;
  reader.free();
  return { rows, columns };
}

const csv = utf8('id,text,score\na,"first, ""quoted""\nline",1\nb,  ,2\nc,third\nd,vierte Zeile 🎉,4\n');

test('rows of a csv come out alike however the file is cut', () => {
  const whole = read('csv', csv, {}, csv.length);
  assert.deepEqual(whole.columns, ['id', 'text', 'score']);
  assert.deepEqual(whole.rows.map((row) => row.id), ['1', '2', '3', '4']);
  assert.deepEqual(whole.rows[0], { id: '1', text: 'first, "quoted"\nline', columns: { fields: ['a', 'first, "quoted"\nline', '1'] } });
  assert.equal(whole.rows[3].text, 'vierte Zeile 🎉');
  for (const size of [1, 2, 3, 5, 11]) assert.deepEqual(read('csv', csv, {}, size), whole, `chunks of ${size}`);
});

test('a row that cannot be voted on says why', () => {
  const { rows } = read('csv', csv);
  assert.equal(rows[0].setAside, undefined);
  assert.match(rows[1].setAside, /^blank-text: /);
  assert.match(rows[2].setAside, /^ragged-row: /);
  assert.deepEqual(rows[2].columns, { fields: ['c', 'third'] });
});

test('a file that cannot be read is an error that says what to do', () => {
  assert.throws(() => read('csv', csv, { textColumn: 'tweet' }), { code: 'data-column', message: /'tweet'.*'text'/ });
  assert.throws(() => read('csv', utf8('')), { code: 'data-empty' });
  assert.throws(() => read('csv', utf8('text\nfine\n"never closed\nmore\n')), { code: 'data-quote', message: /row 2/ });
  assert.throws(() => new aa.RowReader('xlsx'), { code: 'argument' });
  assert.throws(() => new aa.RowReader('csv', { encoding: 'no-such' }), { code: 'data-encoding' });
});

test('the rows of the same call that come before a failure are given with it', () => {
  const reader = new aa.RowReader('csv', {});
  const before = reader.push(utf8('text\nfine\n"never closed\n'));
  assert.deepEqual(before.map((row) => row.text), ['fine']);
  assert.throws(() => reader.finish(), (error) => error.code === 'data-quote' && Array.isArray(error.rows));
  reader.free();
});

test('formats by name', () => {
  assert.equal(aa.sniffFormat('a.CSV', utf8('')), 'csv');
  assert.equal(aa.sniffFormat('a.ndjson', utf8('')), 'jsonl');
  assert.equal(aa.sniffFormat('rows.json', utf8(' {"text": "a"}\n{"text": "b"}')), 'jsonl');
  assert.throws(() => aa.sniffFormat('a.xlsx', utf8('PK')), { code: 'data-format' });
});

const task = aa.builtInSpec('sentiment').task;
const vote = {
  slm: 'one', version: '0123456789ab', engine: 'cpu', precision: 'f32', label: 'positive',
  probabilities: [0.1, 0.2, 0.7].map(Math.fround),
};
const verdict = aa.verdict('unanimous', [vote]);
const label = (row) => ({ row, annotation: aa.annotation({ id: row.id, text: row.text }, [vote], verdict) });

test('an exported csv reads back: own columns untouched, then ours', () => {
  const { rows, columns } = read('csv', csv);
  const exporter = new aa.Exporter('csv', task, ['one'], columns);
  const out = [exporter.push(rows.slice(0, 1).map(label)), exporter.push(rows.slice(3).map(label)), exporter.finish()];
  const back = read('csv', Buffer.concat(out));
  assert.deepEqual(back.columns.slice(0, 9), ['id', 'text', 'score', 'label', 'source', 'verdict', 'why', 'confidence', 'one.label']);
  assert.deepEqual(back.rows[0].columns.fields.slice(0, 6), ['a', 'first, "quoted"\nline', '1', 'positive', 'consensus', 'accepted']);
  const probability = back.rows[0].columns.fields[back.columns.indexOf('one.p.positive')];
  assert.equal(probability, '0.7', 'an f32 is written as the shortest text that names it');
  assert.equal(back.rows[1].text, 'vierte Zeile 🎉');
});

test('jsonl keeps the text of numbers and every member', () => {
  const source = '{"text":"fine","big":12345678901234567890,"nested":{"b":1.10}}\n{"text":"more","extra":null}\n';
  const { rows, columns } = read('jsonl', utf8(source));
  const exporter = new aa.Exporter('jsonl', task, ['one'], columns);
  const lines = text(exporter.push(rows.map(label))).trimEnd().split('\n');
  assert.ok(lines[0].startsWith('{"text":"fine","big":12345678901234567890,"nested":{"b":1.10},"label":"positive",'), lines[0]);
  assert.ok(lines[1].startsWith('{"text":"more","extra":null,"label":'), lines[1]);
  assert.equal(JSON.parse(lines[0])['one.p.positive'], 0.7);
});

test('the report counts what the companion counts', () => {
  const report = new aa.ReportBuilder(task, ['one'], true);
  const row = { id: '1', text: 'fine' };
  report.add(label(row).annotation, 'POS');
  report.add(label(row).annotation, 'negative');
  report.add(label(row).annotation, 'no such label');
  report.add(aa.annotation(row, [vote], { status: 'hard', why: 'disagreement' }), 'positive');
  report.add(aa.annotation(row, [], { status: 'set-aside', why: 'blank-text: x' }));
  const { rows, accepted, hard, set_aside, gold, consensus, seconds } = report.finish(2);
  assert.deepEqual([rows, accepted, hard, set_aside.rows, seconds], [5, 3, 1, 1, 2]);
  assert.deepEqual(gold, { rows: 3, unknown: 2 });
  assert.deepEqual(consensus, { accuracy_on_accepted: 0.5, coverage: 0.6 });
});

test('an export without rows has its header; a format without room for labels is refused', () => {
  const exporter = new aa.Exporter('csv', task, ['one'], ['text']);
  assert.match(text(exporter.finish()), /^text,label,source,/);
  assert.throws(() => new aa.Exporter('txt', task, ['one'], ['text']), { code: 'data-format' });
});
