// What is thrown. Codes are stable; a message begins with its code and says what to do.

/** The class of all errors of this package. */
export class AutoannotatorError extends Error {
  override name = 'AutoannotatorError';
  /** A stable code, such as `models-missing`. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message.startsWith(`${code}: `) ? message : `${code}: ${message}`, options);
    this.code = code;
  }
}

/** An option has a value that it cannot have (`option`), or the task, the spec or a model is not what is needed. */
export class OptionError extends AutoannotatorError {
  override name = 'OptionError';
}

/** The models cannot be brought: `models-index`, `models-missing`, `models-download`, `models-hash`. */
export class ModelsError extends AutoannotatorError {
  override name = 'ModelsError';
}

/** The WebAssembly module does not start here: `wasm-load`, `wasm-simd`. */
export class WasmError extends AutoannotatorError {
  override name = 'WasmError';
}

/** The WebAssembly module stopped: at a defect (`wasm-trap`), or see `MemoryError`. Its instance is not used any more. */
export class TrapError extends AutoannotatorError {
  override name = 'TrapError';

  constructor(cause: unknown, code = 'wasm-trap', message = `the WebAssembly instance stopped (${messageOf(cause)}); please report it with the text that did it`) {
    super(code, message, { cause });
  }
}

/** The WebAssembly module has no memory left (`wasm-memory`): the models, or a text, are too large for this runtime. */
export class MemoryError extends TrapError {
  override name = 'MemoryError';

  constructor(message: string, cause?: unknown) {
    super(cause, 'wasm-memory', message);
  }
}

/** A GPU engine cannot take a model; not of the package's interface, since another engine does. */
export class NoKernelsError extends AutoannotatorError {
  constructor(id: string, cause: unknown) {
    super('slm-no-gpu', `${id}: ${messageOf(cause).replace(/^slm-no-gpu: /, '').replace('; the CPU engine serves every machine', '')}`, { cause });
  }
}

/** The annotator was disposed of (`disposed`). */
export class DisposedError extends AutoannotatorError {
  override name = 'DisposedError';

  constructor() {
    super('disposed', 'this annotator was disposed of; make a new one with Annotator.load');
  }
}

/** The reviewer gave no reviews: `review-denied`, `review-budget`, `review-request`, `review-down`, `review-reply`. */
export class ReviewError extends AutoannotatorError {
  override name = 'ReviewError';
  /** Whether to ask this reviewer again later. */
  readonly again: boolean;

  constructor(code: string, message: string, again: boolean, options?: ErrorOptions) {
    super(code, message, options);
    this.again = again;
  }
}

/** The worker ended (`worker-crashed`). */
export class WorkerError extends AutoannotatorError {
  override name = 'WorkerError';
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** An error of the crate carries a code; whatever else comes out of a call into it is a trap. */
export function fromWasm(error: unknown): AutoannotatorError {
  if (error instanceof AutoannotatorError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  if (typeof code === 'string') return new AutoannotatorError(code, messageOf(error), { cause: error });
  return new TrapError(error);
}

/** What of an error goes through a message to another thread. */
export interface ErrorRecord {
  name: string;
  code: string;
  message: string;
}

export function toRecord(error: unknown): ErrorRecord {
  const code = (error as { code?: unknown } | null)?.code;
  const name = error instanceof Error ? error.name : 'Error';
  return { name, code: typeof code === 'string' ? code : 'unexpected', message: messageOf(error) };
}

/** The error that a record tells of, of its class. */
export function fromRecord({ name, code, message }: ErrorRecord): Error {
  if (name === 'AbortError') return new DOMException(message, 'AbortError');
  switch (name) {
    case 'OptionError':
      return new OptionError(code, message);
    case 'ModelsError':
      return new ModelsError(code, message);
    case 'WasmError':
      return new WasmError(code, message);
    case 'DisposedError':
      return new DisposedError();
    case 'TrapError':
      return new TrapError(undefined, code, message);
    case 'MemoryError':
      return new MemoryError(message);
    case 'ReviewError':
      return new ReviewError(code, message, false);
    default:
      return new AutoannotatorError(code, message);
  }
}
