// Cloudflare Workers. Settings are in wrangler.toml.
import { Annotator } from 'autoannotator';
import { handle, once } from './handler.js';

let load;

export default {
  fetch(request, env, context) {
    load ??= once(() =>
      Annotator.load({
        task: env.TASK,
        // What fits into 128 MB; where these disagree, the reviewer decides.
        slms: [`${env.TASK}-minilm-l3`, `${env.TASK}-minilm-l6`],
        models: (path) => env.MODELS.fetch(new URL(path, 'https://models/')),
        reviewer: env.REVIEW_URL ? { url: env.REVIEW_URL, token: env.REVIEW_TOKEN } : 'none',
      }),
    );
    // Loading goes on if the client that it began for goes away.
    context.waitUntil(load().catch(() => undefined));
    return handle(request, load, request.signal);
  },
};
