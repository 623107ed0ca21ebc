// The same interface, answered by a worker.
import { batches, disposable, samplesOf } from './annotator.js';
import type { Annotation, Annotator, Info, LoadOptions, Text } from './api.js';
import { DisposedError, fromRecord, messageOf, OptionError, toRecord, WorkerError } from './errors.js';
import type { Port, Question, Reply, Request, SentOptions } from './messages.js';
import { addressOf } from './runtime.js';

/** A worker with its channel. */
export interface Thread extends Port<Request> {
  onMessage(take: (reply: Reply) => void): void;
  onDeath(take: (why: string) => void): void;
  /** What a relative address is relative to; a worker has another base than its page. */
  base(): string | undefined;
  stop(): void;
}

const BATCH = 16;
/** Batches that the worker has before it, so that it never waits. */
const AHEAD = 4;

export async function loadIn(thread: Thread, options: LoadOptions): Promise<Annotator> {
  const remote = new RemoteAnnotator(thread, options);
  try {
    await remote.load();
    return remote;
  } catch (error) {
    remote.dispose();
    throw error;
  }
}

interface Open {
  resolve(value: never): void;
  reject(error: Error): void;
}

class RemoteAnnotator implements Annotator {
  readonly #thread: Thread;
  readonly #options: LoadOptions;
  readonly #open = new Map<number, Open>();
  #calls = 0;
  #dead: Error | undefined;

  constructor(thread: Thread, options: LoadOptions) {
    this.#thread = thread;
    this.#options = options;
    thread.onMessage((reply) => this.#take(reply));
    thread.onDeath((why) => this.#end(new WorkerError('worker-crashed', `the worker ended (${why}); make a new annotator`)));
    disposable(this);
  }

  async load(): Promise<void> {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const cut = () => this.#thread.post({ call: -1, name: 'cut' });
    signal?.addEventListener('abort', cut, { once: true });
    try {
      await this.#call<void>({ name: 'load', options: sent(this.#options, this.#thread.base()) });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', cut);
    }
  }

  info(): Promise<Info> {
    return this.#call<Info>({ name: 'info' });
  }

  async *annotate(texts: Iterable<Text> | AsyncIterable<Text>, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<Annotation, void, undefined> {
    if (this.#dead) throw this.#dead;
    const open: { batch: Promise<Annotation[]>; done: boolean }[] = [];
    const next = () => (open.shift() as (typeof open)[number]).batch;
    for await (const samples of batches(samplesOf(texts), this.#options.batch ?? BATCH)) {
      signal?.throwIfAborted();
      const entry = { batch: this.#call<Annotation[]>({ name: 'annotate', samples }), done: false };
      entry.batch.then(
        () => (entry.done = true),
        () => (entry.done = true),
      );
      open.push(entry);
      while (open.length > AHEAD || open[0]?.done) {
        yield* await next();
        signal?.throwIfAborted();
      }
    }
    while (open.length > 0) {
      yield* await next();
      signal?.throwIfAborted();
    }
  }

  dispose(): void {
    this.#end(new DisposedError());
  }

  #end(error: Error): void {
    if (this.#dead) return;
    this.#dead = error;
    this.#thread.stop();
    for (const open of this.#open.values()) open.reject(error);
    this.#open.clear();
  }

  #call<T>(request: { name: 'load'; options: SentOptions } | { name: 'annotate'; samples: { id: string; text: string }[] } | { name: 'info' }): Promise<T> {
    if (this.#dead) return Promise.reject(this.#dead);
    const call = this.#calls++;
    return new Promise<T>((resolve, reject) => {
      this.#open.set(call, { resolve, reject });
      try {
        this.#thread.post({ call, ...request } as Request);
      } catch (error) {
        this.#open.delete(call);
        reject(new OptionError('option', `an option cannot be sent to a worker (${messageOf(error)})`));
      }
    });
  }

  #take(reply: Reply): void {
    if ('progress' in reply) return this.#options.onProgress?.(reply.progress);
    if ('reviewError' in reply) return (this.#options.onReviewError ?? toConsole)(fromRecord(reply.reviewError));
    if ('warning' in reply) return (this.#options.onWarning ?? toConsole)(fromRecord(reply.warning));
    if ('ask' in reply) return void this.#answer(reply.ask, reply.question);
    const open = this.#open.get(reply.call);
    this.#open.delete(reply.call);
    if ('error' in reply) open?.reject(fromRecord(reply.error));
    else open?.resolve(reply.value as never);
  }

  async #answer(answer: number, question: Question): Promise<void> {
    try {
      if (question.kind === 'model') {
        const { models, signal } = this.#options;
        const response = await (models as Extract<typeof models, Function>)(question.path, signal ? { signal } : {});
        const bytes = await response.arrayBuffer();
        this.#post({ answer, value: { status: response.status, bytes } }, [bytes]);
      } else {
        const { reviewer } = this.#options;
        this.#post({ answer, value: await (reviewer as Extract<typeof reviewer, Function>)(question.items, { task: question.task }) });
      }
    } catch (error) {
      this.#post({ answer, error: toRecord(error) });
    }
  }

  #post(message: Request, transfer?: ArrayBuffer[]): void {
    if (!this.#dead) this.#thread.post(message, transfer);
  }

  declare [Symbol.dispose]: () => void;
  declare [Symbol.asyncDispose]: () => Promise<void>;
}

function toConsole(error: Error): void {
  console.warn(error.message);
}

/** Options without what cannot be sent, and with whole addresses. */
function sent(options: LoadOptions, base: string | undefined): SentOptions {
  const { models, reviewer = 'none', signal, onProgress, onReviewError, onWarning, burn, wasm, ...rest } = options;
  if (burn) throw new OptionError('option', "'burn' cannot be brought into this package's worker; import autoannotator itself, in a worker of your own");
  const whole = (address: string | URL) => addressOf(address, base).href;
  const modules = Object.entries(wasm ?? {}).map(([name, source]) => [name, typeof source === 'string' || source instanceof URL ? whole(source) : source]);
  return {
    ...rest,
    ...(wasm ? { wasm: Object.fromEntries(modules) } : {}),
    models: typeof models === 'function' ? null : whole(models),
    reviewer: reviewer instanceof URL ? reviewer.href : typeof reviewer === 'function' ? 'function' : reviewer,
  };
}
