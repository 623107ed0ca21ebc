// One model, from an R2 bucket; `/body` gives its files by a stream that is not one of bytes.
import { Annotator } from 'autoannotator';

const sources = {
  '/': async (bucket, path) => (await bucket.get(path))?.body ?? null,
  '/body': async (bucket, path) => (await bucket.get(path))?.body.pipeThrough(new TransformStream()) ?? null,
};

export default {
  async fetch(request, { BUCKET }) {
    const read = sources[new URL(request.url).pathname];
    const models = async (path) => {
      const body = await read(BUCKET, path);
      return new Response(body, { status: body ? 200 : 404 });
    };
    try {
      const annotator = await Annotator.load({ task: 'sentiment', slms: ['sentiment-minilm-l3'], models });
      for await (const { label } of annotator.annotate(['I love this film'])) return Response.json({ label });
    } catch (error) {
      return Response.json({ name: error.name, code: error.code });
    }
  },
};
