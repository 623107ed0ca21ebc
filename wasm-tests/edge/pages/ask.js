// Where the texts are voted on: here, in a worker of one's own, or in a service worker.
import { votes } from './votes.js';

export const inPage = votes;

export function inWorker(job) {
  return new Promise((resolve, reject) => {
    const worker = new Worker('/dedicated.js', { type: 'module' });
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => reject(new Error(event.message || 'the worker did not start'));
    worker.postMessage(job);
  });
}

export async function inServiceWorker(job) {
  const registration = await navigator.serviceWorker.register('/service.js', { type: 'module' });
  await navigator.serviceWorker.ready;
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = ({ data }) => resolve(data);
    registration.active.postMessage(job, [port2]);
  });
}
