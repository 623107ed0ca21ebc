// What the edge worker answers, on any runtime: `POST /annotate` {"texts": [...]} with annotations, `GET /info` with what
// it votes with. A text is a string, or {"id", "text"}.
const MAX_TEXTS = 256;

const json = (body, status = 200) => new Response(JSON.stringify(body), { status, headers: { 'content-type': 'application/json' } });
const refuse = (status, code, message) => json({ error: { code, message } }, status);

/** Answers a request; `load()` gives the annotator, the same one every time. `signal`, if given, stops its work. */
export async function handle(request, load, signal) {
  const { pathname } = new URL(request.url);
  try {
    if (pathname === '/info' && request.method === 'GET') return json(await (await load()).info());
    if (pathname !== '/annotate') return refuse(404, 'not-found', 'ask POST /annotate or GET /info');
    if (request.method !== 'POST') return refuse(405, 'method', 'ask with POST');
    const texts = (await request.json().catch(() => undefined))?.texts;
    if (!Array.isArray(texts) || texts.length > MAX_TEXTS) {
      return refuse(400, 'texts', `the body is {"texts": [...]} with at most ${MAX_TEXTS} texts`);
    }
    const annotator = await load();
    const annotations = [];
    for await (const annotation of annotator.annotate(texts, { signal })) annotations.push(annotation);
    return json({ annotations });
  } catch (error) {
    const { code = 'unexpected', message } = error;
    return refuse(code === 'option' ? 400 : 500, code, message);
  }
}

/** Calls `make` once, and again only after it failed. */
export function once(make) {
  let made;
  return () => {
    made ??= make().catch((error) => {
      made = undefined;
      throw error;
    });
    return made;
  };
}
