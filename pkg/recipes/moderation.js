// A moderation worker (Cloudflare): lets messages through that the models agree are harmless, stops those that they agree are
// toxic, and holds the others back until somebody has looked.
import { Annotator } from 'autoannotator';

let loading;

export default {
  async fetch(request, env, context) {
    loading ??= Annotator.load({
      task: 'toxicity',
      models: (path) => env.MODELS.fetch(new URL(path, 'https://models/')),
      slms: ['toxicity-minilm-l3', 'toxicity-minilm-l6'],
      batch: 1,
    }).catch((error) => {
      loading = undefined; // the next request tries again
      throw error;
    });
    context.waitUntil(loading.catch(() => undefined));
    const annotator = await loading;
    const message = await request.text();
    for await (const { label } of annotator.annotate([message])) {
      if (label === 'non-toxic') return new Response('sent', { status: 202 });
      if (label === 'toxic') return new Response('refused', { status: 403 });
    }
    return new Response('held back', { status: 202 });
  },
};
