// The worker's side.
import type { Annotator, AnnotatorLoader, LoadOptions, Sample } from './api.js';
import { DisposedError, fromRecord, toRecord } from './errors.js';
import type { FileAnswer, Port, Question, Reply, Request, ReviewAnswer, SentOptions } from './messages.js';

interface Open {
  resolve(value: never): void;
  reject(error: Error): void;
}

/** Answers the messages of a port by an annotator of its own; gives what takes them. */
export function serve({ post }: Port<Reply>, loader: AnnotatorLoader): (request: Request) => void {
  const asked = new Map<number, Open>();
  const cut = new AbortController();
  let questions = 0;
  let annotator: Annotator | undefined;

  const ask = <T>(question: Question): Promise<T> =>
    new Promise((resolve, reject) => {
      const number = questions++;
      asked.set(number, { resolve, reject });
      post({ ask: number, question });
    });

  const load = async ({ models, reviewer, ...rest }: SentOptions) => {
    const options: LoadOptions = {
      ...rest,
      models:
        models ??
        (async (path) => {
          const { status, bytes } = await ask<FileAnswer>({ kind: 'model', path });
          return new Response(bytes, { status });
        }),
      reviewer: reviewer === 'function' ? (items, { task }) => ask<ReviewAnswer>({ kind: 'review', items, task }) : reviewer,
      signal: cut.signal,
      onProgress: (progress) => post({ progress }),
      onReviewError: (error) => post({ reviewError: toRecord(error) }),
      onWarning: (error) => post({ warning: toRecord(error) }),
    };
    annotator = await loader.load(options);
    return undefined;
  };

  const annotate = async (samples: Sample[]) => {
    if (!annotator) throw new DisposedError();
    const all = [];
    for await (const annotation of annotator.annotate(samples)) all.push(annotation);
    return all;
  };

  const answer = (request: Extract<Request, { call: number }>) => {
    switch (request.name) {
      case 'load':
        return load(request.options);
      case 'annotate':
        return annotate(request.samples);
      case 'info':
        return annotator?.info();
      case 'cut':
        return cut.abort();
    }
  };

  return async (request) => {
    if ('answer' in request) {
      const open = asked.get(request.answer);
      asked.delete(request.answer);
      if ('error' in request) open?.reject(fromRecord(request.error));
      else open?.resolve(request.value as never);
      return;
    }
    try {
      post({ call: request.call, value: (await answer(request)) ?? undefined });
    } catch (error) {
      post({ call: request.call, error: toRecord(error) });
    }
  };
}
