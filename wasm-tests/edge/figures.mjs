// What the tests measure, for the line at the end of `make test-edge` and the tables of the README.
import { appendFileSync, existsSync, readFileSync } from 'node:fs';

const file = process.env.AUTOANNOTATOR_FIGURES;

/** All figures that were recorded so far, by name. */
export function figures() {
  const all = {};
  const lines = file && existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
  for (const [name, values] of lines.map((line) => JSON.parse(line))) all[name] = { ...all[name], ...values };
  return all;
}

/** Keeps figures under a name, where a file for them is named. Tests that run at the same time may do so: a line is written at once. */
export function record(name, values) {
  if (file) appendFileSync(file, `${JSON.stringify([name, values])}\n`);
}
