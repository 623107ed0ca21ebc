// A browser extension's service worker: answers messages {texts} with labels. It may be ended at any time, so it loads again
// when it is woken; the models are in the browser's cache by then. Bundled with esbuild: see the test of the recipes.
import { Annotator } from 'autoannotator/simd';
import plain from 'autoannotator/plain.wasm';

let loading;

async function labels(texts) {
  loading ??= Annotator.load({
    task: 'sentiment',
    models: chrome.runtime.getURL('models/'),
    slms: ['sentiment-minilm-l3'],
    wasm: { plain: new URL(plain, import.meta.url) },
    device: 'cpu',
  });
  const found = [];
  for await (const { label } of (await loading).annotate(texts)) found.push(label);
  return found;
}

chrome.runtime.onMessage.addListener((message, sender, answer) => {
  labels(message.texts).then(answer, (error) => answer({ error: error.message }));
  return true; // the answer comes later
});
