// The server's API, with the token that it may ask for. The token is kept for this tab alone.
import { signal } from '@preact/signals';
import { PageError } from './rpc';

const KEY = 'autoannotator-token';

export const token = signal(globalThis.sessionStorage?.getItem(KEY) ?? '');

export function keepToken(given: string): void {
  token.value = given.trim();
  sessionStorage.setItem(KEY, token.value);
}

let sealed = false;

/** With `true` no request may carry anything from here on. */
export function seal(on: boolean): void {
  sealed = on;
}

/** A request to the server. */
export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  if (sealed && init.body != null) throw new PageError('never-send', 'this run never sends anything; start over to change that');
  const headers = new Headers(init.headers);
  if (token.value !== '') headers.set('authorization', `Bearer ${token.value}`);
  return fetch(path, { ...init, headers });
}

/** Calls `each` with the data of every server-sent event until `cut`; begins anew where the connection ends. */
export async function follow(path: string, cut: AbortSignal, each: (data: string) => void): Promise<void> {
  while (!cut.aborted) {
    try {
      const response = await ask(path, { signal: cut });
      if (!response.ok || !response.body) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + value).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) if (line.startsWith('data:')) each(line.slice(5).trim());
      }
    } catch {
      if (cut.aborted) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 5000));
  }
}
