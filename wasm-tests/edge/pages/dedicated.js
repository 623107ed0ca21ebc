import { votes } from './votes.js';

onmessage = async ({ data }) => postMessage(await votes(data).catch((error) => ({ error: String(error) })));
