// What a run computes on, and what takes over where that fails: the session and its pool, with stand-ins for the workers, the
// database and the server.
import { beforeEach, describe, expect, test, vi } from 'vitest';
import type { Device } from '../src/core/device';
import type { Project, ResultBlock, Row, SlmManifest, Vote } from '../src/core/types';

type Stores = Record<string, Map<unknown, unknown>>;
type Message = { call: number; name: string; args: Record<string, never> };

/** All that the tests set and see. */
const world = vi.hoisted(() => ({
  stores: {} as Stores,
  /** The server's index. */
  slms: [] as SlmManifest[],
  burn: false,
  noKernels: [] as string[],
  /** What becomes of a call of `run`; nothing: it is answered. */
  run: (() => undefined) as (device: Device) => Promise<unknown> | 'crash' | Error | undefined,
  loaded: [] as string[],
  document: Object.assign(new EventTarget(), { hidden: false }),
}));

// The session takes it up as it is imported.
vi.hoisted(() => vi.stubGlobal('document', world.document));

const store = (name: string) => (world.stores[name] ??= new Map());

vi.mock('../src/core/db', () => {
  const base = {
    get: async (name: string, key: unknown) => structuredClone(store(name).get(key)),
    getAll: async (name: string) => [...store(name).values()],
    put: async (name: string, value: { block?: number }, key?: unknown) => void store(name).set(key ?? value.block, structuredClone(value)),
    clear: async (name: string) => store(name).clear(),
  };
  return { db: async () => base, clearProject: async () => undefined, clearResults: async () => store('results').clear() };
});

const LABELS = ['no', 'yes'];
const ROWS = 320;

const manifest = (id: string, precision: string, version = `${id}-${precision}`): SlmManifest => {
  const file = { name: 'x', bytes: 1, sha256: '' };
  return { id, task: 'sentiment', labels: LABELS, version, base: id, precision, max_length: 8, bytes: 1, sha256: '', relative_cost: 1, shards: [file], tokenizer: file };
};

class FakeWorker {
  onmessage?: (event: { data: unknown }) => void;
  onerror?: (event: { message: string }) => void;
  readonly #name: string;
  readonly #units = new Map<number, { slm: SlmManifest; device: Device }>();
  #ended = false;

  constructor(_: URL, { name }: { name: string }) {
    this.#name = name;
  }

  terminate(): void {
    this.#ended = true;
  }

  async postMessage({ call, name, args }: Message): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve));
    const answer = this.#name === 'desk' ? desk(name, args) : await this.#slm(name, args as never);
    if (this.#ended) return;
    if (answer === 'crash') this.onerror?.({ message: 'unreachable' });
    else if (answer instanceof Error) this.onmessage?.({ data: { call, error: { code: /^[a-z-]+/.exec(answer.message)?.[0], message: answer.message } } });
    else this.onmessage?.({ data: { call, value: answer } });
  }

  async #slm(name: string, args: { at: number; manifest: SlmManifest; device: Device; unit: number; rows?: { block: number; from: number; to: number }; texts: string[] }): Promise<unknown> {
    if (name === 'load') {
      const { at, manifest: slm, device } = args;
      if (device === 'gpu' && world.noKernels.includes(slm.id)) return new Error('slm-no-kernels: none');
      this.#units.set(at, { slm, device });
      world.loaded.push(`${slm.version} on ${device}`);
      return { ms: 1, build: device === 'cpu' ? 'relaxed' : device };
    }
    const { slm, device } = this.#units.get(args.unit) as { slm: SlmManifest; device: Device };
    const fate = await world.run(device);
    if (fate !== undefined) return fate;
    const count = args.rows ? args.rows.to - args.rows.from : args.texts.length;
    const stored = slm.precision === 'f16' && device !== 'gpu' ? 'f32' : slm.precision;
    const vote: Vote = { slm: slm.id, version: slm.version, engine: device, precision: stored, label: 'yes', probabilities: [0.1, 0.9] };
    return { result: { votes: Array.from({ length: count }, () => vote) }, texts: count, start: performance.timeOrigin + performance.now(), ms: 1 };
  }
}

function desk(name: string, args: { block?: number; votes?: Vote[][]; texts?: string[] }): unknown {
  if (name === 'spec') return { labels: LABELS.map((label) => ({ name: label })), slms: ['a', 'b'], rule: 'unanimous' };
  if (name === 'judge') return args.texts?.map(() => ({ hard: false, bytes: 1 }));
  if (name === 'recall') return [...store('results').values()];
  if (name !== 'settle') return [];
  const { block = 0, votes = [] } = args;
  const rows = votes[0]?.length ?? 0;
  const own = votes.map(() => ({ label: new Uint8Array(rows).fill(1), probabilities: new Float32Array(2 * rows), truncated: new Uint8Array(rows) }));
  const result: ResultBlock = { block, verdict: new Uint8Array(rows).fill(1), label: new Uint8Array(rows).fill(1), confidence: new Float32Array(rows), why: {}, votes: own };
  store('results').set(block, result);
  return result;
}

async function server(path: string, init: RequestInit = {}): Promise<Response> {
  if (init.method === 'HEAD') return new Response(null, { headers: { 'content-type': world.burn ? 'application/wasm' : 'text/html' } });
  return Response.json(path.startsWith('/models') ? { slms: world.slms } : {});
}

const gpu = { requestAdapter: async () => ({ info: { vendor: 'test', description: 'GPU' } }) };

beforeEach(() => {
  Object.assign(world, { stores: {}, burn: false, noKernels: [], loaded: [], run: () => undefined });
  world.slms = ['f16', 'int8'].flatMap((precision) => ['a', 'b'].map((id) => manifest(id, precision)));
  world.document.hidden = false;
  vi.stubGlobal('navigator', { gpu, hardwareConcurrency: 2 });
  vi.stubGlobal('Worker', FakeWorker);
  vi.stubGlobal('fetch', server);
  const rows = Array.from({ length: 32 }, (_, at): Row => ({ id: String(at + 1), text: 'a text', columns: { fields: [] } }));
  for (let block = 0; block * 32 < ROWS; block++) store('rows').set(block, { block, rows });
  const project = { name: 'x.csv', rows: ROWS, aside: 0, columns: [], task: 'sentiment', labels: [], slms: [], rule: 'unanimous', reviewTo: 'person', state: 'ready', seconds: 0, timeline: [], spend: {}, precision: 'f32', device: 'gpu' };
  store('project').set('current', project);
});

/** A page that is opened, or opened again, with some choices. */
async function opened(change: Partial<Project> = {}) {
  const { Session } = await import('../src/core/session');
  store('project').set('current', { ...(store('project').get('current') as Project), ...change });
  const session = new Session();
  await session.open();
  return session;
}

type Session = Awaited<ReturnType<typeof opened>>;

const until = (what: () => boolean) => vi.waitFor(() => expect(what()).toBe(true), { timeout: 5000, interval: 5 });
const done = (session: Session) => until(() => session.project.value?.state === 'done');
const notices = (session: Session) => Object.fromEntries(session.notices.value.map(({ code, text }) => [code, text]));
const pinned = (session: Session) => session.project.value?.slms.map(({ version, engine, precision, chosen }) => [version, engine, precision, chosen]);

/** Whether the votes of some rows are in. */
const begun = () => store('results').size > 0;

/** Holds the votes once some are in, until it is told to let them go. */
function hold(): () => void {
  let go: () => void = () => undefined;
  const held = new Promise<undefined>((resolve) => (go = () => resolve(undefined)));
  world.run = () => (begun() ? held : undefined);
  return go;
}

describe('a run in f32 that votes in f16', () => {
  test('goes on by the CPU after the GPU was lost', async () => {
    const session = await opened();
    world.run = (device) => (device === 'gpu' && begun() ? new Error('slm-gpu: the device was lost') : undefined);
    await session.start();
    await done(session);
    expect(pinned(session)).toEqual(['a', 'b'].map((id) => [`${id}-f16`, 'gpu+cpu', 'f16+f32', 'f32']));
    expect(notices(session)['gpu-lost']).toMatch(/^The GPU failed \(the device was lost\), so the CPU goes on/);
    expect(notices(session)['run-stopped']).toBeUndefined();
  });

  test('goes on after a pause, and after a reload, of a run too that kept no choice', async () => {
    const go = hold();
    const session = await opened();
    await session.start();
    await until(begun);
    await session.cancel();
    go();
    const { slms } = store('project').get('current') as Project;
    expect(slms.map((slm) => slm.precision)).toEqual(['f16', 'f16']);
    const again = await opened({ state: 'paused', slms: slms.map(({ chosen: _, ...slm }) => slm) });
    expect(notices(again)['run-stopped']).toBeUndefined();
    await again.start();
    await done(again);
    expect(new Set(world.loaded)).toEqual(new Set(['a-f16 on gpu', 'b-f16 on gpu']));
  });

  test('takes new versions of the same precision', async () => {
    const now = performance.now.bind(performance);
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + 60_000); // so that it looks at once
    const go = hold();
    const session = await opened();
    await session.start();
    await until(begun);
    world.slms = world.slms.map((slm) => (slm.id === 'a' ? manifest('a', slm.precision, `a-${slm.precision}-new`) : slm));
    await until(() => 'versions-new' in notices(session));
    go();
    await done(session);
    expect(pinned(session)?.map(([version]) => version)).toEqual(['a-f16-new', 'b-f16']);
    clock.mockRestore();
  });
});

describe('an architecture without kernels', () => {
  beforeEach(() => {
    world.noKernels = ['b'];
  });

  test('is told, and the CPU serves', async () => {
    const session = await opened();
    await session.start();
    await done(session);
    expect(notices(session)).toEqual({ 'gpu-kernels': 'b has an architecture that the GPU kernels do not know: the CPU serves.' });
    expect(pinned(session)?.map(([, engine]) => engine)).toEqual(['cpu', 'cpu']);
    await session.chooseDevice('gpu');
    expect(session.computing.value).toMatchObject({ device: 'cpu', why: 'the GPU kernels do not know the architecture of b' });
  });

  test('is served by burn-wgpu where the server has it, and the others with it', async () => {
    world.burn = true;
    const session = await opened();
    await session.start();
    await done(session);
    expect(notices(session)).toEqual({ 'gpu-kernels': 'b has an architecture that the GPU kernels do not know: burn-wgpu serves on the GPU.' });
    expect(pinned(session)?.map(([, engine]) => engine)).toEqual(['burn', 'burn']);
  });

  test('burn-wgpu takes no int8', async () => {
    world.burn = true;
    const session = await opened({ precision: 'int8' });
    await session.start();
    await done(session);
    expect(notices(session)['gpu-kernels']).toBe('b has an architecture that the GPU kernels do not know: the CPU serves. In f32, burn-wgpu would serve on the GPU.');
    expect(pinned(session)?.map(([, engine]) => engine)).toEqual(['cpu', 'cpu']);
  });

  test('both are measured, and burn-wgpu fails', async () => {
    world.burn = true;
    const session = await opened({ device: 'auto' });
    await session.measure();
    const rates = session.plan.value?.choice.rates;
    expect([rates?.cpu.length, rates?.gpu[1], rates?.burn.every((rate) => rate !== undefined)]).toEqual([2, undefined, true]);
    expect(session.computing.value.why).toMatch(/^measured: /);
    world.run = (device) => (device === 'burn' ? new Error('slm-gpu: lost') : undefined);
    await session.chooseDevice('gpu');
    expect(session.computing.value.device).toBe('burn');
    await session.start();
    await done(session);
    expect(pinned(session)?.map(([, engine]) => engine)).toEqual(['cpu', 'cpu']);
    expect(Object.keys(notices(session))).toContain('gpu-lost');
  });
});

describe('a worker that dies on the GPU', () => {
  test('again and again: the CPU ends the run', async () => {
    world.run = (device) => (device === 'gpu' ? 'crash' : undefined);
    const session = await opened();
    await session.start();
    await done(session);
    expect(notices(session)['gpu-lost']).toMatch(/^The GPU failed \(its worker stopped 2 times\), so the CPU goes on/);
    expect(notices(session)['run-stopped']).toBeUndefined();
    expect(world.loaded.filter((one) => one === 'a-f16 on gpu')).toHaveLength(2);
  });

  test('while it is measured: the CPU is measured', async () => {
    world.run = (device) => (device === 'gpu' ? 'crash' : undefined);
    const session = await opened();
    await session.measure();
    expect(session.computing.value.device).toBe('cpu');
    expect(session.plan.value?.choice.rates.cpu.every((rate) => rate !== undefined)).toBe(true);
    expect(session.expected(session.project.value as Project)).toBeDefined();
    expect(Object.keys(notices(session))).toEqual(['gpu-lost']);
  });
});

describe('a hidden tab', () => {
  const hide = (hidden: boolean) => {
    world.document.hidden = hidden;
    world.document.dispatchEvent(new Event('visibilitychange'));
  };
  const stored = () => [...store('measured').keys()].filter((key) => String(key).startsWith('rate:'));

  test('is measured again once it is seen', async () => {
    const session = await opened({ device: 'cpu' });
    let runs = 0;
    world.run = () => (++runs === 2 ? void hide(true) : undefined);
    const measured = session.measure();
    await until(() => runs === 4); // two calls for each of two models
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect([stored(), session.measuring.value]).toEqual([[], true]);
    hide(false);
    await measured;
    expect(stored()).toEqual(['rate:a@a-f16', 'rate:b@b-f16']);
  });

  test('leaves no rate of a run', async () => {
    const session = await opened({ device: 'cpu' });
    hide(true);
    await session.start();
    await done(session);
    expect(stored()).toEqual([]);
    hide(false);
    await session.startOver();
    await session.start();
    await done(session);
    await until(() => stored().length === 2);
  });
});

describe('looking for a GPU', () => {
  const found = async (gpu: unknown) => {
    vi.stubGlobal('navigator', { gpu });
    return (await import('../src/core/device')).findGpu();
  };
  const adapter = (info?: object) => ({ requestAdapter: async () => ({ info }) });

  test('none, denied, without a description, in software', async () => {
    expect(await found(undefined)).toEqual({ why: 'this browser has no WebGPU' });
    expect(await found({ requestAdapter: async () => null })).toEqual({ why: 'the browser gives no GPU' });
    expect(await found({ requestAdapter: async () => Promise.reject(new Error('denied')) })).toEqual({ why: 'the browser gives no GPU (denied)' });
    expect(await found(adapter())).toEqual({ name: 'an unnamed GPU' });
    expect(await found(adapter({ vendor: 'a', architecture: 'b' }))).toEqual({ name: 'a b' });
    expect((await found(adapter({ vendor: 'a', isFallbackAdapter: true }))).why).toBe('a computes on the CPU');
    expect((await found(adapter({ vendor: 'google', architecture: 'swiftshader' }))).why).toMatch(/computes on the CPU/);
  });

  test('a browser that never answers does not hold the plan', async () => {
    vi.useFakeTimers();
    const silent = found({ requestAdapter: () => new Promise(() => undefined) });
    await vi.advanceTimersByTimeAsync(10_000);
    expect((await silent).why).toMatch(/^the browser named no GPU within 5 seconds/);
    vi.useRealTimers();
  });
});
