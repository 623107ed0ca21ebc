// The tarball: what is in it, what it weighs, and what the checkers of packages say.
import assert from 'node:assert/strict';
import { statSync, writeFileSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { record } from './figures.mjs';
import { consumer, env, exec, here, root, tarball } from './kit.mjs';

test('it weighs at most 2 MB, all builds included', async () => {
  const { size } = statSync(await tarball());
  const { stdout } = await exec('tar', ['tzf', await tarball()]);
  const files = stdout.split('\n').filter(Boolean).map((name) => name.replace('package/', ''));
  for (const build of ['plain', 'relaxed', 'gpu', 'edge']) assert.ok(files.includes(`wasm/${build}/autoannotator_bg.wasm`), build);
  assert.ok(files.includes('README.md') && files.includes('package.json'));
  assert.deepEqual(files.filter((name) => !/^(package\.json|README\.md|LICENSE.*|dist\/|recipes\/|wasm\/(plain|relaxed|gpu|edge)\/)/.test(name)), []);
  assert.ok(size <= 2_000_000, `${size} bytes`);
  record('package', { tarballKb: Math.round(size / 1000) });
});

test('publint finds nothing', async () => {
  const out = await consumer('publint');
  const pkgDir = path.join(out, 'node_modules/autoannotator');
  const { messages } = await publint({ pkgDir, strict: true });
  const pkg = JSON.parse(await readFile(path.join(pkgDir, 'package.json'), 'utf8'));
  assert.deepEqual(messages.map((message) => formatMessage(message, pkg)), []);
});

test('types resolve wherever modules do', async () => {
  const modules = ['./plain.wasm', './relaxed.wasm', './gpu.wasm', './package.json'];
  const args = [await tarball(), '--profile', 'esm-only', '--no-emoji', '--no-color', '--exclude-entrypoints', ...modules];
  await exec(path.join(here, 'node_modules/.bin/attw'), args, { env }).catch((error) => assert.fail(error.stdout + error.stderr));
});

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
  const compiler = { strict: true, noEmit: true, target: 'ES2022', module: 'NodeNext', lib: ['ES2023', 'DOM'], types: [], skipLibCheck: false };
  writeFileSync(path.join(out, 'tsconfig.json'), JSON.stringify({ compilerOptions: compiler, include: ['src'] }));
  await exec(path.join(root, 'pkg/node_modules/.bin/tsc'), ['-p', out], { env }).catch((error) => assert.fail(error.stdout));
  const bundled = { ...compiler, module: 'ESNext', moduleResolution: 'bundler' };
  writeFileSync(path.join(out, 'tsconfig.json'), JSON.stringify({ compilerOptions: bundled, include: ['src'] }));
  await exec(path.join(root, 'pkg/node_modules/.bin/tsc'), ['-p', out], { env }).catch((error) => assert.fail(error.stdout));
});
