// What the thread that asks and the worker that votes say to each other.
import type { Annotation, Info, LoadOptions, Progress, Reviewed, ReviewItem, Sample, Task } from './api.js';
import type { ErrorRecord } from './errors.js';

/** Options as they are sent; functions stay behind and are asked by message. */
export type SentOptions = Omit<LoadOptions, 'models' | 'reviewer' | 'signal' | 'onProgress' | 'onReviewError' | 'onWarning' | 'burn'> & {
  models: string | null;
  reviewer: Exclude<LoadOptions['reviewer'], URL | Function | undefined> | 'function';
};

/** To the worker. */
export type Request =
  | { call: number; name: 'load'; options: SentOptions }
  | { call: number; name: 'annotate'; samples: Sample[] }
  | { call: number; name: 'info' }
  | { call: number; name: 'cut' }
  | { answer: number; value: unknown }
  | { answer: number; error: ErrorRecord };

/** What the worker asks of the functions that stayed behind. */
export type Question = { kind: 'model'; path: string } | { kind: 'review'; items: ReviewItem[]; task: Task };

/** The answer about a model's file. */
export interface FileAnswer {
  status: number;
  bytes: ArrayBuffer;
}
export type ReviewAnswer = Reviewed[];

/** From the worker. */
export type Reply =
  | { call: number; value: Annotation[] | Info | undefined }
  | { call: number; error: ErrorRecord }
  | { progress: Progress }
  | { reviewError: ErrorRecord }
  | { warning: ErrorRecord }
  | { ask: number; question: Question };

/** One end of the channel. */
export interface Port<Out> {
  post(message: Out, transfer?: ArrayBuffer[]): void;
}
