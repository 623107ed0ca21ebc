// SLMs that vote: brings their weights, then votes on rows. One wasm instance holds them all.
import type { Slm } from '#wasm';
import { db } from '../core/db';
import { bringSlm } from '../core/download';
import type { Loaded, Voted } from '../core/pool';
import { voters } from '../core/results';
import { PageError, serve } from '../core/rpc';
import type { Task } from '../core/scheduler';
import type { SlmManifest } from '../core/types';
import { type Engine, engine } from './engine';

const slms = new Map<number, Slm>();

function loaded(slm: number): Slm {
  const found = slms.get(slm);
  if (!found) throw new PageError('slm-not-loaded', 'the model is not loaded yet; press retry');
  return found;
}

/** Takes a packed file shard by shard. */
class Loader {
  readonly #Slm: Engine['Slm'];
  #shards: Uint8Array[] = [];

  constructor({ Slm }: Engine) {
    this.#Slm = Slm;
  }

  push(shard: Uint8Array): void {
    this.#shards.push(shard);
  }

  finish(tokenizer: Uint8Array): Slm {
    const packed = new Uint8Array(this.#shards.reduce((sum, shard) => sum + shard.length, 0));
    let at = 0;
    for (const shard of this.#shards) {
      packed.set(shard, at);
      at += shard.length;
    }
    return this.#Slm.load(packed, tokenizer);
  }
}

serve({
  /** Brings and loads an SLM; progress is the number of bytes that are here. */
  async load({ slm, manifest }: { slm: number; manifest: SlmManifest }, progress): Promise<Loaded> {
    const compiled = engine(); // while the weights come
    compiled.catch(() => undefined);
    let loader: Loader | undefined;
    let ms = 0;
    const timed = <T>(work: () => T): T => {
      const start = performance.now();
      const result = work();
      ms += performance.now() - start;
      return result;
    };
    const tokenizer = await bringSlm(manifest, progress, async (shard) => {
      loader ??= new Loader(await compiled);
      timed(() => loader?.push(shard));
    });
    const model = timed(() => loader?.finish(tokenizer));
    if (model?.version !== manifest.version) {
      model?.free();
      throw new PageError('slm-version', `${manifest.id} is version ${model?.version}, not ${manifest.version}; run \`autoannotator pack\` again, then reload`);
    }
    slms.get(slm)?.free();
    slms.set(slm, model);
    return { ms, build: (await compiled).build };
  },

  /** Texts a second over the given texts, after one that warms up. */
  measure({ slm, texts }: { slm: number; texts: string[] }): number {
    const model = loaded(slm);
    model.vote(texts.slice(0, 1));
    const start = performance.now();
    model.vote(texts);
    return (texts.length * 1000) / Math.max(1, performance.now() - start);
  },

  /** Votes on rows of a block, those set aside left out. */
  async vote({ slm, block, from, to }: Task): Promise<Voted> {
    const model = loaded(slm);
    const stored = await (await db()).get('rows', block);
    if (!stored) throw new PageError('rows-missing', `rows ${block} are not in the browser's database any more; open the file again`);
    const rows = stored.rows.slice(from, to);
    const texts = voters(rows).map((place) => rows[place]?.text ?? '');
    const start = performance.now();
    const votes = texts.length > 0 ? model.vote(texts) : [];
    return { votes, texts: texts.length, start: performance.timeOrigin + start, ms: performance.now() - start };
  },
});
