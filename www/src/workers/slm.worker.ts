// SLMs that vote: brings their weights, then votes on rows. One wasm instance holds them all.
import type { Slm, SlmLoader } from '#wasm';
import type { Device } from '../core/device';
import { db } from '../core/db';
import { bringSlm } from '../core/download';
import type { Loaded, Voted } from '../core/pool';
import { voters } from '../core/results';
import { PageError, serve } from '../core/rpc';
import type { Task } from '../core/scheduler';
import type { SlmManifest, Vote } from '../core/types';
import { engine } from './engine';

const slms = new Map<number, Slm>();

function loaded(slm: number): Slm {
  const found = slms.get(slm);
  if (!found) throw new PageError('slm-not-loaded', 'the model is not loaded yet; press retry');
  return found;
}

let turn: Promise<unknown> = Promise.resolve();

/** Votes once all earlier calls are answered, and how long that took: an SLM does one thing at a time. */
function vote(model: Slm, texts: string[]): Promise<{ votes: Vote[]; start: number; ms: number }> {
  const answer = turn.then(async () => {
    const start = performance.now();
    const votes = texts.length > 0 ? await model.vote(texts) : [];
    return { votes, start: performance.timeOrigin + start, ms: performance.now() - start };
  });
  turn = answer.catch(() => undefined);
  return answer;
}

serve({
  /** Brings and loads an SLM; progress is the number of bytes that are here. */
  async load({ slm, manifest, device }: { slm: number; manifest: SlmManifest; device: Device }, progress): Promise<Loaded> {
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
      loader ??= (await compiled).loader(manifest.version);
      timed(() => loader?.push(shard));
    });
    if (!loader) throw new PageError('slm-empty', `${manifest.id} has no files in the server's index; run \`autoannotator pack\` again, then reload`);
    const start = performance.now();
    const { build, finish } = await compiled;
    const model = await finish(loader, tokenizer);
    ms += performance.now() - start;
    slms.get(slm)?.free();
    slms.set(slm, model);
    return { ms, build };
  },

  /** Texts a second over the given texts, after one that warms up. */
  async measure({ slm, texts }: { slm: number; texts: string[] }): Promise<number> {
    const model = loaded(slm);
    await vote(model, texts.slice(0, 1));
    const { ms } = await vote(model, texts);
    return (texts.length * 1000) / Math.max(1, ms);
  },

  /** Votes on the given texts. */
  async probe({ slm, texts }: { slm: number; texts: string[] }): Promise<Vote[]> {
    return (await vote(loaded(slm), texts)).votes;
  },

  /** Votes on rows of a block, those set aside left out. */
  async vote({ slm, block, from, to }: Task): Promise<Voted> {
    const model = loaded(slm);
    const stored = await (await db()).get('rows', block);
    if (!stored) throw new PageError('rows-missing', `rows ${block} are not in the browser's database any more; open the file again`);
    const rows = stored.rows.slice(from, to);
    const texts = voters(rows).map((place) => rows[place]?.text ?? '');
    return { ...(await vote(model, texts)), texts: texts.length };
  },
});
