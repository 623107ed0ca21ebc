import { expect, test } from 'vitest';
import { Scheduler } from '../src/core/scheduler';

/** A small pseudo-random sequence, so that a failing case can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test('every block is voted on once by every SLM, whatever the speeds and crashes', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const next = random(seed);
    const k = 1 + Math.floor(next() * 4);
    const todo = Array.from({ length: Math.floor(next() * 40) }, (_, block) => block * 2);
    const scheduler = new Scheduler<string>(todo, k, 5);
    const hands: number[][] = Array.from({ length: k }, () => []);
    const whole = new Map<number, string[]>();
    for (let step = 0; step < 20_000 && !scheduler.finished; step++) {
      const slm = Math.floor(next() * k);
      const hand = hands[slm] as number[];
      const dice = next();
      if (dice < 0.02) {
        scheduler.crashed(slm);
        hands[slm] = [];
      } else if (dice < 0.5 && hand.length < 2) {
        const block = scheduler.next(slm);
        if (block !== undefined) hand.push(block);
      } else if (hand.length > 0) {
        const block = hand.shift() as number;
        const votes = scheduler.vote(slm, block, `${slm}:${block}`);
        if (votes) {
          expect(whole.has(block)).toBe(false);
          whole.set(block, votes);
        }
      }
    }
    expect(scheduler.finished).toBe(true);
    expect([...whole.keys()].sort((a, b) => a - b)).toEqual(todo);
    for (const [block, votes] of whole) expect(votes).toEqual(Array.from({ length: k }, (_, slm) => `${slm}:${block}`));
  }
});

test('a fast SLM waits for the slowest', () => {
  const scheduler = new Scheduler<number>([0, 1, 2, 3, 4, 5, 6, 7], 2, 3);
  let given = 0;
  for (let block = scheduler.next(0); block !== undefined; block = scheduler.next(0)) {
    scheduler.vote(0, block, 0);
    given += 1;
  }
  expect(given).toBe(3);
  const slow = scheduler.next(1) as number;
  expect(scheduler.next(0)).toBeUndefined(); // handed out is not yet done
  expect(scheduler.vote(1, slow, 1)).toEqual([0, 1]);
  expect(scheduler.next(0)).toBe(3);
});
