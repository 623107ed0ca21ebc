// Which SLM votes on which block next. Pure: no clock, no workers.

/**
 * Hands blocks to SLMs in order and puts their votes together. A fast SLM may be at most `ahead` blocks in front of the
 * slowest one, so the votes that wait for their block to be whole stay few.
 */
export class Scheduler<V> {
  readonly #k: number;
  readonly #ahead: number;
  readonly #todo: number[];
  /** For each SLM, the place in `#todo` it takes next. */
  readonly #place: number[];
  /** For each SLM, blocks to repeat before anything else. */
  readonly #again: number[][];
  readonly #out: Set<number>[];
  readonly #waiting = new Map<number, (V | undefined)[]>();
  #done = 0;

  /** `todo`: the blocks without a result, in the order to take them. */
  constructor(todo: number[], k: number, ahead = 12) {
    this.#todo = todo;
    this.#k = k;
    this.#ahead = ahead;
    this.#place = Array.from({ length: k }, () => 0);
    this.#again = Array.from({ length: k }, () => []);
    this.#out = Array.from({ length: k }, () => new Set<number>());
  }

  /** The next block for SLM `slm`, or undefined while it must wait or has no more. */
  next(slm: number): number | undefined {
    const repeat = this.#again[slm]?.shift();
    if (repeat !== undefined) {
      this.#out[slm]?.add(repeat);
      return repeat;
    }
    const place = this.#place[slm] ?? 0;
    if (place >= this.#todo.length || place >= this.#slowest() + this.#ahead) return undefined;
    this.#place[slm] = place + 1;
    const block = this.#todo[place] as number;
    this.#out[slm]?.add(block);
    return block;
  }

  /** Takes the votes of one SLM on one block; gives all votes of the block, in the SLMs' order, once it is whole. */
  vote(slm: number, block: number, votes: V): V[] | undefined {
    if (!this.#out[slm]?.delete(block)) return undefined; // repeated after a crash, and both came
    let slots = this.#waiting.get(block);
    if (!slots) this.#waiting.set(block, (slots = Array.from({ length: this.#k }, () => undefined)));
    slots[slm] = votes;
    if (slots.some((slot) => slot === undefined)) return undefined;
    this.#waiting.delete(block);
    this.#done += 1;
    return slots as V[];
  }

  /** The SLM's worker died: what it had in hand is given out again. */
  crashed(slm: number): void {
    const out = this.#out[slm];
    if (!out) return;
    this.#again[slm] = [...out, ...(this.#again[slm] ?? [])].sort((a, b) => a - b);
    out.clear();
  }

  /** How many blocks SLM `slm` has in hand. */
  inHand(slm: number): number {
    return this.#out[slm]?.size ?? 0;
  }

  get finished(): boolean {
    return this.#done === this.#todo.length;
  }

  #slowest(): number {
    return Math.min(...this.#place.map((place, slm) => place - this.inHand(slm) - (this.#again[slm]?.length ?? 0)));
  }
}
