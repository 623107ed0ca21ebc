// The part of the crate's wasm surface that the page uses. `cargo xtask wasm` builds it into pkg/wasm, in several variants.
declare module '#wasm' {
  import type { Annotation, Format, Row, Verdict, Vote } from './core/types';

  export default function init(options: { module_or_path: URL | string }): Promise<unknown>;
  export interface Spec {
    task: { name: string; labels: { name: string; definition?: string }[] };
    slms: string[];
    rule: string;
  }
  export function builtInSpec(task: string): Spec;
  export class SlmLoader {
    constructor(version: string);
    layers(from: number, to: number): void;
    push(bytes: Uint8Array): void;
    finish(tokenizer: Uint8Array): Slm;
    free(): void;
  }
  export class Slm {
    readonly id: string;
    readonly version: string;
    readonly labels: string[];
    vote(texts: string[]): Promise<Vote[]>;
    begin(texts: string[]): Uint8Array;
    advance(states: Uint8Array): Uint8Array;
    voteFrom(states: Uint8Array): Vote[];
    free(): void;
  }
  export function verdict(rule: string, votes: Vote[]): Verdict;
  export class RowReader {
    constructor(format: Format, options?: { textColumn?: string; encoding?: string });
    push(chunk: Uint8Array): Row[];
    finish(): Row[];
    readonly columns: string[];
    free(): void;
  }
  export function sniffFormat(name: string, head: Uint8Array): Format;
  export class Exporter {
    constructor(format: 'csv' | 'jsonl' | 'txt', task: unknown, slms: string[], columns: string[]);
    push(rows: { row: Row; annotation: Annotation }[]): Uint8Array;
    finish(): Uint8Array;
    free(): void;
  }
  export function redact(text: string): {
    text: string;
    placeholders: { placeholder: string; kind: string; original: string }[];
  };
}

declare module '#wasm-relaxed' {
  export * from '#wasm';
  export { default } from '#wasm';
}

declare module '#wasm-gpu' {
  import { type Slm, SlmLoader as Loader } from '#wasm';

  export { default } from '#wasm';
  export class Gpu {
    static request(software: boolean): Promise<Gpu>;
    readonly name: string;
    destroy(): void;
    free(): void;
  }
  export class SlmLoader extends Loader {
    finishOn(gpu: Gpu, tokenizer: Uint8Array): Promise<Slm>;
  }
}

/** Never bundled: the worker imports it from the server. */
declare module '#wasm-burn' {
  import { type Slm, SlmLoader as Loader } from '#wasm';

  export { default } from '#wasm';
  export class SlmLoader extends Loader {
    finishOnBurn(tokenizer: Uint8Array): Promise<Slm>;
  }
}

declare module '#wasm-gpu-bg?url' {
  const url: string;
  export default url;
}

declare module '#wasm-bg?url' {
  const url: string;
  export default url;
}

declare module '#wasm-relaxed-bg?url' {
  const url: string;
  export default url;
}
