// Calls into a worker, with progress, and an error for every call that is open when the worker dies.

/** An error with a stable code and what to do about it. */
export class PageError extends Error {
  readonly code: string;
  /** Seconds to wait before another try is of use, where the other side said so. */
  readonly retryAfter: number | undefined;
  constructor(code: string, message: string, retryAfter?: number) {
    super(message);
    this.name = 'PageError';
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The stable code of whatever was thrown: its own, or the `some-code:` that starts an error of the crate. */
export function codeOf(error: unknown): string {
  if (error instanceof PageError) return error.code;
  // A trap leaves the module in an unknown state: its worker is as good as dead.
  if (error instanceof WebAssembly.RuntimeError) return 'worker-crashed';
  return /^([a-z]+(?:-[a-z0-9]+)+):/.exec(messageOf(error))?.[1] ?? 'unexpected';
}

type Handlers = Record<string, (args: never, progress: (value: unknown) => void) => unknown>;

interface Request {
  call: number;
  name: string;
  args: unknown;
}
type Reply =
  | { call: number; progress: unknown }
  | { call: number; value: unknown }
  | { call: number; error: { code: string; message: string } };

/** Answers calls inside a worker. Calls that share a lane run one after another. */
export function serve(handlers: Handlers): void {
  const scope = self as unknown as DedicatedWorkerGlobalScope;
  scope.onmessage = async (event: MessageEvent<Request>) => {
    const { call, name, args } = event.data;
    try {
      const handler = handlers[name];
      if (!handler) throw new PageError('page-call', `the worker has no '${name}'; reload the page`);
      const value = await handler(args as never, (progress) => scope.postMessage({ call, progress }));
      scope.postMessage({ call, value });
    } catch (error) {
      scope.postMessage({ call, error: { code: codeOf(error), message: messageOf(error) } });
    }
  };
}

interface Open {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
  progress: ((value: unknown) => void) | undefined;
}

/** A worker as the page sees it. */
export class Remote {
  #worker: Worker;
  #open = new Map<number, Open>();
  #next = 0;
  #dead: Error | undefined;

  constructor(worker: Worker, onDeath?: (error: Error) => void) {
    this.#worker = worker;
    worker.onmessage = (event: MessageEvent<Reply>) => this.#reply(event.data);
    const die = (why: string) => {
      const error = new PageError('worker-crashed', why);
      this.#kill(error);
      onDeath?.(error);
    };
    worker.onerror = (event) => {
      event.preventDefault?.();
      die(`a worker stopped${event.message ? `: ${event.message}` : ''}`);
    };
    worker.onmessageerror = () => die('a worker sent something unreadable');
  }

  call<T>(name: string, args?: unknown, progress?: (value: never) => void): Promise<T> {
    if (this.#dead) return Promise.reject(this.#dead);
    const call = this.#next++;
    return new Promise<T>((resolve, reject) => {
      this.#open.set(call, {
        resolve: resolve as (value: unknown) => void,
        reject,
        progress: progress as ((value: unknown) => void) | undefined,
      });
      this.#worker.postMessage({ call, name, args } satisfies Request);
    });
  }

  /** Stops the worker; open calls are rejected. */
  stop(): void {
    this.#kill(new PageError('worker-stopped', 'the worker was stopped'));
  }

  #kill(error: Error): void {
    if (this.#dead) return;
    this.#dead = error;
    this.#worker.terminate();
    for (const open of this.#open.values()) open.reject(error);
    this.#open.clear();
  }

  #reply(reply: Reply): void {
    const open = this.#open.get(reply.call);
    if (!open) return;
    if ('progress' in reply) {
      open.progress?.(reply.progress);
      return;
    }
    this.#open.delete(reply.call);
    if ('error' in reply) open.reject(new PageError(reply.error.code, reply.error.message));
    else open.resolve(reply.value);
  }
}
