// One SLM: brings its weights, then votes on blocks.
import { Slm } from '#wasm';
import { db } from '../core/db';
import { bringSlm } from '../core/download';
import { voters } from '../core/results';
import { PageError, serve } from '../core/rpc';
import type { SlmManifest, Vote } from '../core/types';
import { wasm } from './wasm';

let slm: Slm | undefined;

function loaded(): Slm {
  if (!slm) throw new PageError('slm-not-loaded', 'the model is not loaded yet; press retry');
  return slm;
}

serve({
  /** Brings and loads the SLM; progress is the number of bytes that are here. */
  async load({ manifest }: { manifest: SlmManifest }, progress) {
    await wasm();
    const { packed, tokenizer } = await bringSlm(manifest, progress);
    slm?.free();
    slm = Slm.load(packed, tokenizer);
    if (slm.version !== manifest.version) {
      throw new PageError('slm-version', `${manifest.id} is version ${slm.version}, not ${manifest.version}; run \`autoannotator pack\` again, then reload`);
    }
  },

  /** Texts a second over the given texts, after one that warms up. */
  measure({ texts }: { texts: string[] }): number {
    const model = loaded();
    model.vote(texts.slice(0, 1));
    const start = performance.now();
    model.vote(texts);
    return (texts.length * 1000) / Math.max(1, performance.now() - start);
  },

  /** Votes on a block's rows, those set aside left out. */
  async vote({ block }: { block: number }): Promise<{ votes: Vote[]; texts: number; ms: number }> {
    const model = loaded();
    const stored = await (await db()).get('rows', block);
    if (!stored) throw new PageError('rows-missing', `rows ${block} are not in the browser's database any more; open the file again`);
    const texts = voters(stored.rows).map((place) => stored.rows[place]?.text ?? '');
    const start = performance.now();
    const votes = texts.length > 0 ? model.vote(texts) : [];
    return { votes, texts: texts.length, ms: performance.now() - start };
  },
});
