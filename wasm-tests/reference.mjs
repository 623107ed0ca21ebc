// The tiny models of tests/reference with what PyTorch `transformers` says of them, as make.py wrote it.
import { readFileSync } from 'node:fs';

export const file = (path) => readFileSync(new URL(`../tests/reference/${path}`, import.meta.url));
export const json = (path) => JSON.parse(file(path).toString());
export const { cases, labels, max_length } = json('cases.json');

/** The packed SLM of a case: its tensors as they stand or, of BERT, its large ones in int8; its head and what it says of itself, with changes to its config. */
export function pack({ model, head }, precision = 'f32', change = {}) {
  const config = { relative_attention_num_buckets: 0, type_vocab_size: 0, ...json(`${model}/config.json`), ...change };
  const meta = {
    format: 2, id: model, task: 'sentiment', labels, base: model, config, pooling: 'mean',
    temperature: head.temperature, max_length, precision,
  };
  const float = (values) => ({ dtype: 'F32', bytes: Buffer.from(Float32Array.from(values).buffer) });
  const tensors = {
    ...read(`${model}/model.safetensors`, precision === 'int8'),
    'head.weight': { shape: [labels.length, head.weight.length / labels.length], ...float(head.weight) },
    'head.bias': { shape: [labels.length], ...float(head.bias) },
  };
  let end = 0;
  const entries = Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
    end += bytes.length;
    return [name, { dtype, shape, data_offsets: [end - bytes.length, end] }];
  });
  let header = JSON.stringify({ __metadata__: { autoannotator: JSON.stringify(meta) }, ...Object.fromEntries(entries) });
  header = header.padEnd(Math.ceil(header.length / 8) * 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, Buffer.from(header), ...Object.values(tensors).map(({ bytes }) => bytes)]);
}

/** The tensors of a safetensors file; in int8 what is packed so: a scale for each row, and values so small that all sums fit. */
function read(path, int8) {
  const weights = file(path);
  const start = 8 + Number(weights.readBigUInt64LE());
  const { __metadata__: _, ...header } = JSON.parse(weights.subarray(8, start).toString());
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    const bytes = weights.subarray(start + from, start + to);
    if (!int8 || !/(word_embeddings|query|key|value|dense)\.weight$/.test(name)) {
      tensors[name] = { dtype, shape, bytes };
      continue;
    }
    const [rows, columns] = shape;
    const values = new Float32Array(Uint8Array.from(bytes).buffer);
    const row = (at) => values.subarray(at * columns, (at + 1) * columns);
    const scales = Float32Array.from({ length: rows }, (_, at) => Math.max(...row(at).map(Math.abs), 1e-9) / 32);
    const rounded = Int8Array.from(values, (value, at) => Math.round(value / scales[Math.floor(at / columns)]));
    tensors[name] = { dtype: 'I8', shape, bytes: Buffer.from(rounded.buffer) };
    tensors[`${name}.scales`] = { dtype: 'F32', shape: [rows, 1], bytes: Buffer.from(scales.buffer) };
  }
  return tensors;
}
