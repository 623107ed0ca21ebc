// What survives a reload: the texts and what was said of them, in this browser alone, until other texts are chosen.
import type { Annotation } from 'autoannotator/worker';
import { type DBSchema, type IDBPDatabase, openDB } from 'idb';
import { project } from './project.js';
import type { Table } from './read.js';

interface Schema extends DBSchema {
  run: { key: 'run'; value: { spec: string; table: Table; column: number } };
  annotations: { key: number; value: Annotation };
}

const NAME = `autoannotator ${location.pathname}`;
/** What is kept of another spec is of no use. */
const SPEC = JSON.stringify(project.spec);
const WAIT_MS = 500;
const LOCK_MS = 2000;

let database: Promise<IDBPDatabase<Schema>> | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
const waiting = new Map<number, Annotation>();

/** Opens the store: in the first tab alone, for two would write over each other. Whether anything is kept. */
async function open(): Promise<boolean> {
  const first = await new Promise<boolean>((resolve) => {
    // The lock is this tab's until it is closed. What was here before a reload may have it a little longer.
    navigator.locks
      .request(NAME, { signal: AbortSignal.timeout(LOCK_MS) }, () => {
        resolve(true);
        return new Promise<void>(() => undefined);
      })
      .catch(() => resolve(false));
  });
  if (!first) return false;
  const opening = openDB<Schema>(NAME, 1, {
    upgrade: (made) => {
      made.createObjectStore('run');
      made.createObjectStore('annotations');
    },
  });
  await opening;
  database = opening;
  return true;
}

/** Whether this browser lets anything be kept. */
export const keeps: Promise<boolean> = open().catch(() => false);

/** What an earlier visit left. */
export async function kept(): Promise<{ table: Table; column: number; annotations: Map<number, Annotation> } | undefined> {
  if (!(await keeps)) return undefined;
  const transaction = (await database)?.transaction(['run', 'annotations']);
  const run = await transaction?.objectStore('run').get('run');
  if (!transaction || run?.spec !== SPEC) return undefined;
  const store = transaction.objectStore('annotations');
  const [rows, values] = await Promise.all([store.getAllKeys(), store.getAll()]);
  return { table: run.table, column: run.column, annotations: new Map(rows.map((row, at) => [row, values[at] as Annotation])) };
}

/** Keeps a table in the place of what was there; none: nothing. */
export async function begin(table?: Table, column = 0): Promise<void> {
  waiting.clear();
  if (!(await keeps)) return;
  const transaction = (await database)?.transaction(['run', 'annotations'], 'readwrite');
  if (!transaction) return;
  const run = transaction.objectStore('run');
  await Promise.all([run.clear(), transaction.objectStore('annotations').clear(), ...(table ? [run.put({ spec: SPEC, table, column }, 'run')] : []), transaction.done]);
}

/** Keeps what was said of a row, soon; `lost` is told where that fails: the disk may be full. */
export function note(row: number, annotation: Annotation, lost: (error: unknown) => void): void {
  waiting.set(row, annotation);
  timer ??= setTimeout(() => void flush().catch(lost), WAIT_MS);
}

async function flush(): Promise<void> {
  clearTimeout(timer);
  timer = undefined;
  const now = [...waiting];
  waiting.clear();
  if (now.length === 0 || !(await keeps)) return;
  const transaction = (await database)?.transaction('annotations', 'readwrite');
  await Promise.all([...now.map(([row, annotation]) => transaction?.store.put(annotation, row)), transaction?.done]);
}

document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'hidden') void flush().catch(() => undefined);
});
