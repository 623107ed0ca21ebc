// Our engine in the browser, with weights kept and checked as the page does (www/src/core/download.ts).

const modules = {};

/** One build of our wasm, instantiated once a page. */
function wasm(build) {
  modules[build] ??= import(`/wasm/${build}/autoannotator.js`).then(async (module) => {
    await module.default();
    return module;
  });
  return modules[build];
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A file's bytes from the Cache API, or from the server and then kept. */
async function bring(cache, url, file) {
  let response = await cache.match(url);
  if (!response) {
    response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: the server answered ${response.status}`);
    await cache.put(url, response.clone());
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  if ((await sha256(bytes)) !== file.sha256) throw new Error(`${url} is not the file of the index; run \`autoannotator pack\` again`);
  return bytes;
}

/** A `build` of the wasm with the packed SLM that `manifest` names, handed over piece by piece as the page does. */
export async function ours(build, manifest) {
  const compiled = wasm(build);
  const cache = await caches.open('bench-models');
  const at = (file) => bring(cache, `/models/${manifest.id}/${manifest.version}/${file.name}`, file);
  const tokenizer = at(manifest.tokenizer);
  const coming = manifest.shards.slice(0, 2).map(at);
  const { SlmLoader } = await compiled;
  const loader = new SlmLoader(manifest.version);
  for (let next = coming.length; coming.length > 0; next++) {
    const shard = await coming.shift();
    if (next < manifest.shards.length) coming.push(at(manifest.shards[next]));
    loader.push(shard);
  }
  const slm = loader.finish(await tokenizer);
  return {
    tokenize: (text) => slm.tokenize(text),
    prepare({ texts }) {
      const ids = Uint32Array.from(texts.flat());
      const lengths = Uint32Array.from(texts, (text) => text.length);
      return () => slm.logitsOfTokens(ids, lengths);
    },
    label: async (texts) => (await slm.vote(texts)).map((vote) => vote.label),
    free: () => slm.free(),
  };
}
