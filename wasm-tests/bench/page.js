// What runs in the tab: agreement first, then timing, everything in interleaved rounds.
import { onnx } from './onnx.js';
import { ours } from './ours.js';
import { pipe } from './pipe.js';

const argmax = (row) => row.reduce((best, value, at) => (value > row[best] ? at : best), 0);

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

async function clock(run, times = 1) {
  const start = performance.now();
  for (let time = 0; time < times; time++) await run();
  return (performance.now() - start) / times;
}

const wait = () => new Promise((resolve) => setTimeout(resolve, 0));

/** The engines of one SLM by name. */
const engines = new Map();
let texts = [];
let ids = [];
let setup;

/** Loads the engines of one SLM: `{name: {kind, ...}}` with what `ours`, `onnx` or `pipe` take. */
export async function load(wanted) {
  setup = wanted;
  texts = wanted.texts;
  for (const [name, { kind, build, manifest, url, id, dtype }] of Object.entries(wanted.engines)) {
    const make = { ours: () => ours(build, manifest), onnx: () => onnx(url), pipe: () => pipe(id, dtype) };
    engines.set(name, await make[kind]());
  }
  const tokenizer = [...engines.values()].find((engine) => engine.tokenize);
  ids = texts.map((text) => [...tokenizer.tokenize(text)]);
}

/** Lets engines go that are not needed any more. */
export async function free(names) {
  for (const name of names) {
    await engines.get(name)?.free();
    engines.delete(name);
  }
}

/** Logits of one engine on every `step`-th text, in batches of equal length: no engine has to pad. */
async function logits(name, step) {
  const out = [];
  const byLength = new Map();
  ids.forEach((text, at) => {
    if (at % step === 0) byLength.set(text.length, [...(byLength.get(text.length) ?? []), at]);
  });
  for (const group of byLength.values()) {
    for (let from = 0; from < group.length; from += 8) {
      const part = group.slice(from, from + 8);
      const all = await engines.get(name).prepare({ texts: part.map((at) => ids[at]), pad: setup.pad })();
      part.forEach((at, place) => out.push([at, [...all.slice(place * setup.labels.length, (place + 1) * setup.labels.length)]]));
      await wait();
    }
  }
  return out.sort(([a], [b]) => a - b).map(([, row]) => row);
}

const known = new Map();

/** Share of labels that are those of `reference`, and the largest difference of a logit, on every `step`-th text. */
export async function agreement(name, reference, step = 1) {
  const of = async (engine) => {
    const key = `${engine} ${step}`;
    if (!known.has(key)) known.set(key, await logits(engine, step));
    return known.get(key);
  };
  const [found, wanted] = [await of(name), await of(reference)];
  const same = found.filter((row, at) => argmax(row) === argmax(wanted[at])).length;
  const apart = Math.max(...found.map((row, at) => Math.max(...row.map((value, label) => Math.abs(value - wanted[at][label])))));
  return { texts: found.length, share: same / found.length, apart };
}

/** `batch` texts of `tokens` tokens each, cut from the real ones joined: no two are alike. */
function shape(batch, tokens) {
  const [first, last] = [ids[0][0], ids[0].at(-1)];
  const stream = ids.flatMap((text) => text.slice(1, -1));
  const inner = tokens - 2;
  return Array.from({ length: batch }, (_, at) => [first, ...stream.slice(at * inner, (at + 1) * inner), last]);
}

/**
 * Median milliseconds of each engine on one shape. Each sample repeats the run until it takes `sample` ms; rounds end after
 * `rounds` or `budget` ms, never before the third. An engine of `families` that is slower by a fifth than the family's best
 * after three rounds is left out of the others: only the best counts.
 */
export async function time({ families, batch, tokens, rounds, sample, budget }) {
  const input = { texts: shape(batch, tokens), pad: setup.pad };
  const all = Object.values(families).flat();
  const runs = new Map(all.map((name) => [name, engines.get(name).prepare(input)]));
  const times = new Map(all.map((name) => [name, []]));
  const repeats = new Map();
  for (const [name, run] of runs) {
    const first = await clock(run);
    // A wasm function reaches its last tier only after some calls.
    if (first < sample) await clock(run, Math.ceil(sample / first));
    repeats.set(name, Math.max(1, Math.round(sample / (await clock(run)))));
  }
  let racing = [...all];
  const start = performance.now();
  for (let round = 0; round < rounds && (round < 3 || performance.now() - start < budget); round++) {
    for (const name of round % 2 ? [...racing].reverse() : racing) {
      times.get(name).push(await clock(runs.get(name), repeats.get(name)));
      await wait();
    }
    if (round === 2) {
      racing = Object.values(families).flatMap((names) => {
        const best = Math.min(...names.map((name) => median(times.get(name))));
        return names.filter((name) => median(times.get(name)) <= 1.2 * best);
      });
    }
  }
  return Object.fromEntries(all.map((name) => [name, { ms: median(times.get(name)), rounds: times.get(name).length }]));
}

/** The batch at which a pipeline is fastest on a tenth of the texts, which are sorted by length. */
async function bestBatch(engine, sorted) {
  const some = sorted.filter((_, at) => at % 10 === 5);
  await engine.label(some.slice(0, 8), 8);
  const tried = [];
  for (const batch of [1, 8, 32]) tried.push([await clock(() => engine.label(some, batch)), batch]);
  return tried.sort(([a], [b]) => a - b)[0][1];
}

/**
 * Median milliseconds from text to label for all texts, sorted by length, of `mine` and of the pipeline `peer`. They take
 * turns slice by slice.
 */
export async function tweets({ mine, peer, rounds, slices }) {
  const order = texts.map((_, at) => at).sort((a, b) => ids[a].length - ids[b].length);
  const sorted = order.map((at) => texts[at]);
  const size = Math.ceil(sorted.length / slices);
  const batch = await bestBatch(engines.get(peer), sorted);
  const totals = { [mine]: [], [peer]: [] };
  const labels = { [mine]: [], [peer]: [] };
  for (let round = 0; round < rounds; round++) {
    const sums = { [mine]: 0, [peer]: 0 };
    labels[mine] = [];
    labels[peer] = [];
    for (let from = 0; from < sorted.length; from += size) {
      const part = sorted.slice(from, from + size);
      for (const name of (from / size + round) % 2 ? [peer, mine] : [mine, peer]) {
        sums[name] += await clock(async () => labels[name].push(...(await engines.get(name).label(part, batch))));
        await wait();
      }
    }
    for (const name of [mine, peer]) totals[name].push(sums[name]);
  }
  const same = labels[mine].filter((label, at) => label === labels[peer][at]).length;
  return { mine: median(totals[mine]), peer: median(totals[peer]), batch, agreement: same / sorted.length };
}

globalThis.bench = { load, free, agreement, time, tweets };
