// What the tests measure, for the line at the end of `make test-edge` and the table of the README.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

const file = process.env.AUTOANNOTATOR_FIGURES;

/** All figures that were recorded so far. */
export function figures() {
  return file && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8') || '{}') : {};
}

/** Keeps figures under a name, where a file for them is named. Tests that record run one after another. */
export function record(name, values) {
  if (file) writeFileSync(file, JSON.stringify({ ...figures(), [name]: { ...figures()[name], ...values } }, null, 1));
}
