// A generated worker, installed and run in workerd.
import { existsSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import * as esbuild from 'esbuild';
import { Log, LogLevel, Miniflare } from 'miniflare';
import { env, exec } from './kit.mjs';

/** What npm has fetched before is taken from its cache, which outlives the test. */
export function install(out, ...more) {
  const config = process.env.npm_config_cache ? { npm_config_cache: process.env.npm_config_cache } : {};
  return exec('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error', ...more], { cwd: out, env: { ...env, ...config } });
}

/** The worker's settings, as its wrangler.toml has them. */
async function settings(out) {
  const toml = await readFile(path.join(out, 'wrangler.toml'), 'utf8');
  const of = (key) => JSON.parse(new RegExp(`^${key} = (".*")$`, 'm').exec(toml)[1]);
  return { main: of('main'), compatibilityDate: of('compatibility_date'), directory: of('directory'), vars: { MODELS_URL: of('MODELS_URL'), REVIEW_URL: of('REVIEW_URL') } };
}

/** The worker in workerd, bundled as wrangler does: wasm stays a module of its own. */
export async function deployed(out, secrets = {}) {
  if (!existsSync(path.join(out, 'node_modules'))) await install(out, '--omit=dev');
  const { main, compatibilityDate, directory, vars } = await settings(out);
  await esbuild.build({
    absWorkingDir: out,
    entryPoints: { index: main },
    outdir: 'built',
    bundle: true,
    format: 'esm',
    conditions: ['workerd', 'worker', 'browser'],
    loader: { '.wasm': 'copy' },
    logLevel: 'error',
  });
  const at = (name) => path.join(out, 'built', name);
  const miniflare = new Miniflare({
    log: new Log(LogLevel.ERROR),
    modulesRoot: path.join(out, 'built'),
    modules: [
      { type: 'ESModule', path: at('index.js') },
      ...readdirSync(path.join(out, 'built')).filter((name) => name.endsWith('.wasm')).map((name) => ({ type: 'CompiledWasm', path: at(name) })),
    ],
    compatibilityDate,
    bindings: { ...vars, ...secrets },
    assets: { directory: path.join(out, directory), binding: 'ASSETS', routerConfig: { has_user_worker: true, invoke_user_worker_ahead_of_assets: true } },
  });
  await miniflare.ready;
  const ask = async (pathname, init = {}) => {
    const response = await miniflare.dispatchFetch(`http://edge${pathname}`, init);
    return { status: response.status, body: await response.json() };
  };
  const annotate = (texts, headers = {}) => ask('/annotate', { method: 'POST', body: JSON.stringify({ texts }), headers });
  return { ask, annotate, stop: () => miniflare.dispose() };
}
