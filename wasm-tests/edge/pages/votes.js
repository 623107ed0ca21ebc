// Votes on texts with an entry of the package, in a page or a worker.
export async function votes({ entry, texts, options }) {
  const start = performance.now();
  const { Annotator } = typeof entry === 'string' ? await import(entry) : entry;
  const annotator = await Annotator.load({ task: 'sentiment', ...options });
  let first;
  const annotations = [];
  for await (const _ of annotator.annotate(texts.slice(0, 1))) first = performance.now() - start;
  const from = performance.now();
  for await (const annotation of annotator.annotate(texts)) annotations.push(annotation);
  const ms = performance.now() - from;
  const info = await annotator.info();
  annotator.dispose();
  return { ...info, annotations, first, ms };
}
