// An onnxruntime-web session as an engine of the benches.

/** The inputs are made before the clock runs; what is timed ends with the logits in the page's memory. */
export const engineOf = (ort, session) => ({
  prepare({ texts, pad }) {
    const length = Math.max(...texts.map((text) => text.length));
    const fill = (value) => {
      const values = texts.flatMap((text) => Array.from({ length }, (_, at) => BigInt(value(text[at]))));
      return new ort.Tensor('int64', BigInt64Array.from(values), [texts.length, length]);
    };
    const all = {
      input_ids: fill((id) => id ?? pad),
      attention_mask: fill((id) => (id === undefined ? 0 : 1)),
      token_type_ids: fill(() => 0),
    };
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, all[name]]));
    return async () => (await session.run(feeds)).logits.data;
  },
  free: () => session.release(),
});
