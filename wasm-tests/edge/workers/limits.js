// More than an edge worker's memory takes: three models, or a text beyond all measure. `/` is a usual text.
import { Annotator, MemoryError } from 'autoannotator';

const TWO = ['sentiment-minilm-l3', 'sentiment-minilm-l6'];
const TEXTS = { '/': 'I love this film', '/long': 'long '.repeat(16_000_000) };
const load = (env, slms) => Annotator.load({ task: 'sentiment', slms, models: (path) => env.MODELS.fetch(new URL(path, 'https://models/')) });

let two;

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    try {
      if (pathname === '/three') await load(env, [...TWO, 'sentiment-mpnet']);
      two ??= await load(env, TWO);
      const annotations = [];
      for await (const { label, verdict } of two.annotate([TEXTS[pathname]])) annotations.push({ label, verdict });
      const compiles = await WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])).then(() => true, () => false);
      return Response.json({ annotations, compiles, info: await two.info() });
    } catch (error) {
      return Response.json({ typed: error instanceof MemoryError, code: error.code, message: error.message });
    }
  },
};
