import { expect, test } from 'vitest';
import { unitsOf } from '../src/core/pool';
import { type Known, Scheduler, type Task } from '../src/core/scheduler';
import { BLOCK } from '../src/core/types';

/** A small pseudo-random sequence, so that a failing case can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

interface World {
  /** Milliseconds a text. */
  costs: number[];
  /** For each unit the one whose results it takes. */
  after?: (number | undefined)[];
  /** What the scheduler is told before: nothing but these proportions. */
  relative?: number[];
  workers: number;
  rows: number;
  todo?: number[];
  /** Milliseconds to load a copy. */
  loadMs?: number[];
  here?: boolean;
  memory?: number;
  /** Chance that a step ends in a crash. */
  crash?: number;
  /** By how much a task's time may differ from its SLM's. */
  noise?: number;
  seed?: number;
}

interface Ran {
  makespan: number;
  /** Time of all votes that counted, and of loading each SLM once. */
  work: number;
  loads: number[];
  blocks: Map<number, string[][]>;
  voted: Map<string, number>;
  /** The largest number of blocks of which some but not all votes were there. */
  mostOpen: number;
  /** Of results that pass from one unit to the next, the most that were not yet taken; and those that were. */
  mostPassed: number;
  taken: number;
  peakMemory: number;
}

/** Plays a run: each worker does its steps one after another, and takes new ones whenever anything ends. */
function play(world: World): Ran {
  const next = random(world.seed ?? 1);
  const { costs, workers, rows, relative = costs, memory = Number.POSITIVE_INFINITY } = world;
  const loadMs = world.loadMs ?? costs.map((cost) => cost * BLOCK);
  const units = costs.map((_, unit): Known => {
    const after = world.after?.[unit];
    return { ...(after === undefined ? {} : { after }), relative: relative[unit] as number, ms: undefined, memory: 1 + unit, here: world.here ?? false };
  });
  const last = costs.map((_, unit) => !(world.after ?? []).includes(unit));
  const passed = new Set<string>();
  const scheduler = new Scheduler<string>(units, workers, memory);
  const todo = world.todo ?? Array.from({ length: Math.ceil(rows / BLOCK) }, (_, block) => block);
  scheduler.give(todo, rows);
  type Job = { ends: number; ms: number; load?: number; task?: Task };
  const queues: Job[][] = Array.from({ length: workers }, () => []);
  const held = queues.map(() => new Set<number>());
  const ran: Ran = { makespan: 0, work: loadMs.reduce((a, b) => a + b, 0), loads: costs.map(() => 0), blocks: new Map(), voted: new Map(), mostOpen: 0, mostPassed: 0, taken: 0, peakMemory: 0 };
  const open = new Set<number>();
  let now = 0;
  const pump = () => {
    queues.forEach((queue, worker) => {
      for (let step = scheduler.next(worker); step; step = scheduler.next(worker)) {
        const noise = 1 + (next() * 2 - 1) * (world.noise ?? 0);
        const ms = 'load' in step ? (loadMs[step.load] as number) : (step.vote.to - step.vote.from) * (costs[step.vote.unit] as number) * noise;
        const ends = Math.max(now, queue.at(-1)?.ends ?? 0) + ms;
        queue.push('load' in step ? { ends, ms, load: step.load } : { ends, ms, task: step.vote });
        if ('vote' in step && !held[worker]?.has(step.vote.unit)) throw new Error('a worker was to run a unit that it does not hold');
        if ('vote' in step && world.after?.[step.vote.unit] !== undefined && !passed.has(JSON.stringify(step.vote))) throw new Error('a unit was to take what does not exist');
      }
    });
  };
  for (let steps = 0; !scheduler.finished; steps++) {
    pump();
    const worker = queues.reduce((best, queue, at) => ((queue[0]?.ends ?? Infinity) < (queues[best]?.[0]?.ends ?? Infinity) ? at : best), 0);
    const job = queues[worker]?.shift();
    if (!job || steps > 1e6) throw new Error(`stands still: ${JSON.stringify(world)}`);
    now = job.ends;
    if (next() < (world.crash ?? 0)) {
      scheduler.crashed(worker);
      (queues[worker] as Job[]).length = 0;
      held[worker]?.clear();
    } else if (job.load !== undefined) {
      scheduler.loaded(worker, job.ms);
      held[worker]?.add(job.load);
      ran.loads[job.load] = (ran.loads[job.load] ?? 0) + 1;
      ran.peakMemory = Math.max(ran.peakMemory, held.reduce((sum, own) => sum + [...own].reduce((all, slm) => all + 1 + slm, 0), 0));
    } else if (job.task) {
      const { unit, block, from, to } = job.task;
      const votes = Array.from({ length: to - from }, (_, at) => `${unit}:${block}:${from + at}`);
      for (const vote of votes) ran.voted.set(vote, (ran.voted.get(vote) ?? 0) + 1);
      ran.work += job.ms;
      if (world.after?.[unit] !== undefined) ran.taken += 1;
      if (!last[unit]) {
        const following = scheduler.pass(worker, job.task, job.ms);
        if (!following || following.block !== block || following.from !== from || following.to !== to) throw new Error('nothing follows');
        passed.add(JSON.stringify(following));
        ran.mostPassed = Math.max(ran.mostPassed, passed.size - ran.taken);
        continue;
      }
      open.add(block);
      const whole = scheduler.vote(worker, job.task, votes, job.ms);
      ran.mostOpen = Math.max(ran.mostOpen, open.size);
      if (whole) {
        if (ran.blocks.has(block)) throw new Error('a block was whole twice');
        ran.blocks.set(block, whole);
        open.delete(block);
      }
    }
  }
  ran.makespan = now;
  return ran;
}

/** Every SLM's vote on every row of every block came once, in the rows' order, and every part of an SLM ran once on it. */
function complete(ran: Ran, world: World): void {
  const todo = world.todo ?? Array.from({ length: Math.ceil(world.rows / BLOCK) }, (_, block) => block);
  expect([...ran.blocks.keys()].sort((a, b) => a - b)).toEqual(todo);
  for (const [block, votes] of ran.blocks) {
    const rows = Math.min(BLOCK, world.rows - block * BLOCK);
    const voters = world.costs.flatMap((_, unit) => ((world.after ?? []).includes(unit) ? [] : [unit]));
    expect(votes.map((own) => own.join())).toEqual(voters.map((unit) => Array.from({ length: rows }, (_, row) => `${unit}:${block}:${row}`).join()));
  }
  expect([...ran.voted.values()].every((times) => times === 1)).toBe(true);
  expect(ran.voted.size).toBe(world.costs.length * todo.reduce((sum, block) => sum + Math.min(BLOCK, world.rows - block * BLOCK), 0));
}

for (const workers of [1, 2, 4, 8]) {
  for (const here of [true, false]) {
    test(`costs of 1:2:17 on ${workers} workers end within 1.2 of work / workers, models ${here ? 'on the device' : 'to be fetched'}`, () => {
      for (let seed = 1; seed <= 8; seed++) {
        const world: World = { costs: [1.5, 3, 25], workers, rows: 2000 + seed * 37, loadMs: [100, 150, 600], here, noise: 0.3, seed };
        const ran = play(world);
        complete(ran, world);
        expect(ran.makespan).toBeLessThanOrEqual((1.2 * ran.work) / workers);
      }
    });
  }
}

/** Costs of 1.5, 3 and 25, the last one's cut into parts. */
function cut(parts: number): Pick<World, 'costs' | 'after' | 'loadMs'> {
  const part = Array.from({ length: parts }, () => 25 / parts);
  return { costs: [1.5, 3, ...part], after: [undefined, undefined, undefined, ...part.slice(1).map((_, at) => 2 + at)], loadMs: [100, 150, ...part.map(() => 600 / parts)] };
}

for (const [workers, parts] of [[2, 2], [3, 3], [4, 3], [8, 7]] as const) {
  for (const here of [true, false]) {
    test(`an SLM in ${parts} parts on ${workers} workers ends within 1.2 of work / workers, models ${here ? 'on the device' : 'to be fetched'}`, () => {
      for (let seed = 1; seed <= 8; seed++) {
        const world: World = { ...cut(parts), workers, rows: 2000 + seed * 37, here, noise: 0.3, seed };
        const ran = play(world);
        complete(ran, world);
        expect(ran.makespan).toBeLessThanOrEqual((1.2 * ran.work) / workers);
        expect(ran.mostPassed).toBeLessThanOrEqual(parts * 12);
      }
    });
  }
}

test('of an SLM in two parts no worker holds both', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const ran = play({ ...cut(2), workers: 2, rows: 3000, here: seed % 2 === 0, noise: 0.3, seed });
    expect(ran.loads.slice(2)).toEqual([1, 1]);
  }
});

test('parts do every row once, whatever crashes', () => {
  for (let seed = 1; seed <= 100; seed++) {
    const next = random(seed);
    const parts = 2 + Math.floor(next() * 4);
    const world: World = { ...cut(parts), workers: 1 + Math.floor(next() * 8), rows: Math.floor(next() * 1500), crash: 0.05, noise: 0.5, here: next() < 0.5, memory: next() * 30, seed };
    complete(play(world), world);
  }
});

test('an SLM is cut into as many parts as workers are its share of the work', () => {
  const slms = [{ relative_cost: 1, layers: 3 }, { relative_cost: 2, layers: 6 }, { relative_cost: 17, layers: 12 }];
  const layers = (workers: number, of = slms) => unitsOf(of, workers).filter(({ slm }) => slm === 2).map((unit) => unit.layers);
  expect(layers(1)).toEqual([undefined]);
  expect(layers(2)).toEqual([[0, 6], [6, 12]]);
  expect(layers(4)).toEqual([[0, 4], [4, 8], [8, 12]]);
  expect(layers(8).length).toBe(7);
  expect(layers(2, slms.map(({ relative_cost }) => ({ relative_cost, layers: 0 })))).toEqual([undefined]);
  expect(unitsOf(slms, 4).filter(({ slm }) => slm < 2)).toEqual([{ slm: 0, part: 0, parts: 1 }, { slm: 1, part: 0, parts: 1 }]);
});

test('whatever the costs, no worker is idle for long', () => {
  for (let seed = 1; seed <= 100; seed++) {
    const next = random(seed);
    const costs = Array.from({ length: 1 + Math.floor(next() * 4) }, () => 0.5 * 40 ** next());
    const workers = 1 + Math.floor(next() * 8);
    const relative = costs.map((cost) => cost * (0.5 + next())); // told wrongly
    const loadMs = costs.map((cost) => cost * 20);
    const world: World = { costs, relative, workers, rows: 4000, loadMs, here: true, noise: 0.3, seed };
    const ran = play(world);
    complete(ran, world);
    expect(ran.makespan, JSON.stringify(world)).toBeLessThanOrEqual((1.2 * ran.work) / workers + Math.max(...loadMs));
  }
});

test('every SLM votes on every row once, whatever the speeds and crashes', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const next = random(seed);
    const costs = Array.from({ length: 1 + Math.floor(next() * 4) }, () => 0.2 * 200 ** next());
    const rows = Math.floor(next() * 1500);
    const blocks = Array.from({ length: Math.ceil(rows / BLOCK) }, (_, block) => block);
    const world: World = { costs, workers: 1 + Math.floor(next() * 8), rows, todo: blocks.filter(() => next() < 0.7), crash: 0.05, noise: 0.5, here: next() < 0.5, memory: next() * 30, seed };
    complete(play(world), world);
  }
});

test('votes that wait for their block stay few', () => {
  for (const workers of [1, 2, 8]) {
    const ran = play({ costs: [0.2, 40], workers, rows: 20_000 });
    expect(ran.mostOpen).toBeLessThanOrEqual(Math.max(12, 4 * workers) + 1);
  }
});

test('copies stay within the memory, and a short file needs none', () => {
  // Memory of a copy: 1, 2 and 3.
  expect(play({ costs: [1, 2, 17], workers: 8, rows: 5000 }).peakMemory).toBeGreaterThan(15);
  expect(play({ costs: [1, 2, 17], workers: 8, rows: 5000, memory: 12 }).peakMemory).toBe(12);
  expect(play({ costs: [1, 2, 17], workers: 8, rows: 5000, memory: 0 }).loads).toEqual([1, 1, 1]);
  expect(play({ costs: [1, 2, 17], workers: 8, rows: 10, loadMs: [100, 150, 600] }).loads).toEqual([1, 1, 1]);
});

test('the dearest SLM is loaded first, and the cheap ones share a worker', () => {
  const known = (relative: number): Known => ({ relative, ms: undefined, memory: 1, here: false });
  const scheduler = new Scheduler([known(1), known(17), known(2)], 2, 100);
  expect(scheduler.next(0)).toEqual({ load: 1 });
  expect(scheduler.next(1)).toEqual({ load: 2 });
  expect(scheduler.next(0)).toBeUndefined(); // its files are not here yet: no second download of the same
  scheduler.loaded(1, 5);
  expect(scheduler.next(1)).toEqual({ load: 0 });
  expect(scheduler.holder(2)).toBe(1);
  expect(scheduler.holder(1)).toBeUndefined();
});

test('a dead worker loads again what it alone held', () => {
  const known = (relative: number): Known => ({ relative, ms: undefined, memory: 1, here: true });
  const scheduler = new Scheduler([known(1), known(2), known(17)], 2, 100);
  scheduler.next(0);
  scheduler.loaded(0, 1);
  for (const slm of [1, 0]) {
    expect(scheduler.next(1)).toEqual({ load: slm });
    scheduler.loaded(1, 1);
  }
  scheduler.crashed(1);
  expect(scheduler.next(1)).toEqual({ load: 1 });
  scheduler.loaded(1, 1);
  expect(scheduler.next(1)).toEqual({ load: 0 });
  expect(scheduler.failed(1)).toBe(false); // nobody holds it
});

test('a copy that cannot be loaded is done without', () => {
  const known = (relative: number): Known => ({ relative, ms: undefined, memory: 1, here: true });
  const scheduler = new Scheduler<string>([known(20)], 2, 100);
  scheduler.give([0, 1, 2, 3], 4 * BLOCK);
  expect(scheduler.next(0)).toEqual({ load: 0 });
  scheduler.loaded(0, 1);
  expect(scheduler.next(1)).toEqual({ load: 0 });
  expect(scheduler.failed(1)).toBe(true);
  expect(scheduler.next(1)).toBeUndefined();
});
