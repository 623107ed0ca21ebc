// The tables of the package's README, of what the tests and the bench measured: `make test-edge TABLES=1` writes them anew.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { root } from './kit.mjs';

const README = path.join(root, 'pkg/README.md');
const whole = (number) => Math.round(number).toString();

/** Rows in Markdown, under their heads. */
const table = (head, rows) => [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

function runtimes(all) {
  const rows = Object.entries(all)
    .filter(([, found]) => found.textsPerSecond !== undefined)
    .map(([, { runtime, where, version, device, build, memoryMib, firstMs, textsPerSecond }]) => [
      where ? `${runtime}, ${where}` : runtime,
      version,
      device,
      build,
      whole(memoryMib),
      whole(firstMs),
      whole(textsPerSecond),
    ])
    .sort(([a, , , one], [b, , , other]) => (a + one < b + other ? -1 : 1));
  return table(['', 'tested', 'device', 'build', 'memory, MiB', 'first label, ms', 'texts a second'], rows);
}

function peers({ bench }) {
  const rows = Object.entries(bench).map(([name, { cpu, first }]) => [name, cpu.toFixed(1), whole(first)]);
  return table(['', 'ms a tweet', 'ms to the first label'], rows);
}

/** Writes the tables that there are figures for between their marks. */
export function writeTables(all) {
  let text = readFileSync(README, 'utf8');
  const put = (name, content) => {
    const marks = new RegExp(`(<!-- ${name} -->\n)[^]*?(\n<!-- /${name} -->)`);
    if (!marks.test(text)) throw new Error(`${README} has no marks for the table '${name}'`);
    text = text.replace(marks, (_, start, end) => `${start}${content}${end}`);
  };
  put('runtimes', runtimes(all));
  if (all.bench) put('peers', peers(all));
  writeFileSync(README, text);
}
