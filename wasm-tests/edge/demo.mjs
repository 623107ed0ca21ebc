// `node demo.mjs SPEC OUT`: generates a worker of a spec, runs it in workerd and lets it label; prints what it answered. Part of
// `make demo-controller`.
import path from 'node:path';
import { companion, env, exec, home, root, tarball } from './kit.mjs';
import { deployed } from './worker.mjs';

const TEXTS = ['I love this film', 'worst day ever, I hate it', 'the shop is open until six'];
const [spec, out] = process.argv.slice(2).map((file) => path.resolve(file));
const args = ['generate', 'worker', '--spec', spec, '--out', out, '--package', await tarball(), '--home', home];
console.log((await exec(companion(), args, { cwd: root, env })).stdout.trim());
const worker = await deployed(out, { REVIEW_URL: '' });
try {
  const { status, body } = await worker.annotate(TEXTS);
  if (status !== 200 || body.annotations.length !== TEXTS.length) throw new Error(`the worker answered ${status}: ${JSON.stringify(body)}`);
  for (const [at, { label, verdict }] of body.annotations.entries()) console.log(`${verdict.status.padEnd(10)}${(label ?? '-').padEnd(10)}${TEXTS[at]}`);
  const info = await worker.ask('/info');
  console.log(`${Math.round(info.body.memoryBytes / 2 ** 20)} MiB of WebAssembly memory`);
} finally {
  await worker.stop();
}
process.exit();
