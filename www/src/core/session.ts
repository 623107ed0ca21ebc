// The page's state and what can be done with it. Components read the signals and call the methods.
import { type Signal, signal } from '@preact/signals';
import { ask, keepToken, seal, token } from './api';
import { Columns } from './columns';
import { clearProject, clearResults, db } from './db';
import { type Device, type DeviceChoice, findBurn, findGpu, type Found, isGpuFailure } from './device';
import { cachedBytes, bytesOf, fetchIndex, roomProblem } from './download';
import { estimateSeconds, Pace, thin } from './estimate';
import { HandingIn } from './handing-in';
import { drawn, hardRows, mean, type Prices, type Range, reviews, tokensByBytes, tokensByUse, type Tokens, tokensOf } from './money';
import { type Loading, NoKernels, Pool, workersOf } from './pool';
import { Reviewing } from './reviewing';
import { codeOf, messageOf, PageError, Remote } from './rpc';
import type { Imported } from '../workers/desk.worker';
import type { Build } from '../workers/engine';
import { inSight } from './sight';
import { relaxedSimd, simd } from './simd';
import {
  BLOCK,
  type Format,
  NONE,
  type PinnedSlm,
  type Precision,
  type Project,
  type ResultBlock,
  type Review,
  type ReviewTo,
  type Row,
  type RowBlock,
  type SlmManifest,
  type Spend,
  type StoredReview,
  type Vote,
} from './types';

/** Something the person should know, with what to do about it. */
export interface Notice {
  code: string;
  kind: 'error' | 'warn' | 'info';
  text: string;
  action?: { label: string; run: () => void };
}

/** The SLMs in one precision. */
export interface Choice {
  precision: Precision;
  slms: SlmManifest[];
  download: number;
  total: number;
  /** Texts a second of each SLM on one core, and on the GPU by either engine; undefined where it was never measured. */
  rates: Record<Device, (number | undefined)[]>;
}

/** What a run computes on, and why. */
export interface Computing {
  device: Device;
  why: string;
  /** The GPU, once it was looked for. */
  found: Found | undefined;
}

/** What will happen, before it does. */
export interface Plan {
  /** What was chosen, and all there is to choose from. */
  choice: Choice;
  choices: Choice[];
  labels: { name: string; definition?: string }[];
  rule: string;
  /** Share of hard rows in the last run of this task. */
  hardShare: number | undefined;
  problem?: string;
}

/** A row as it would be sent. */
export interface Preview {
  id: string;
  text: string;
  sent: string;
  hidden: number;
}

/** What `/v1/status` says of the reviewer, and of the tasks whose reviewed texts the server may keep. */
export interface ServerStatus {
  reviewer: boolean;
  model: string | undefined;
  remaining: number | undefined;
  /** US dollars spent so far, by everybody. */
  spent: number | undefined;
  /** None where the server was told none. */
  prices: Prices | undefined;
  /** Bytes of each task's prompt, without a text. */
  promptBytes: Record<string, number>;
  keepsText: string[];
  /** The server wants a token before it reviews or keeps anything. */
  asksToken: boolean;
  /** The token that was sent with the request that this answers. */
  token?: string;
}

/** What is known of a server that does not say anything. */
const UNKNOWN: ServerStatus = { reviewer: false, model: undefined, remaining: undefined, spent: undefined, prices: undefined, promptBytes: {}, keepsText: [], asksToken: false };

const NOTHING_SPENT: Spend = { calls: 0, reviews: 0, prompt_tokens: 0, completion_tokens: 0, cost_usd: 0 };

/** Texts that are voted on for an estimate: the most, how many together, and the least however long they take. */
const PROBE = 192;
const PROBE_STEP = 16;
const PROBE_LEAST = 64;
/** Milliseconds after which enough of them were voted on. */
const PROBE_MS = 10_000;

/** Milliseconds between two looks for new versions during a run. */
const LOOK_EVERY = 10_000;

type Phase = 'starting' | 'empty' | 'importing' | 'plan' | 'work' | 'elsewhere';

export class Session {
  readonly phase = signal<Phase>('starting');
  readonly project = signal<Project | null>(null);
  readonly importing = signal({ name: '', bytes: 0, total: 1, rows: 0 });
  readonly plan = signal<Plan | null>(null);
  readonly preview = signal<Preview[]>([]);
  readonly head = signal<Row[]>([]);
  readonly server = signal<ServerStatus>(UNKNOWN);
  readonly loads = signal<Loading[]>([]);
  /** The wasm build that votes. */
  readonly build = signal<Build>(relaxedSimd() ? 'relaxed' : 'plain');
  readonly computing = signal<Computing>({ device: 'cpu', why: '', found: undefined });
  readonly notices = signal<Notice[]>([]);
  readonly columns = signal<Columns | null>(null);
  /** Goes up whenever a number changes; components that show numbers read it. */
  readonly tick = signal(0);
  readonly rate = signal<number | undefined>(undefined);
  readonly measuring = signal(false);
  /** Texts that were voted on for an estimate that is being made. */
  readonly probed = signal(0);
  readonly exporting = signal(false);
  readonly reviewing = new Reviewing(this);
  readonly handingIn = new HandingIn(this);

  #only = false;
  #desk: Remote | undefined;
  #pool: Pool | undefined;
  /** The pool of new versions, while they are loaded. */
  #next: Pool | undefined;
  /** Versions that could not be loaded. */
  #refused = '';
  #looking = false;
  #lastLook = 0;
  /** Blocks whose votes are in and whose result is being stored. */
  readonly #settling = new Set<number>();
  #found: Promise<Found> | undefined;
  /** Why the GPU is not used any more. */
  #gpuFailed: string | undefined;
  /** SLMs that the GPU's kernels do not know. */
  readonly #noKernels = new Set<string>();
  /** Whether the server has burn-wgpu for those; looked for once there are any. */
  #burnHere = false;
  #pace = new Pace();
  #clock: ReturnType<typeof setInterval> | undefined;
  #lastTick = 0;
  #lastSave = 0;
  #bump: ReturnType<typeof setTimeout> | undefined;
  #cache = new Map<string, Promise<RowBlock | ResultBlock | undefined>>();

  // ---- starting ----

  /** Takes the page up where it was left. */
  async open(): Promise<void> {
    if (!this.#only) {
      if (!(await claimTab(false))) {
        this.phase.value = 'elsewhere';
        await claimTab(true); // a tab that was just closed may hold its claim for a moment
        this.phase.value = 'starting';
      }
      this.#only = true;
    }
    if (!simd()) {
      this.notify({
        code: 'no-simd',
        kind: 'error',
        text: 'This browser has no WebAssembly SIMD, which the models need. Use a current Chrome, Edge, Firefox, or Safari 16.4 and later. Files you had open are kept.',
      });
    }
    void this.#status().then(() => this.handingIn.wake());
    try {
      await this.#recall();
    } catch (error) {
      this.fail(error, { label: 'Retry', run: () => void this.open() });
      this.phase.value = 'empty';
    }
  }

  async #recall(): Promise<void> {
    const base = await db();
    const project = await base.get('project', 'current');
    if (!project) {
      const file = await base.get('file', 'current');
      if (file instanceof File) {
        this.notify({ code: 'import-again', kind: 'info', text: `Reading ${file.name} was cut short, so it is read again.` });
        return this.openFile(file);
      }
      this.phase.value = 'empty';
      return;
    }
    this.#show({ ...project, spend: { ...NOTHING_SPENT, ...project.spend } });
    await this.reviewing.countDeparted();
    this.handingIn.wake();
    if (project.state === 'ready') {
      await this.#toPlan();
      return;
    }
    await this.#recallResults(project);
    this.phase.value = 'work';
    if (project.state === 'running') {
      const columns = this.columns.value;
      const done = columns ? columns.rows - (columns.byVerdict[0] ?? 0) : 0;
      this.notify({ code: 'went-on', kind: 'info', text: `The run goes on where it was: ${done} of ${project.rows} rows were already done.` });
      await this.start();
    } else {
      this.reviewing.wake();
    }
  }

  async #recallResults(project: Project): Promise<void> {
    const columns = new Columns(project.rows, project.slms.length, project.labels.length);
    columns.audit = project.audit ?? 0;
    const step = 512;
    for (let from = 0; from < columns.blocks; from += step) {
      const results = await this.desk().call<ResultBlock[]>('recall', { from, to: from + step - 1 });
      for (const result of results) columns.take(result);
    }
    await this.reviewing.recall(columns, project);
    this.columns.value = columns;
  }

  async #status(): Promise<void> {
    const asked = token.value;
    let status = UNKNOWN;
    try {
      const response = await ask('/v1/status', { cache: 'no-store' });
      status = readStatus(await response.json());
    } catch {
      // A server that does not answer offers nothing.
    }
    // An answer to an older token may come last; the newer one has its own.
    if (token.value === asked) this.server.value = { ...status, token: asked };
  }

  // ---- the file ----

  /** Reads a file; what was there before is forgotten. */
  async openFile(file: File, encoding?: string): Promise<void> {
    this.#stopPool();
    this.dismissAll();
    this.importing.value = { name: file.name, bytes: 0, total: file.size, rows: 0 };
    this.phase.value = 'importing';
    try {
      const head = await this.desk().call<{ format: Format; columns: string[]; rows: Row[]; textColumn: string }>('head', { file, name: file.name, encoding });
      await clearProject();
      await this.#keepFile(file);
      this.head.value = head.rows;
      this.reviewing.departed.value = 0;
      await this.#import(file, file.name, { format: head.format, textColumn: head.textColumn, ...(encoding ? { encoding } : {}) }, { task: this.project.value?.task ?? 'sentiment', reviewTo: 'person' });
    } catch (error) {
      await clearProject().catch(() => undefined);
      this.project.value = null;
      this.phase.value = 'empty';
      const western = 'windows-1252';
      if (codeOf(error) === 'data-header' && encoding === undefined) this.fail(error, { label: `Read it as ${western}`, run: () => void this.openFile(file, western) });
      else this.fail(error, { label: 'Choose another file', run: () => document.getElementById('choose-file')?.click() });
    }
  }

  async #keepFile(file: File): Promise<void> {
    try {
      await (await db()).put('file', file, 'current');
    } catch {
      // No room for a copy: the import itself tells whether there is room for the rows.
    }
  }

  async #import(file: Blob, name: string, how: { format: Format; textColumn: string; encoding?: string }, chosen: Pick<Project, 'task' | 'reviewTo' | 'audit' | 'handIn'>): Promise<void> {
    this.#cache.clear();
    const read = await this.desk().call<Imported>(
      'import',
      { file, ...how },
      (at: { bytes: number; rows: number }) => {
        this.importing.value = { ...this.importing.value, ...at };
      },
    );
    const project: Project = {
      name,
      bytes: file.size,
      created: Date.now(),
      ...how,
      ...read,
      ...chosen,
      labels: [],
      slms: [],
      rule: 'unanimous',
      state: 'ready',
      seconds: 0,
      timeline: [],
      spend: NOTHING_SPENT,
    };
    await this.save(project);
    await this.#toPlan();
  }

  /** Reads the file again with another text column or encoding. */
  async readAgain(change: { textColumn?: string; encoding?: string }): Promise<void> {
    const project = this.project.value;
    if (!project) return;
    const file = await (await db()).get('file', 'current');
    if (!file) {
      this.notify({ code: 'file-gone', kind: 'warn', text: 'The browser did not keep the file; choose it again to read it another way.' });
      return;
    }
    this.importing.value = { name: project.name, bytes: 0, total: file.size, rows: 0 };
    this.phase.value = 'importing';
    try {
      const how = { format: project.format, textColumn: project.textColumn, ...(project.encoding ? { encoding: project.encoding } : {}), ...change };
      this.head.value = [];
      const { task, reviewTo, audit, handIn } = project;
      await this.#import(file, project.name, how, { task, reviewTo, ...(audit === undefined ? {} : { audit }), ...(handIn === undefined ? {} : { handIn }) });
    } catch (error) {
      this.phase.value = 'plan';
      this.fail(error);
    }
  }

  async chooseTask(task: string): Promise<void> {
    if (!this.project.value) return;
    await this.save({ ...this.project.value, task });
    await this.#toPlan();
  }

  async choosePrecision(precision: Precision): Promise<void> {
    if (!this.project.value) return;
    // The plan first: whatever is drawn while the project is saved must show the choice already.
    const plan = this.plan.value;
    const choice = plan?.choices.find((one) => one.precision === precision);
    if (plan && choice) this.plan.value = { ...plan, choice };
    const project = { ...this.project.value, precision };
    await this.save(project);
    if (choice) this.#decide(choice, project, await this.#findGpu());
  }

  async chooseDevice(device: DeviceChoice): Promise<void> {
    if (!this.project.value) return;
    await this.save({ ...this.project.value, device });
    await this.#makePlan();
  }

  /** The share of accepted rows that is reviewed all the same. */
  async chooseAudit(audit: number): Promise<void> {
    if (!this.project.value) return;
    await this.save({ ...this.project.value, audit });
    if (this.columns.value) this.columns.value.audit = audit;
    this.changed();
    this.reviewing.wake();
  }

  /** Whether reviewed texts may go to the server, which trains the models on them. */
  async chooseHandIn(handIn: boolean): Promise<void> {
    if (!this.project.value) return;
    await this.save({ ...this.project.value, handIn });
    this.handingIn.wake();
  }

  /** Who decides the hard samples. A run that never sends anything keeps to that until it is started over. */
  async chooseReviewer(reviewTo: ReviewTo): Promise<void> {
    const project = this.project.value;
    if (!project || (project.reviewTo === 'never' && project.state !== 'ready')) return;
    await this.save({ ...project, reviewTo, sendFreely: false, handIn: reviewTo !== 'never' && project.handIn === true });
    this.reviewing.wake();
    if (reviewTo !== 'llm') await this.reviewing.withdraw();
  }

  /** Hard samples are shown to the person again before they are sent. */
  async askAgain(): Promise<void> {
    const project = this.project.value;
    if (!project) return;
    await this.save({ ...project, sendFreely: false });
    this.changed();
  }

  // ---- the plan ----

  async #toPlan(): Promise<void> {
    this.phase.value = 'plan';
    this.preview.value = [];
    try {
      await this.#makePlan();
      if (this.head.value.length === 0) this.head.value = (await this.rowBlock(0))?.rows.slice(0, 8) ?? [];
      this.preview.value = await this.desk().call<Preview[]>('preview', { count: 6 });
    } catch (error) {
      this.fail(error, { label: 'Retry', run: () => void this.#toPlan() });
    }
  }

  async #makePlan(): Promise<void> {
    const project = this.project.value;
    if (!project) return;
    const [spec, index] = await Promise.all([
      this.desk().call<{ labels: { name: string; definition?: string }[]; slms: string[]; rule: string }>('spec', { task: project.task }),
      fetchIndex(),
    ]);
    this.dismiss('models-index');
    const found = await this.#findGpu();
    const choices = await Promise.all(choicesOf(index.slms, project.task, spec.slms).map((one) => measuredChoice(one, found)));
    const choice = choices.find((one) => one.precision === (project.precision ?? 'int8')) ?? choices[0];
    if (!choice) return;
    const plan: Plan = { choice, choices, labels: spec.labels, rule: spec.rule, hardShare: await (await db()).get('measured', `hard:${project.task}`) };
    const problem = planProblem(choice.slms, project.task, spec.slms);
    if (problem) plan.problem = problem;
    this.plan.value = plan;
    this.#decide(choice, project, found);
  }

  #findGpu(): Promise<Found> {
    this.#found ??= findGpu();
    return this.#found;
  }

  /** Settles what the run computes on; with `auto` the CPU, until both were measured. False: that would be worth it. */
  #decide(choice: Choice, project: Project, found: Found): boolean {
    const wanted = project.device ?? 'auto';
    const settle = (device: Device, why: string, settled = true) => {
      this.computing.value = { device, why, found };
      return settled;
    };
    if (wanted === 'cpu') return settle('cpu', 'as you chose');
    if (this.#gpuFailed !== undefined) return settle('cpu', `the GPU failed (${this.#gpuFailed})`);
    if (wanted === 'gpu' && !found.name) return settle('cpu', found.why ?? 'there is no GPU');
    if (wanted === 'auto' && found.why) return settle('cpu', found.why);
    const onGpu = this.#gpuFor(choice.slms);
    if (!onGpu) return settle('cpu', `the GPU kernels do not know the architecture of ${this.#unknown(choice.slms).join(', ')}`);
    if (wanted === 'gpu') return settle(onGpu, `${found.name}, as you chose`);
    const [cpu, gpu] = (['cpu', onGpu] as const).map((device) => secondsOn(device, choice, project));
    if (cpu === undefined || gpu === undefined) return settle('cpu', `until the GPU (${found.name}) was measured`, false);
    const device = gpu < cpu ? onGpu : 'cpu';
    const [least, most] = [Math.min(cpu, gpu), Math.max(cpu, gpu)];
    return settle(device, `measured: ${(most / least).toFixed(1)} times as fast as the ${device === 'cpu' ? `GPU (${found.name})` : 'CPU'}`);
  }

  /** What computes these SLMs on a GPU: our kernels, or burn-wgpu, which takes no int8, where they do not know one of them. */
  #gpuFor(slms: SlmManifest[]): Device | undefined {
    if (this.#gpuFailed !== undefined) return undefined;
    if (this.#unknown(slms).length === 0) return 'gpu';
    return this.#burnHere && slms.every((slm) => precisionOf(slm) === 'f32') ? 'burn' : undefined;
  }

  /** The ids of those that the GPU's kernels do not know. */
  #unknown(slms: SlmManifest[]): string[] {
    return slms.map((slm) => slm.id).filter((id) => this.#noKernels.has(id));
  }

  /**
   * Brings the models and has them vote on some rows of the file, so that the plan can say how long it will take, how many
   * rows will be hard and what an LLM would cost.
   */
  async measure(): Promise<void> {
    const plan = this.plan.value;
    if (!plan || this.measuring.value) return;
    this.measuring.value = true;
    try {
      while (!(await this.#measure(plan.choice))) await inSight();
      await this.#probe().catch(async (error: unknown) => {
        await this.#leaveGpu(error);
        await this.#makePlan();
        await this.#probe();
      });
    } catch (error) {
      if (codeOf(error) === 'worker-stopped') return; // the file was closed meanwhile
      this.#stopPool();
      this.fail(error, { label: 'Retry', run: () => void this.measure() });
    } finally {
      this.measuring.value = false;
    }
  }

  async #measureAlone(choice: Choice): Promise<void> {
    this.measuring.value = true;
    try {
      await this.#measure(choice);
    } finally {
      this.measuring.value = false;
    }
  }

  /** Votes on rows drawn from all of the file, and keeps what they showed with the project. */
  async #probe(): Promise<void> {
    const plan = this.plan.value;
    const project = this.project.value;
    if (!plan || !project) return;
    const { slms } = plan.choice;
    const pool = await this.#hire(slms, this.computing.value.device);
    await pool.ready;
    const rows = await Promise.all(drawn(project.rows, PROBE, Math.random).map((row) => this.row(row)));
    const texts = rows.flatMap((row) => (row && row.setAside === undefined ? [row.text] : []));
    const judged: { hard: boolean; bytes: number }[] = [];
    const start = performance.now();
    this.probed.value = 0;
    for (let at = 0; at < texts.length && (at < PROBE_LEAST || performance.now() - start < PROBE_MS); at += PROBE_STEP) {
      const some = texts.slice(at, at + PROBE_STEP);
      const votes = await Promise.all(slms.map((_, slm) => pool.probe(slm, some)));
      judged.push(...(await this.desk().call<typeof judged>('judge', { texts: some, votes, rule: plan.rule })));
      this.probed.value = judged.length;
    }
    const hard = judged.filter((one) => one.hard);
    const sizes = (hard.length < 8 ? judged : hard).map((one) => one.bytes);
    const probe = { key: probeKey(project, plan), texts: judged.length, hard: hard.length, bytes: mean(sizes) };
    if (this.project.value?.created === project.created) await this.save({ ...this.project.value, probe });
  }

  /** What will be hard and what reviewing it takes, before the run; none without a probe of this task with these models. */
  expected(project: Project): { hard: Range; reviews: Range; tokens: Tokens | undefined } | undefined {
    const { plan, server } = this;
    const probe = project.probe;
    if (!plan.value || !probe || probe.texts === 0 || probe.key !== probeKey(project, plan.value)) return undefined;
    const rows = project.rows - project.aside;
    const hard = hardRows(probe.hard, probe.texts, rows);
    const many = reviews(hard, rows, project.audit ?? 0);
    const promptBytes = server.value.promptBytes[project.task];
    const labels = plan.value.labels.map((label) => label.name);
    const tokens = promptBytes === undefined ? undefined : tokensOf(many, tokensByBytes(promptBytes, probe.bytes, labels));
    return { hard, reviews: many, tokens };
  }

  /** What these texts will take, by what the run's reviews took so far or, before there are enough, by their bytes. */
  expectedFor(texts: string[], project: Project): Tokens | undefined {
    const promptBytes = this.server.value.promptBytes[project.task];
    const encoder = new TextEncoder();
    const exact = (value: number): Range => ({ low: value, middle: value, high: value });
    const bytes = texts.reduce((sum, text) => sum + encoder.encode(text).length, 0) / Math.max(1, texts.length);
    const one = usedBy(project) ?? (promptBytes === undefined ? undefined : tokensByBytes(promptBytes, exact(bytes), project.labels));
    return one && tokensOf(exact(texts.length), one);
  }

  /** What the reviews that are still to come will take; none before enough were answered. */
  expectedYet(project: Project, columns: Columns): Tokens | undefined {
    const one = usedBy(project);
    if (!one) return undefined;
    const [pending = 0, accepted = 0, hard = 0] = columns.byVerdict;
    const all = reviews(hardRows(hard, accepted + hard, accepted + hard + pending), accepted + hard + pending, project.audit ?? 0);
    const settled = reviews({ low: hard, middle: hard, high: hard }, accepted + hard, project.audit ?? 0).middle;
    const open = columns.waiting;
    const yet = (some: number) => open + Math.max(0, some - settled);
    return tokensOf({ low: yet(all.low), middle: yet(all.middle), high: yet(all.high) }, one);
  }

  /** Measures the models on what the choice of device leaves open, and makes the plan anew. False: the tab was hidden meanwhile. */
  async #measure({ slms }: Choice): Promise<boolean> {
    const found = await this.#findGpu();
    const onGpu = this.#gpuFor(slms);
    const both = (this.project.value?.device ?? 'auto') === 'auto' && !found.why && onGpu !== undefined;
    const devices: Device[] = both ? ['cpu', onGpu] : [this.computing.value.device];
    let seen = true;
    for (let device = devices.shift(); device !== undefined; device = devices.shift()) {
      try {
        seen = (await this.#measureOn(device, slms)) && seen;
      } catch (error) {
        await this.#leaveGpu(error);
        const other = this.#gpuFor(slms) ?? (both ? undefined : 'cpu');
        if (other) devices.push(other);
      }
    }
    await this.#makePlan();
    return seen;
  }

  /** Keeps the rate of each SLM on a device. False: the tab was hidden meanwhile, and not all of them were kept. */
  async #measureOn(device: Device, slms: SlmManifest[]): Promise<boolean> {
    const found = await this.#findGpu();
    const rows = ((await this.rowBlock(0))?.rows ?? []).filter((row) => row.setAside === undefined);
    const texts = rows.slice(0, 16).map((row) => row.text);
    const pool = await this.#hire(slms, device);
    await pool.ready;
    if (texts.length === 0) return true;
    let seen = true;
    for (const [slm, manifest] of slms.entries()) {
      const rate = await pool.measure(slm, texts);
      if (rate === undefined) seen = false;
      else await (await db()).put('measured', rate, rateKey(manifest, device, found));
    }
    return seen;
  }

  /** After an error of a GPU, or of its kernels at an SLM, something else takes over; any other error is thrown. */
  async #leaveGpu(error: unknown): Promise<void> {
    if (!isGpuFailure(codeOf(error))) throw error;
    if (error instanceof NoKernels) await this.#leaveKernels(error);
    else this.#loseGpu(error);
  }

  /** The GPU's kernels do not know an SLM: burn-wgpu takes over where the server has it, else the CPU. */
  async #leaveKernels(error: NoKernels): Promise<void> {
    this.#stopPool();
    this.#noKernels.add(error.slm);
    this.#burnHere ||= await findBurn();
    const { choice, choices = [] } = this.plan.value ?? {};
    const onBurn = choices.filter((one) => this.#gpuFor(one.slms) === 'burn').map((one) => one.precision);
    const hint = onBurn.length > 0 ? ` In ${onBurn.join(' or ')}, burn-wgpu would serve on the GPU.` : '';
    const instead = choice && onBurn.includes(choice.precision) ? 'burn-wgpu serves on the GPU.' : `the CPU serves.${hint}`;
    this.notify({ code: 'gpu-kernels', kind: 'info', text: `${messageOf(error)}: ${instead}` });
  }

  /** The GPU is of no use any more: the CPU takes over. */
  #loseGpu(error: unknown): void {
    this.#stopPool();
    const why = messageOf(error).replace(/^[a-z-]+: /, '').split(';', 1)[0] ?? '';
    this.#gpuFailed = why;
    this.notify({ code: 'gpu-lost', kind: 'warn', text: `The GPU failed (${why}), so the CPU goes on. No row is lost. Reload the page to try the GPU again.` });
  }

  /** Seconds the run will take on this device, where that is known. */
  estimate(choice: Choice, project: Project): number | undefined {
    return secondsOn(this.computing.value.device, choice, project);
  }

  // ---- the run ----

  /** Starts the run, or goes on with it. */
  async start(): Promise<void> {
    const project = this.project.value;
    if (!project) return;
    try {
      this.dismiss('run-stopped');
      await this.#begin(project);
    } catch (error) {
      await this.#halt(error);
    }
  }

  async #begin(before: Project): Promise<void> {
    if (!simd()) throw new PageError('no-simd', 'this browser has no WebAssembly SIMD; use a current one');
    // A run that goes on may find other versions than it began with.
    if (!this.plan.value || before.state !== 'ready') await this.#makePlan();
    let plan = this.plan.value;
    if (!plan) return;
    if (before.state === 'ready' && !this.#decide(plan.choice, before, await this.#findGpu())) {
      await this.#measureAlone(plan.choice);
      plan = this.plan.value ?? plan;
    }
    const { device } = this.computing.value;
    const manifests = before.state === 'ready' ? plan.choice.slms : current(before, plan);
    if (manifests.length === 0) throw new PageError('models-missing', plan.problem ?? 'the server has no models for this task');
    const now = this.project.value; // what was chosen meanwhile counts
    if (!now) return;
    const project: Project =
      before.state === 'ready'
        ? { ...now, labels: plan.labels.map((label) => label.name), rule: plan.rule, slms: manifests.map(pin), state: 'running' }
        : { ...now, slms: repinned(before.slms, manifests), state: 'running' };
    if (before.state !== 'ready') this.#tellVersions(before.slms, manifests);
    await this.save(project);
    const columns = before.state === 'ready' || !this.columns.value ? new Columns(project.rows, manifests.length, project.labels.length) : this.columns.value;
    columns.audit = project.audit ?? 0;
    this.columns.value = columns;
    this.phase.value = 'work';
    void navigator.storage?.persist?.();
    if (before.state === 'ready') await (await db()).clear('file');
    this.#startClock();
    const pool = await this.#hire(manifests, device);
    if (this.project.value?.state !== 'running') return this.#stopPool(); // paused or left meanwhile
    const todo = this.#todo(columns);
    this.reviewing.wake();
    if (todo.length === 0) return this.#finish();
    void pool.ready.then(() => this.#pace.mark(performance.now(), columns.rows - (columns.byVerdict[0] ?? 0))).catch(() => undefined);
    pool.run(todo, columns.rows);
  }

  /** Blocks without a result. */
  #todo(columns: Columns): number[] {
    const todo: number[] = [];
    for (let block = 0; block < columns.blocks; block++) if (!columns.doneBlocks[block] && !this.#settling.has(block)) todo.push(block);
    return todo;
  }

  // ---- new versions ----

  /** Looks whether the server has new versions of the run's SLMs; if so they take over once they are loaded. */
  async #lookForVersions(): Promise<void> {
    const pool = this.#pool;
    const project = this.project.value;
    if (!pool || !project || project.state !== 'running' || this.#looking) return;
    this.#looking = true;
    try {
      await this.#takeVersions(pool, project);
    } finally {
      this.#looking = false;
    }
  }

  async #takeVersions(pool: Pool, project: Project): Promise<void> {
    const { slms, offline } = await fetchIndex();
    const newest = project.slms.flatMap((slm) => versionFor(slm, project, slms) ?? []);
    const key = newest.map((slm) => slm.version).join(' ');
    if (offline || newest.length < project.slms.length || pool.holds(newest, pool.device) || this.#refused === key) return;
    const next = await this.#newPool(newest, pool.device, signal<Loading[]>([]));
    if (this.#pool !== pool || this.project.value?.state !== 'running') return next.stop();
    this.#next = next;
    try {
      await next.ready;
      await this.#switch(pool, next);
    } catch (error) {
      if (this.#pool === next) return void (await this.#halt(error));
      next.stop();
      if (codeOf(error) === 'worker-stopped') return; // the run ended, or went on anew, meanwhile
      this.#refused = key;
      this.notify({ code: 'versions-failed', kind: 'warn', text: `New versions of the models could not be loaded (${messageOf(error)}); the ones before go on.` });
    } finally {
      this.#next = undefined;
    }
  }

  /** Between two batches the new versions take over: what the old ones have not finished is voted on anew, nothing is mixed. */
  async #switch(pool: Pool, next: Pool): Promise<void> {
    const columns = this.columns.value;
    const project = this.project.value;
    if (this.#pool !== pool || !columns || project?.state !== 'running') return next.stop();
    this.#pool = next;
    pool.stop();
    next.loads.subscribe((loads) => {
      if (this.#pool === next) this.loads.value = loads;
    });
    this.#tellVersions(project.slms, next.manifests);
    await this.save({ ...project, slms: repinned(project.slms, next.manifests) });
    if (this.#pool !== next) return;
    if (this.project.value?.state === 'running') next.run(this.#todo(columns), columns.rows);
  }

  #tellVersions(before: PinnedSlm[], manifests: SlmManifest[]): void {
    const changed = manifests.filter((slm, at) => before[at]?.version !== slm.version).map((slm) => slm.id);
    if (changed.length === 0) return;
    this.notify({
      code: 'versions-new',
      kind: 'info',
      text: `The server has new versions of ${changed.join(', ')}: they label the rows from here on. The export says which version each label is from.`,
    });
  }

  /** The workers for these SLMs on a device; those there are, where they hold the same. */
  async #hire(manifests: SlmManifest[], device: Device): Promise<Pool> {
    if (this.#pool?.holds(manifests, device)) return this.#pool;
    this.#stopPool();
    const pool = await this.#newPool(manifests, device, this.loads);
    this.#stopPool(); // another call may have hired meanwhile
    this.#pool = pool;
    return pool;
  }

  async #newPool(manifests: SlmManifest[], device: Device, loads: Signal<Loading[]>): Promise<Pool> {
    const cached = await Promise.all(manifests.map(cachedBytes));
    const missing = manifests.map((slm, at) => bytesOf(slm) - (cached[at] ?? 0));
    const room = await roomProblem(missing.reduce((sum, bytes) => sum + bytes, 0));
    if (room) this.notify({ code: 'quota-models', kind: 'warn', text: room });
    const found = await this.#findGpu();
    const rates = await Promise.all(manifests.map(async (slm) => (await db()).get('measured', rateKey(slm, device, found))));
    const pool: Pool = new Pool(manifests, device, rates, missing.map((bytes) => bytes === 0), loads, {
      // Votes of versions that were replaced meanwhile are not taken.
      whole: async (block, votes) => {
        if (this.#pool === pool) await this.#settle(block, votes).catch((error: unknown) => this.#halt(error));
      },
      loaded: (build) => (this.build.value = build),
      restarted: (why) => this.notify({ code: 'worker-restarted', kind: 'warn', text: `A worker stopped (${why}) and was started again; its rows are repeated.` }),
      failed: (error) => {
        if (this.measuring.value || this.#pool !== pool) return; // whoever measures or waits for it is told
        if (device !== 'cpu' && isGpuFailure(codeOf(error))) void this.#goOnWithout(error);
        else void this.#halt(error);
      },
    });
    return pool;
  }

  /** Goes on with the run without the GPU, or without its kernels: blocks that were not settled are voted on again. */
  async #goOnWithout(error: unknown): Promise<void> {
    await this.#leaveGpu(error);
    const plan = this.plan.value;
    const project = this.project.value;
    if (plan && project) this.#decide(plan.choice, project, await this.#findGpu());
    else this.computing.value = { ...this.computing.value, device: 'cpu' };
    if (this.project.value?.state === 'running') await this.start();
  }

  async #settle(block: number, votes: Vote[][]): Promise<void> {
    const project = this.project.value;
    const columns = this.columns.value;
    if (!project || !columns) return;
    this.#settling.add(block);
    try {
      await this.#learnEngines(project, votes);
      const result = await this.desk().call<ResultBlock>('settle', { block, votes, project: { labels: project.labels, rule: project.rule } });
      this.#cache.delete(`results:${block}`);
      columns.take(result);
    } finally {
      this.#settling.delete(block);
    }
    this.#pace.mark(performance.now(), columns.rows - (columns.byVerdict[0] ?? 0));
    this.changed();
    this.reviewing.wake();
    if (columns.doneBlocks.every(Boolean)) await this.#finish();
  }

  /** Engine and precision are known once an SLM has voted; where a GPU fails there are two engines. */
  async #learnEngines(project: Project, votes: Vote[][]): Promise<void> {
    const slms = project.slms.map((slm, at) => learned(slm, votes[at]?.[0]));
    if (slms.every((slm, at) => slm === project.slms[at])) return;
    await this.save({ ...(this.project.value ?? project), slms });
  }

  /** Something the run cannot go on with: it is paused, and says what to do. */
  async #halt(error: unknown): Promise<void> {
    if (codeOf(error) === 'worker-stopped') return;
    this.#stopPool();
    this.#stopClock();
    const project = this.project.value;
    if (project?.state === 'running') await this.save({ ...project, state: 'paused' }).catch(() => undefined);
    this.notify({ code: 'run-stopped', kind: 'error', text: sentence(messageOf(error)), action: { label: 'Retry', run: () => void this.start() } });
  }

  async pause(): Promise<void> {
    if (this.project.value?.state !== 'running') return;
    this.#pool?.pause();
    this.#stopClock();
    await this.save({ ...this.project.value, state: 'paused' });
  }

  /** Stops the run; what is done stays, and it can be gone on with. */
  async cancel(): Promise<void> {
    const project = this.project.value;
    if (!project) return;
    this.#stopPool();
    this.#stopClock();
    await this.save({ ...project, state: 'cancelled' });
  }

  /** Forgets all votes and reviews and goes back to the plan. */
  async startOver(): Promise<void> {
    const project = this.project.value;
    if (!project) return;
    this.#stopPool();
    this.#stopClock();
    this.reviewing.forget();
    await clearResults();
    this.#cache.clear();
    this.columns.value = null;
    this.plan.value = null;
    await this.save({ ...project, state: 'ready', slms: [], labels: [], seconds: 0, timeline: [], spend: NOTHING_SPENT, sendFreely: false });
    await this.#toPlan();
  }

  /** Forgets the data set. */
  async close(): Promise<void> {
    this.#stopPool();
    this.#stopClock();
    this.reviewing.forget();
    this.dismissAll();
    await clearProject();
    this.#cache.clear();
    this.project.value = null;
    seal(false);
    this.reviewing.departed.value = 0;
    this.columns.value = null;
    this.plan.value = null;
    this.head.value = [];
    this.phase.value = 'empty';
  }

  async #finish(): Promise<void> {
    const project = this.project.value;
    const columns = this.columns.value;
    if (!project || !columns || project.state === 'done') return;
    this.#stopClock();
    await this.save({ ...project, state: 'done', timeline: [...project.timeline, this.#point(project.seconds)] });
    const base = await db();
    for (const [slm, rate] of (this.#pool?.rates() ?? []).entries()) {
      const manifest = this.#pool?.manifests[slm];
      const found = await this.#findGpu();
      if (manifest && rate !== undefined) await base.put('measured', rate, rateKey(manifest, this.#pool?.device ?? 'cpu', found));
    }
    const [, accepted = 0, hard = 0] = columns.byVerdict;
    if (accepted + hard > 0) await base.put('measured', hard / (accepted + hard), `hard:${project.task}`);
    this.#stopPool();
    this.changed();
    this.reviewing.wake();
  }

  #stopPool(): void {
    this.#pool?.stop();
    this.#pool = undefined;
    this.#next?.stop();
    this.#next = undefined;
  }

  // ---- the clock ----

  #startClock(): void {
    this.#stopClock();
    this.#pace.clear();
    this.#lastTick = performance.now();
    this.#clock = setInterval(() => this.#onClock(), 500);
  }

  #stopClock(): void {
    clearInterval(this.#clock);
    this.#clock = undefined;
    this.rate.value = undefined;
  }

  #onClock(): void {
    const project = this.project.value;
    if (!project) return;
    const now = performance.now();
    const loading = this.loads.value.every((load) => load.state !== 'ready');
    const seconds = project.seconds + (loading ? 0 : (now - this.#lastTick) / 1000);
    this.#lastTick = now;
    this.rate.value = this.#pace.rate(now);
    const last = project.timeline.at(-1)?.[0] ?? -1;
    const timeline = seconds - last >= 1 ? thin([...project.timeline, this.#point(seconds)]) : project.timeline;
    this.project.value = { ...project, seconds, timeline };
    if (now - this.#lastLook > LOOK_EVERY) {
      this.#lastLook = now;
      void this.#lookForVersions().catch(() => undefined); // the next look may find the server
    }
    if (now - this.#lastSave > 2000) {
      this.#lastSave = now;
      void this.save(this.project.value).catch((error: unknown) => this.#halt(error));
    }
  }

  #point(seconds: number): [number, number, number] {
    const columns = this.columns.value;
    return [Math.round(seconds * 10) / 10, columns?.byVerdict[1] ?? 0, columns?.byVerdict[2] ?? 0];
  }

  /** Tells the components that numbers changed, at most eight times a second. */
  changed(): void {
    this.#bump ??= setTimeout(() => {
      this.#bump = undefined;
      this.tick.value += 1;
    }, 120);
  }

  // ---- rows ----

  /** A block of rows, from memory or the database. */
  rowBlock(block: number): Promise<RowBlock | undefined> {
    return this.#remember(`rows:${block}`, async () => (await db()).get('rows', block)) as Promise<RowBlock | undefined>;
  }

  /** A block of results, where there is one yet. */
  resultBlock(block: number): Promise<ResultBlock | undefined> {
    return this.#remember(`results:${block}`, async () => (await db()).get('results', block)) as Promise<ResultBlock | undefined>;
  }

  #remember(key: string, bring: () => Promise<RowBlock | ResultBlock | undefined>): Promise<RowBlock | ResultBlock | undefined> {
    let kept = this.#cache.get(key);
    if (!kept) {
      kept = bring();
      this.#cache.set(key, kept);
      if (this.#cache.size > 400) this.#cache.delete(this.#cache.keys().next().value as string);
      kept.then((value) => value ?? this.#cache.delete(key)).catch(() => this.#cache.delete(key));
    }
    return kept;
  }

  async row(row: number): Promise<Row | undefined> {
    return (await this.rowBlock(Math.floor(row / BLOCK)))?.rows[row % BLOCK];
  }

  /** The review of a row, where there is one. */
  async review(row: number): Promise<Review | undefined> {
    return (await (await db()).get('reviews', row))?.review;
  }

  /** The label the verdict gave a row, or NONE. */
  async consensus(row: number): Promise<number> {
    return (await this.resultBlock(Math.floor(row / BLOCK)))?.label[row % BLOCK] ?? NONE;
  }

  search(words: string): Promise<Uint8Array> {
    return this.desk().call<Uint8Array>('search', { words, rows: this.project.value?.rows ?? 0 });
  }

  redact(texts: string[]): Promise<{ text: string; placeholders: { placeholder: string; kind: string; original: string }[] }[]> {
    return this.desk().call('redact', { texts });
  }

  /** Writes the labelled file and hands it to the browser's downloads. */
  async export(format: 'csv' | 'jsonl'): Promise<void> {
    const project = this.project.value;
    if (!project || this.exporting.value) return;
    this.exporting.value = true;
    try {
      await this.save(project);
      const { blob, left } = await this.desk().call<{ blob: Blob; left: number }>('export', { format });
      const link = document.createElement('a');
      link.href = URL.createObjectURL(blob);
      link.download = `${project.name.replace(/\.[^.]*$/, '')}.labelled.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      if (left > 0) this.notify({ code: 'export-part', kind: 'info', text: `${left} rows have no votes yet and are not in the export. Export again when the run is done.` });
    } catch (error) {
      this.fail(error, { label: 'Retry', run: () => void this.export(format) });
    } finally {
      this.exporting.value = false;
    }
  }

  // ---- small things ----

  desk(): Remote {
    this.#desk ??= new Remote(new Worker(new URL('../workers/desk.worker.ts', import.meta.url), { type: 'module', name: 'desk' }), () => {
      this.#desk = undefined;
    });
    return this.#desk;
  }

  async save(project: Project): Promise<void> {
    this.#show(project);
    await (await db()).put('project', project, 'current');
  }

  /** The project as it is now; whether anything may be sent hangs on it. */
  #show(project: Project): void {
    seal(project.reviewTo === 'never');
    this.project.value = project;
  }

  /** The token that the server asks for. */
  async giveToken(given: string): Promise<void> {
    keepToken(given);
    await this.#status();
    this.handingIn.wake();
    this.reviewing.wake();
  }

  async updateServer(): Promise<void> {
    await this.#status();
  }

  async storedReviews(): Promise<StoredReview[]> {
    return (await db()).getAll('reviews');
  }

  notify(notice: Notice): void {
    this.notices.value = [...this.notices.value.filter((other) => other.code !== notice.code), notice];
  }

  fail(error: unknown, action?: Notice['action']): void {
    const notice: Notice = { code: codeOf(error), kind: 'error', text: sentence(messageOf(error)) };
    if (action) notice.action = action;
    this.notify(notice);
  }

  dismiss(code: string): void {
    if (this.notices.value.some((notice) => notice.code === code)) {
      this.notices.value = this.notices.value.filter((notice) => notice.code !== code);
    }
  }

  dismissAll(): void {
    this.notices.value = this.notices.value.filter((notice) => notice.code === 'no-simd');
  }
}

/** An error's message as a sentence for a person: without its code, with a capital and a full stop. */
export function sentence(message: string): string {
  const plain = message.replace(/^[a-z]+(-[a-z0-9]+)+: /, '');
  const capital = plain.charAt(0).toUpperCase() + plain.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/**
 * The SLMs of a task: those its spec names, in its order; where the server has none of them, all it has for the task,
 * cheapest first. Each in the precision asked for, or in the one there is.
 */
export function chooseSlms(all: SlmManifest[], task: string, wanted: string[], precision: Precision): SlmManifest[] {
  const own = all.filter((slm) => slm.task === task);
  const best = (id: string) => own.find((slm) => slm.id === id && precisionOf(slm) === precision) ?? own.find((slm) => slm.id === id);
  const named = wanted.flatMap((id) => best(id) ?? []);
  if (named.length > 0) return named;
  const ids = new Set(own.map((slm) => slm.id));
  return [...ids].flatMap((id) => best(id) ?? []).sort((a, b) => a.relative_cost - b.relative_cost);
}

/** The precision that an SLM is chosen in: half-precision weights are only stored so. */
export function precisionOf(slm: { precision: string }): Precision {
  return slm.precision === 'int8' ? 'int8' : 'f32';
}

/** The ensemble in each precision that the server has it in, the default first. */
export function choicesOf(all: SlmManifest[], task: string, wanted: string[]): Pick<Choice, 'precision' | 'slms'>[] {
  const int8 = chooseSlms(all, task, wanted, 'int8');
  const f32 = chooseSlms(all, task, wanted, 'f32');
  const some = (slms: SlmManifest[], precision: Precision) => slms.some((slm) => precisionOf(slm) === precision);
  const choices: Pick<Choice, 'precision' | 'slms'>[] = [];
  if (some(int8, 'int8')) choices.push({ precision: 'int8', slms: int8 });
  if (some(f32, 'f32') || choices.length === 0) choices.push({ precision: 'f32', slms: f32 });
  return choices;
}

async function measuredChoice({ precision, slms }: Pick<Choice, 'precision' | 'slms'>, found: Found): Promise<Choice> {
  const base = await db();
  const cached = await Promise.all(slms.map(cachedBytes));
  const total = slms.reduce((sum, slm) => sum + bytesOf(slm), 0);
  const rates = (device: Device) => Promise.all(slms.map((slm) => base.get('measured', rateKey(slm, device, found))));
  return {
    precision,
    slms,
    total,
    download: total - cached.reduce((sum, bytes) => sum + bytes, 0),
    rates: { cpu: await rates('cpu'), gpu: await rates('gpu'), burn: await rates('burn') },
  };
}

function rateKey(slm: SlmManifest, device: Device, { name }: Found): string {
  return `rate:${slm.id}@${slm.version}${{ cpu: '', gpu: ` on ${name}`, burn: ` by burn on ${name}` }[device]}`;
}

/** Seconds that a run takes on a device, where its models were measured there. */
function secondsOn(device: Device, choice: Choice, project: Project): number | undefined {
  const rates = choice.rates[device].filter((rate) => rate !== undefined);
  if (rates.length < choice.slms.length) return undefined;
  return estimateSeconds(project.rows - project.aside, rates, workersOf(navigator.hardwareConcurrency, device));
}

/** What a probe holds for: the rows are the project's own. */
function probeKey(project: Project, plan: Plan): string {
  return `${project.task} ${plan.choice.slms.map((slm) => slm.version).join(' ')}`;
}

function usedBy({ spend }: Project): Tokens | undefined {
  return tokensByUse({ reviews: spend.reviews, prompt: spend.prompt_tokens, completion: spend.completion_tokens });
}

function planProblem(slms: SlmManifest[], task: string, wanted: string[]): string | undefined {
  if (slms.length === 0) return `The server has no models for ${task} yet. Run \`autoannotator pack\` on it, then press retry.`;
  const missing = wanted.filter((id) => !slms.some((slm) => slm.id === id));
  if (missing.length > 0 && missing.length < wanted.length) {
    return `The server lacks ${missing.join(', ')}: only ${slms.length} of ${wanted.length} models would vote, and agreement is worth less.`;
  }
  return undefined;
}

function pin(slm: SlmManifest): PinnedSlm {
  const chosen = precisionOf(slm);
  return { id: slm.id, version: slm.version, engine: '', precision: chosen, chosen };
}

/** The run's SLM as the server has it now: in the precision that was chosen, whatever it votes in. */
function versionFor(slm: PinnedSlm, project: Pick<Project, 'labels'>, manifests: SlmManifest[]): SlmManifest | undefined {
  const chosen = slm.chosen ?? precisionOf(slm);
  return manifests.find((one) => one.id === slm.id && precisionOf(one) === chosen && sameLabels(one, project));
}

/** What an SLM votes by, as its votes say. */
function learned(slm: PinnedSlm, vote: Vote | undefined): PinnedSlm {
  if (!vote || slm.engine.split('+').includes(vote.engine)) return slm;
  if (slm.engine === '') return { ...slm, engine: vote.engine, precision: vote.precision };
  const precisions = new Set([...slm.precision.split('+'), vote.precision]);
  return { ...slm, engine: `${slm.engine}+${vote.engine}`, precision: [...precisions].join('+') };
}

/** The SLMs that a run began with, in the versions that the server has now. */
function current(project: Project, plan: Plan): SlmManifest[] {
  const all = plan.choices.flatMap((choice) => choice.slms);
  return project.slms.map((slm) => {
    const found = versionFor(slm, project, all);
    if (!found) throw new PageError('slm-gone', `the server has no ${slm.id} any more that this run could go on with. Export what is done, or choose "Start over"`);
    return found;
  });
}

function sameLabels(slm: SlmManifest, project: Pick<Project, 'labels'>): boolean {
  return slm.labels.length === project.labels.length && slm.labels.every((label, at) => label === project.labels[at]);
}

/** The run's SLMs in these versions; an engine is known once it has voted. */
function repinned(slms: PinnedSlm[], manifests: SlmManifest[]): PinnedSlm[] {
  return slms.map((slm, at) => ({ ...slm, version: manifests[at]?.version ?? slm.version }));
}

/** Reads `/v1/status`; anything unexpected means that there is no reviewer. */
export function readStatus(value: unknown): ServerStatus {
  const review = ((value as { review?: unknown } | null)?.review ?? {}) as Record<string, unknown>;
  const model = review['model'];
  const remaining = review['remaining_budget_usd'];
  return {
    reviewer: review['available'] === true,
    model: typeof model === 'string' ? model : undefined,
    remaining: typeof remaining === 'number' ? remaining : undefined,
    spent: amount(review['spent_usd']),
    prices: readPrices(review['prices']),
    promptBytes: readPromptBytes(value),
    keepsText: keeping(value),
    asksToken: (value as { token_needed?: unknown } | null)?.token_needed === true,
  };
}

function amount(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
}

function readPrices(value: unknown): Prices | undefined {
  const prices = value as { prompt?: unknown; completion?: unknown } | null | undefined;
  const [prompt, completion] = [amount(prices?.prompt), amount(prices?.completion)];
  return prompt === undefined || completion === undefined ? undefined : { prompt, completion };
}

/** The tasks of a status that have a name. */
function tasksOf(value: unknown): { name: string; keeps_text?: unknown; prompt_bytes?: unknown }[] {
  const tasks = (value as { tasks?: unknown } | null)?.tasks;
  return (Array.isArray(tasks) ? tasks : []).filter((task: { name?: unknown } | null) => typeof task?.name === 'string');
}

function readPromptBytes(value: unknown): Record<string, number> {
  return Object.fromEntries(tasksOf(value).flatMap((task) => (amount(task.prompt_bytes) === undefined ? [] : [[task.name, amount(task.prompt_bytes) ?? 0]])));
}

function keeping(value: unknown): string[] {
  return tasksOf(value).flatMap((task) => (task.keeps_text === true ? [task.name] : []));
}

/** Whether this is the only tab with the page open: two would write over each other. With `wait`, answers once it is. */
async function claimTab(wait: boolean): Promise<boolean> {
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    void navigator.locks.request('autoannotator', { ifAvailable: !wait }, (lock) => {
      resolve(lock !== null);
      return lock === null ? undefined : new Promise<void>(() => undefined); // held until the tab closes
    });
  });
}
