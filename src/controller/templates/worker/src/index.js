// A Cloudflare worker: `POST /annotate` {"texts": [...]}, `GET /info`. Settings are in wrangler.toml, what is labelled in
// project.json.
import { Annotator } from 'autoannotator';
import { handle, once } from './handler.js';
import project from './project.json';

const MAX_BYTES = 1 << 20;

let load;

export default {
  async fetch(request, env, context) {
    const asked = (await stranger(request, env)) ?? (await whole(request));
    if (asked instanceof Response) return asked;
    load ??= once(() =>
      Annotator.load({
        spec: project.spec,
        models: env.MODELS_URL || ((path) => env.ASSETS.fetch(new URL(`/models/${path}`, 'https://assets/'))),
        reviewer: env.REVIEW_URL ? { url: env.REVIEW_URL, token: env.REVIEW_TOKEN } : 'none',
      }),
    );
    // Loading goes on if the client that it began for goes away.
    context.waitUntil(load().catch(() => undefined));
    return handle(asked, load, request.signal);
  },
};

/** The answer to whoever may not ask: with ACCESS_TOKEN, all who do not know it; with a reviewer, nobody without one. */
async function stranger(request, { ACCESS_TOKEN, REVIEW_URL }) {
  if (!ACCESS_TOKEN) return REVIEW_URL ? refuse(503, 'access-token', 'a worker whose reviews cost money needs the secret ACCESS_TOKEN') : undefined;
  const known = await same(request.headers.get('authorization') ?? '', `Bearer ${ACCESS_TOKEN}`);
  return known ? undefined : refuse(401, 'access', 'ask with the header "authorization: Bearer ..."');
}

/** Equality that takes as long wherever the texts differ. */
async function same(one, other) {
  const hash = (text) => crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return crypto.subtle.timingSafeEqual(await hash(one), await hash(other));
}

/** The request with its body read, so much of it at most; or the answer to a longer one. */
async function whole(request) {
  const { url, method, headers, body } = request;
  if (!body) return request;
  const parts = [];
  let bytes = 0;
  for await (const part of body) {
    bytes += part.byteLength;
    if (bytes > MAX_BYTES) return refuse(413, 'length', `the body may have ${MAX_BYTES} bytes`);
    parts.push(part);
  }
  return new Request(url, { method, headers, body: new Blob(parts) });
}

function refuse(status, code, message) {
  return Response.json({ error: { code, message } }, { status });
}
