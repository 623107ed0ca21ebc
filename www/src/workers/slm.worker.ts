// SLMs that vote, whole or in parts: brings their weights, then runs them on rows. One wasm instance holds them all.
import type { Slm, SlmLoader } from '#wasm';
import type { Device } from '../core/device';
import { db } from '../core/db';
import { bringSlm } from '../core/download';
import type { Loaded, Ran, Result, Unit } from '../core/pool';
import { voters } from '../core/results';
import { PageError, serve } from '../core/rpc';
import type { SlmManifest } from '../core/types';
import { engine } from './engine';

/** Bytes of a shard that are handed over at once. */
const PIECE = 1 << 20;

interface Held {
  model: Slm;
  unit: Unit;
}

const units = new Map<number, Held>();

let turn: Promise<unknown> = Promise.resolve();

/** What a unit makes of its input once all earlier calls are answered, and how long that took: it does one thing at a time. */
function run({ model, unit }: Held, input: string[] | Uint8Array): Promise<Omit<Ran, 'texts'>> {
  const answer = turn.then(async () => {
    const start = performance.now();
    const result = await resultOf(model, unit, input);
    return { result, start: performance.timeOrigin + start, ms: performance.now() - start };
  });
  turn = answer.catch(() => undefined);
  return answer;
}

async function resultOf(model: Slm, { part, parts }: Unit, input: string[] | Uint8Array): Promise<Result> {
  if (input instanceof Uint8Array) return part + 1 < parts ? { states: model.advance(input) } : { votes: model.voteFrom(input) };
  if (parts > 1) return { states: model.begin(input) };
  return { votes: input.length > 0 ? await model.vote(input) : [] };
}

/** The texts of rows of a block, those set aside left out. */
async function textsOf({ block, from, to }: Rows): Promise<string[]> {
  const stored = await (await db()).get('rows', block);
  if (!stored) throw new PageError('rows-missing', `rows ${block} are not in the browser's database any more; open the file again`);
  const rows = stored.rows.slice(from, to);
  return voters(rows).map((place) => rows[place]?.text ?? '');
}

interface Rows {
  block: number;
  from: number;
  to: number;
}

serve({
  /** Brings and loads a unit; progress is the number of bytes that are here. */
  async load({ at, unit, manifest, device }: { at: number; unit: Unit; manifest: SlmManifest; device: Device }, progress): Promise<Loaded> {
    const compiled = engine(device); // while the weights come
    compiled.catch(() => undefined);
    let loader: SlmLoader | undefined;
    let ms = 0;
    const timed = <T>(work: () => T): T => {
      const start = performance.now();
      const result = work();
      ms += performance.now() - start;
      return result;
    };
    const tokenizer = await bringSlm(manifest, progress, async (shard) => {
      // The shards were checked against the manifest, so the version is the manifest's.
      if (!loader) {
        loader = (await compiled).loader(manifest.version);
        if (unit.layers) loader.layers(...unit.layers);
      }
      // In pieces: each is copied into the wasm's memory, which never shrinks.
      for (let at = 0; at < shard.length; at += PIECE) timed(() => loader?.push(shard.subarray(at, at + PIECE)));
    });
    if (!loader) throw new PageError('slm-empty', `${manifest.id} has no files in the server's index; run \`autoannotator pack\` again, then reload`);
    const start = performance.now();
    const { build, finish } = await compiled;
    const model = await finish(loader, tokenizer);
    ms += performance.now() - start;
    units.get(at)?.model.free();
    units.set(at, { model, unit });
    return { ms, build };
  },

  /** Runs a unit on texts, on rows of the file, or on what the part in front of it made of `texts` texts. */
  async run({ unit, rows, texts, states }: { unit: number; rows?: Rows; texts: string[] | number; states?: Uint8Array }): Promise<Ran> {
    const held = units.get(unit);
    if (!held) throw new PageError('slm-not-loaded', 'the model is not loaded yet; press retry');
    if (states) return { ...(await run(held, states)), texts: typeof texts === 'number' ? texts : texts.length };
    const input = rows ? await textsOf(rows) : (texts as string[]);
    return { ...(await run(held, input)), texts: input.length };
  },
});
