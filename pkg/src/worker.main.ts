// What runs in the worker of a page.
import { Annotator } from './index.js';
import type { Reply } from './messages.js';
import { serve } from './serve.js';

const scope = globalThis as unknown as { postMessage(message: Reply): void; addEventListener(type: 'message', take: (event: MessageEvent) => void): void };
const take = serve({ post: (message) => scope.postMessage(message) }, Annotator);
scope.addEventListener('message', (event) => void take(event.data));
