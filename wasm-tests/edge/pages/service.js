import * as entry from '/node_modules/autoannotator/dist/simd.js';
import { votes } from './votes.js';

addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil(clients.claim()));
addEventListener('message', (event) => {
  const answer = async () => event.ports[0].postMessage(await votes({ ...event.data, entry }).catch((error) => ({ error: String(error.stack) })));
  event.waitUntil(answer());
});
