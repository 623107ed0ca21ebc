// Chromium with one tab, and what the system says of the process behind it (Linux).
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const ARGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--js-flags=--expose-gc'];

function read(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // the process has ended
  }
}

/** The processes that came from the one that was started with `folder` as its profile. */
function renderers(folder) {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map((pid) => ({
    pid,
    parent: /^PPid:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1],
    command: read(`/proc/${pid}/cmdline`),
  }));
  const all = new Set(processes.filter(({ command }) => command.includes(`--user-data-dir=${folder}`)).map(({ pid }) => pid));
  for (let before = -1; before < all.size; ) {
    before = all.size;
    for (const { pid, parent } of processes) if (all.has(parent)) all.add(pid);
  }
  return processes.filter(({ pid, command }) => all.has(pid) && command.includes('--type=renderer')).map(({ pid }) => pid);
}

/** Proportional set size in MB. */
function proportional(pid) {
  return Number(/^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0) / 1000;
}

/** Chromium with a profile of its own, which is kept until `close`, and with more arguments. */
export async function launch(more = []) {
  const folder = mkdtempSync(path.join(tmpdir(), 'autoannotator-bench-'));
  const context = await chromium.launchPersistentContext(folder, { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...ARGS, ...more] });
  return {
    context,
    /** A new tab; whatever it throws ends the bench. */
    async open(url) {
      const page = await context.newPage();
      page.setDefaultTimeout(0);
      page.on('pageerror', (error) => {
        throw error;
      });
      if (process.env.BENCH_LOG) page.on('console', (message) => console.error(message.text()));
      await page.goto(url);
      return page;
    },
    /** The process of the open tab: of all renderers (Chromium keeps spare ones) the one that holds most. */
    process() {
      return renderers(folder).sort((a, b) => proportional(b) - proportional(a))[0];
    },
    async close() {
      await context.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Keeps a process and its threads on one core; false where the system cannot. */
export function pin(pid, core) {
  try {
    execFileSync('taskset', ['-a', '-c', '-p', String(core), pid], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** Proportional set size in MB of the tab's process, garbage collected on the page and in its workers. */
export async function memory(tab, page) {
  for (let time = 0; time < 3; time++) {
    await Promise.all([page, ...page.workers()].map((scope) => scope.evaluate(() => globalThis.gc?.())));
    await page.waitForTimeout(500);
  }
  return proportional(tab.process());
}

/** Seconds of processor time that each thread of the process has used whose name starts with `name`, by thread. */
export function threadSeconds(pid, name) {
  const threads = new Map();
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const stat = /^\d+ \((.*)\) (.*)$/s.exec(read(`/proc/${pid}/task/${tid}/stat`));
    // utime and stime in ticks of 10 ms; the state is the first field behind the name.
    const fields = stat?.[2].split(' ') ?? [];
    if (stat?.[1].startsWith(name)) threads.set(tid, (Number(fields[11]) + Number(fields[12])) / 100);
  }
  return threads;
}
