// Runtimes without files: Cloudflare's workerd, with the example as it is, and Vercel's edge-runtime.
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { EdgeRuntime } from 'edge-runtime';
import * as esbuild from 'esbuild';
import { Log, LogLevel, Miniflare } from 'miniflare';
import { consumer, env, fileServer, models, root, SLMS } from './kit.mjs';

Object.assign(process.env, { XDG_CACHE_HOME: env.XDG_CACHE_HOME, XDG_CONFIG_HOME: env.XDG_CONFIG_HOME, WRANGLER_SEND_METRICS: 'false' });

/** A script of a folder, bundled as wrangler does: wasm stays a module of its own. */
async function bundled(script, source, from) {
  const out = await consumer('workerd');
  cpSync(source, path.join(out, 'src'), { recursive: true });
  await esbuild.build({
    absWorkingDir: out,
    entryPoints: { index: `src/${script}` },
    outdir: 'built',
    bundle: true,
    format: 'esm',
    conditions: ['workerd', 'worker', 'browser'],
    loader: { '.wasm': 'copy' },
    alias: from === 'autoannotator' ? {} : { autoannotator: from },
    logLevel: 'error',
  });
  return path.join(out, 'built');
}

/** The example in workerd; `vars` are its settings, `from` the entry of the package in the place of the usual one. */
export function workerd(vars = {}, from = 'autoannotator') {
  return inWorkerd('index.js', path.join(root, 'examples/edge-worker/src'), { TASK: 'sentiment', REVIEW_URL: '', ...vars }, from);
}

/** A script of a folder in workerd, with the models bound as MODELS. */
export async function inWorkerd(script, source, vars = {}, from = 'autoannotator', more = {}) {
  return runBuilt(await bundled(script, source, from), vars, more);
}

/** What was bundled into a folder in workerd: its index.js, with the modules beside it; `more` are options of miniflare. */
export async function runBuilt(built, vars, more = {}) {
  const names = readdirSync(built);
  const miniflare = new Miniflare({
    log: new Log(LogLevel.ERROR),
    modulesRoot: built,
    modules: [
      { type: 'ESModule', path: path.join(built, 'index.js') },
      ...names.filter((name) => name.endsWith('.wasm')).map((name) => ({ type: 'CompiledWasm', path: path.join(built, name) })),
    ],
    compatibilityDate: '2026-07-01',
    bindings: vars,
    ...more,
    assets: { directory: models, binding: 'MODELS', routerConfig: { has_user_worker: true, invoke_user_worker_ahead_of_assets: true } },
  });
  await miniflare.ready;
  const process = children('workerd').at(-1);
  return { miniflare, process, ask: (pathname, body) => ask(miniflare, pathname, body), stop: () => miniflare.dispose() };
}

async function ask(miniflare, pathname, body) {
  const init = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
  const response = await miniflare.dispatchFetch(`http://edge${pathname}`, init);
  return { status: response.status, body: await response.json() };
}

/** The processes below this one whose program is called `name`. */
function children(name) {
  const below = (pid) => {
    const file = `/proc/${pid}/task/${pid}/children`;
    const pids = existsSync(file) ? readFileSync(file, 'utf8').split(' ').filter(Boolean) : [];
    return pids.flatMap((child) => [child, ...below(child)]);
  };
  return below(process.pid).filter((pid) => readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith(name));
}

/** Processor milliseconds that a process has used, and the most memory it had in MiB. */
export function used(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return { cpuMs: (Number(fields[11]) + Number(fields[12])) * 10, peakMib: Number(peak[1]) / 1024 };
}

/** The annotations of texts, asked for in requests of 250. */
export async function annotateInWorkerd(texts, from) {
  const worker = await workerd({}, from);
  try {
    const started = performance.now();
    const cold = await worker.ask('/annotate', { texts: texts.slice(0, 1) });
    if (cold.status !== 200) throw new Error(JSON.stringify(cold.body));
    const first = performance.now() - started;
    const annotations = [];
    const from = performance.now();
    const before = used(worker.process);
    for (let at = 0; at < texts.length; at += 250) {
      const some = texts.slice(at, at + 250).map((text, place) => ({ id: String(at + place + 1), text }));
      annotations.push(...(await worker.ask('/annotate', { texts: some })).body.annotations);
    }
    const ms = performance.now() - from;
    const after = used(worker.process);
    const { body } = await worker.ask('/info');
    return { annotations, first, ms, cpuMs: after.cpuMs - before.cpuMs, processPeakMib: after.peakMib, ...body };
  } finally {
    await worker.stop();
  }
}

/** The annotations of texts in Vercel's edge-runtime, where a module comes compiled too. */
export async function annotateInEdgeRuntime(texts) {
  const out = await consumer('edge-runtime');
  const { outputFiles } = await esbuild.build({
    stdin: {
      resolveDir: out,
      contents: `
        import { Annotator } from 'autoannotator/simd';
        addEventListener('fetch', (event) => event.respondWith((async () => {
          const { models, slms, texts } = await event.request.json();
          const annotator = await Annotator.load({ task: 'sentiment', slms, models, device: 'cpu', wasm: { plain: WASM } });
          const annotations = [];
          let first;
          const from = Date.now();
          for await (const annotation of annotator.annotate(texts)) {
            first ??= Date.now();
            annotations.push(annotation);
          }
          return Response.json({ annotations, ms: Date.now() - from, ...(await annotator.info()) });
        })()));`,
    },
    bundle: true,
    write: false,
    format: 'iife',
    conditions: ['edge-light', 'worker', 'browser'],
    logLevel: 'error',
    logOverride: { 'empty-import-meta': 'silent' },
  });
  const module = await WebAssembly.compile(readFileSync(path.join(root, 'pkg/wasm/plain/autoannotator_bg.wasm')));
  const runtime = new EdgeRuntime({ initialCode: outputFiles[0].text, extend: (context) => Object.assign(context, { WASM: module }) });
  const served = await fileServer({ '/models/': models });
  try {
    const started = performance.now();
    const body = JSON.stringify({ models: `${served.url}/models`, slms: SLMS, texts });
    const response = await runtime.dispatchFetch('http://edge/', { method: 'POST', body });
    const found = await response.json();
    return { ...found, first: performance.now() - started - found.ms };
  } finally {
    served.stop();
  }
}
