// The tiny models of tests/reference with what PyTorch `transformers` says of them, as make.py wrote it.
import { readFileSync } from 'node:fs';

export const file = (path) => readFileSync(new URL(`../tests/reference/${path}`, import.meta.url));
export const json = (path) => JSON.parse(file(path).toString());
export const { cases, labels, max_length } = json('cases.json');

/** The packed SLM of a case: its tensors as they stand, its head and what it says of itself. */
export function pack({ model, head }) {
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
  return Buffer.concat([length, Buffer.from(header), weights.subarray(start), headValues]);
}
