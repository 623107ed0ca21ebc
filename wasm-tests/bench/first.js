// From the start of the navigation to the first label, as the address asks: {who: ours | pipe, id, build, precision, dtype}.
const ask = Object.fromEntries(new URL(location.href).searchParams);

async function engine() {
  if (ask.who === 'pipe') {
    const { pipe } = await import('./pipe.js');
    return pipe(ask.id, ask.dtype);
  }
  const [{ ours }, index] = await Promise.all([import('./ours.js'), fetch('/models/index.json').then((response) => response.json())]);
  return ours(ask.build, index.slms.find((slm) => slm.id === ask.id && slm.precision === ask.precision));
}

const [label] = await (await engine()).label(['This is the first text of the day, and I like it.']);
globalThis.first = { label, ms: performance.now() };
