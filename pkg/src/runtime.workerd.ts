// Cloudflare's workerd: little memory, and modules that were compiled before.
import type { Runtime } from './runtime.js';

/** What workerd has beyond the standards. */
declare const crypto: { DigestStream: new (algorithm: 'SHA-256') => WritableStream<Uint8Array> & { digest: Promise<ArrayBuffer> } };
type ByobReader = ReadableStreamBYOBReader & { readAtLeast(bytes: number, room: Uint8Array): Promise<ReadableStreamReadResult<Uint8Array<ArrayBuffer>>> };

const PIECE = 1 << 20;

export function workerd(builds: Runtime['builds']): Runtime {
  return { builds, base: () => undefined, cache: false, atOnce: 1, pieces };
}

async function* pieces(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Uint8Array<ArrayBuffer>, ArrayBuffer> {
  const hash = new crypto.DigestStream('SHA-256');
  const into = hash.getWriter();
  const from = readerOf(body);
  let whole = false;
  try {
    while (!whole) {
      const { done, value } = await from.next();
      whole = done;
      if (!value?.length) continue;
      await into.write(value);
      yield value;
    }
    await into.close();
    return await hash.digest;
  } finally {
    if (!whole) {
      hash.digest.catch(() => undefined);
      await Promise.allSettled([into.abort(), from.cancel()]);
    }
  }
}

/** Reads a body in pieces: large ones, where it is a stream of bytes. */
function readerOf(body: ReadableStream<Uint8Array<ArrayBuffer>>): { next(): Promise<ReadableStreamReadResult<Uint8Array<ArrayBuffer>>>; cancel(): Promise<void> } {
  let reader: ByobReader;
  try {
    reader = body.getReader({ mode: 'byob' }) as ByobReader;
  } catch {
    const plain = body.getReader();
    return { next: () => plain.read(), cancel: () => plain.cancel() };
  }
  return { next: () => reader.readAtLeast(PIECE, new Uint8Array(PIECE)), cancel: () => reader.cancel() };
}
