// What every entry of the package exports beside its `Annotator`.
export type * from './api.js';
export {
  AutoannotatorError,
  DisposedError,
  MemoryError,
  ModelsError,
  OptionError,
  ReviewError,
  TrapError,
  WasmError,
  WorkerError,
} from './errors.js';
