// The folder that `autoannotator pack` writes: an index of SLMs, and the files of each, checked by SHA-256.
import type { LoadOptions, Progress } from './api.js';
import { messageOf, ModelsError, OptionError } from './errors.js';
import { addressOf, type Runtime } from './runtime.js';

interface FileEntry {
  name: string;
  bytes: number;
  sha256: string;
}

/** An SLM of the index, as far as it is needed here. */
export interface Manifest {
  id: string;
  task: string;
  labels: string[];
  version: string;
  precision: string;
  shards: FileEntry[];
  tokenizer: FileEntry;
}

/** The page of the companion keeps its models under the same name. */
const CACHE = 'autoannotator-models-v1';
const TRIES = 3;

/** A folder of models: what gives its files, and its address if it has one. */
interface Folder {
  address?: URL;
  source(path: string, init: { signal?: AbortSignal }): Promise<Response | Uint8Array<ArrayBuffer>>;
}

function folderOf(models: LoadOptions['models'], runtime: Runtime): Folder {
  if (typeof models === 'function') return { source: models };
  if (typeof models !== 'string' && !(models instanceof URL)) {
    throw new OptionError('option', "'models' says where the packed models are: an address, a path or a function");
  }
  const address = addressOf(String(models).replace(/\/?$/, '/'), runtime.base());
  const source: Folder['source'] = async (path, init) => {
    const file = new URL(path, address);
    const read = await runtime.read?.(file);
    if (read === 'missing') return new Response(null, { status: 404 });
    return read ?? fetch(file, path === 'index.json' ? { ...init, cache: 'no-cache' } : init);
  };
  return { address, source };
}

/** Asks for a file; a failure of the network or the server is tried again. */
async function ask({ source }: Folder, path: string, signal: AbortSignal | undefined): Promise<Response | Uint8Array<ArrayBuffer>> {
  for (let attempt = 1; ; attempt++) {
    let why: string;
    try {
      const response = await source(path, signal ? { signal } : {});
      if (response instanceof Uint8Array || response.ok) return response;
      if (response.status === 404) {
        throw new ModelsError('models-missing', `there is no ${path} in the folder of models; run \`autoannotator pack\` and serve what it wrote`);
      }
      why = `the answer was ${response.status}`;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ModelsError) throw error;
      why = messageOf(error);
    }
    if (attempt === TRIES) throw new ModelsError('models-download', `${path} could not be read (${why}), after ${TRIES} tries`);
    await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
  }
}

/** The index. Where there is no network the kept one is taken. */
async function readIndex(folder: Folder, kept: Cache | undefined, signal: AbortSignal | undefined): Promise<Manifest[]> {
  const key = new URL('index.json', folder.address ?? 'models:/').href;
  let response: Response;
  try {
    const answer = await ask(folder, 'index.json', signal);
    response = answer instanceof Uint8Array ? new Response(answer) : answer;
    await kept?.put(key, response.clone()).catch(() => undefined);
  } catch (error) {
    const before = (error as { code?: string }).code === 'models-download' ? await kept?.match(key) : undefined;
    if (!before) throw error;
    response = before;
  }
  const slms = ((await response.json().catch(() => null)) as { slms?: unknown } | null)?.slms;
  if (!Array.isArray(slms)) throw new ModelsError('models-index', 'index.json is not readable; run `autoannotator pack` again');
  return slms as Manifest[];
}

/** SHA-256 in lower-case hexadecimal. */
async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new ModelsError('models-hash', 'downloads cannot be checked here: browsers only do so on https and localhost');
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The bytes of an answer, written once into the room they need; undefined where there are more or fewer. */
async function readAll(response: Response, length: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const all = new Uint8Array(length);
  let at = 0;
  const reader = response.body?.getReader();
  if (!reader) return undefined;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return at === length ? all : undefined;
    if (at + value.length > length) {
      await reader.cancel().catch(() => undefined);
      return undefined;
    }
    all.set(value, at);
    at += value.length;
  }
}

/** The SLMs of a run, and the way to their bytes. */
export class Models {
  readonly slms: Manifest[];
  readonly total: number;
  readonly #folder: Folder;
  readonly #atOnce: number;
  readonly #cache: Cache | undefined;

  private constructor(slms: Manifest[], folder: Folder, atOnce: number, cache: Cache | undefined) {
    this.slms = slms;
    this.total = slms.flatMap((slm) => [slm.tokenizer, ...slm.shards]).reduce((sum, file) => sum + file.bytes, 0);
    this.#folder = folder;
    this.#atOnce = atOnce;
    this.#cache = cache;
  }

  /** Reads the index and finds the SLMs `ids`; `check` throws where the labels of one do not fit. */
  static async find(options: LoadOptions, ids: string[], check: (id: string, labels: string[]) => void, runtime: Runtime): Promise<Models> {
    const { models, precision, signal } = options;
    const folder = folderOf(models, runtime);
    const cache = runtime.cache && folder.address ? await caches.open(CACHE).catch(() => undefined) : undefined;
    const index = await readIndex(folder, cache, signal);
    const slms = ids.map((id) => {
      const all = index.filter((slm) => slm.id === id);
      const slm = precision ? all.find((one) => one.precision === precision) : (all.find((one) => one.precision === 'int8') ?? all[0]);
      if (!slm) {
        throw new ModelsError('models-missing', `there is no '${id}'${precision ? ` in ${precision}` : ''} in the folder of models, only ${[...new Set(index.map((one) => one.id))].join(', ')}`);
      }
      check(id, slm.labels);
      return slm;
    });
    if (slms.length === 0) throw new OptionError('option', 'no SLM is named that could vote');
    return new Models(slms, folder, runtime.atOnce, cache);
  }

  /** Gives every file's bytes, checked, an SLM's tokenizer before its shards; some are fetched ahead. */
  async *files(signal: AbortSignal | undefined, onProgress?: (progress: Progress) => void): AsyncGenerator<{ slm: Manifest; last: boolean; kind: 'tokenizer' | 'shard'; bytes: Uint8Array<ArrayBuffer> }> {
    const files = this.slms.flatMap((slm) => [
      { slm, file: slm.tokenizer, kind: 'tokenizer' as const, last: false },
      ...slm.shards.map((file, at) => ({ slm, file, kind: 'shard' as const, last: at === slm.shards.length - 1 })),
    ]);
    const coming: Promise<Uint8Array<ArrayBuffer>>[] = [];
    let next = 0;
    let loaded = 0;
    for (const { slm, file, kind, last } of files) {
      for (; next < files.length && coming.length < this.#atOnce; next++) {
        const { slm: of, file: wanted } = files[next] as (typeof files)[number];
        const bytes = this.#bring(`${encodeURIComponent(of.id)}/${encodeURIComponent(of.version)}/${encodeURIComponent(wanted.name)}`, wanted, signal);
        bytes.catch(() => undefined); // told when its turn comes
        coming.push(bytes);
      }
      const bytes = await (coming.shift() as Promise<Uint8Array<ArrayBuffer>>);
      signal?.throwIfAborted();
      loaded += file.bytes;
      onProgress?.({ status: 'download', slm: slm.id, loaded, total: this.total });
      yield { slm, last, kind, bytes };
    }
  }

  /** One file: kept, or brought anew, twice if its hash is not that of the index. */
  async #bring(path: string, file: FileEntry, signal: AbortSignal | undefined): Promise<Uint8Array<ArrayBuffer>> {
    const key = new URL(path, this.#folder.address ?? 'models:/').href;
    const kept = await this.#cache?.match(key);
    const good = async (answer: Response | Uint8Array<ArrayBuffer>) => {
      const bytes = answer instanceof Uint8Array ? answer : await readAll(answer, file.bytes);
      return bytes && (await sha256(bytes)) === file.sha256 ? bytes : undefined;
    };
    const known = kept && (await good(kept));
    if (known) return known;
    for (let attempt = 0; attempt < 2; attempt++) {
      const bytes = await good(await ask(this.#folder, path, signal));
      if (!bytes) continue;
      const headers = { 'content-length': String(bytes.length) };
      await this.#cache?.put(key, new Response(bytes, { headers })).catch(() => undefined);
      return bytes;
    }
    throw new ModelsError('models-hash', `${path} is not the file that index.json names: its length or its SHA-256 differs. Run \`autoannotator pack\` again, and serve index.json and files of one run`);
  }
}
