// The tarball: what is in it, what it weighs, and what the checkers of packages say.
import assert from 'node:assert/strict';
import { statSync, writeFileSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { record } from './figures.mjs';
import { burnConsumer, consumer, env, exec, here, noBurn, root, tarball } from './kit.mjs';

test('it weighs at most 2 MB, all builds included', async () => {
  const { size } = statSync(await tarball());
  const { stdout } = await exec('tar', ['tzf', await tarball()]);
  const files = stdout.split('\n').filter(Boolean).map((name) => name.replace('package/', ''));
  for (const build of ['plain', 'relaxed', 'gpu']) assert.ok(files.includes(`wasm/${build}/autoannotator_bg.wasm`), build);
  assert.ok(files.includes('README.md') && files.includes('package.json'));
  assert.deepEqual(files.filter((name) => !/^(package\.json|README\.md|LICENSE.*|dist\/|recipes\/|wasm\/(plain|relaxed|gpu)\/)/.test(name)), []);
  assert.ok(size <= 2_000_000, `${size} bytes`);
  record('package', { tarballKb: Math.round(size / 1000) });
});

async function lint(out, name) {
  const pkgDir = path.join(out, 'node_modules', name);
  const { messages } = await publint({ pkgDir, strict: true });
  const pkg = JSON.parse(await readFile(path.join(pkgDir, 'package.json'), 'utf8'));
  assert.deepEqual(messages.map((message) => formatMessage(message, pkg)), []);
}

test('publint finds nothing', async () => lint(await consumer('publint'), 'autoannotator'));

async function resolves(file, ...modules) {
  const args = [file, '--profile', 'esm-only', '--no-emoji', '--no-color', '--exclude-entrypoints', ...modules, './package.json'];
  await exec(path.join(here, 'node_modules/.bin/attw'), args, { env }).catch((error) => assert.fail(error.stdout + error.stderr));
}

test('types resolve wherever modules do', async () => resolves(await tarball(), './plain.wasm', './relaxed.wasm', './gpu.wasm'));

test('autoannotator-burn: the same checks, and its types in use', { skip: noBurn }, async () => {
  const out = await burnConsumer('burn-types');
  await lint(out, 'autoannotator-burn');
  await resolves(await tarball('pkg-burn'), './burn.wasm');
  record('package', { burnTarballKb: Math.round(statSync(await tarball('pkg-burn')).size / 1000) });
  await mkdir(path.join(out, 'src'));
  writeFileSync(
    path.join(out, 'src/main.ts'),
    `import type { Annotator as Other } from 'autoannotator';
import { Annotator, type LoadOptions, MemoryError } from 'autoannotator-burn';
const options: LoadOptions = { task: 'sentiment', models: '/models/', precision: 'f16' };
const annotator: Other = await Annotator.load(options);
for await (const { label } of annotator.annotate(['a'])) if (label === 'x') throw new MemoryError(label);
`,
  );
  await compiles(out);
});

const COMPILER = { strict: true, noEmit: true, target: 'ES2022', module: 'NodeNext', lib: ['ES2023', 'DOM'], types: [], skipLibCheck: false };

/** Compiles src/ as Node.js resolves modules, and as bundlers do. */
async function compiles(out) {
  for (const resolution of [{}, { module: 'ESNext', moduleResolution: 'bundler' }]) {
    writeFileSync(path.join(out, 'tsconfig.json'), JSON.stringify({ compilerOptions: { ...COMPILER, ...resolution }, include: ['src'] }));
    await exec(path.join(root, 'pkg/node_modules/.bin/tsc'), ['-p', out], { env }).catch((error) => assert.fail(error.stdout));
  }
}

test('the types say what the interface is', async () => {
  const out = await consumer('types');
  await mkdir(path.join(out, 'src'));
  writeFileSync(
    path.join(out, 'src/main.ts'),
    `import { Annotator, AutoannotatorError, type Annotation, type LoadOptions } from 'autoannotator';
import { Annotator as InWorker } from 'autoannotator/worker';
const options: LoadOptions = { task: 'sentiment', models: 'https://models.example/', device: 'auto', onProgress: ({ loaded, total }) => loaded / total };
using annotator = await Annotator.load(options);
const labels: (string | null)[] = [];
for await (const annotation of annotator.annotate(['a', { id: 'b', text: 'b' }])) {
  const kept: Annotation = annotation;
  if (kept.verdict.status === 'accepted') labels.push(kept.verdict.label satisfies string);
}
// @ts-expect-error a device that there is not
await Annotator.load({ task: 'sentiment', models: '/models', device: 'tpu' });
// @ts-expect-error texts are not optional
annotator.annotate();
const other: Annotator = await InWorker.load({ ...options, reviewer: async (items) => items.map(() => ({ label: 'neutral', by: { kind: 'human' } })) });
other.dispose();
if (labels.length > 3) throw new AutoannotatorError('x', 'y');
`,
  );
  await compiles(out);
});
