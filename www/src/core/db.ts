// Everything that survives a reload.
import { type DBSchema, type IDBPDatabase, openDB } from 'idb';
import type { Departure, LlmBatch, Project, ResultBlock, Retraction, RowBlock, StoredReview } from './types';

interface Schema extends DBSchema {
  /** The data set and its run, under the key `current`; the file itself under `file` until the run starts. */
  project: { key: string; value: Project };
  file: { key: string; value: Blob };
  rows: { key: number; value: RowBlock };
  results: { key: number; value: ResultBlock };
  reviews: { key: number; value: StoredReview };
  batches: { key: string; value: LlmBatch };
  /** Everything of the file that left the device, in order; starting over does not make it unsent. */
  departures: { key: number; value: Departure };
  /** Reviews that the server's pool has and the person took back, until it has been told. */
  retractions: { key: number; value: Retraction };
  /** What was measured on this device: texts a second of an SLM, the hard share of a task. */
  measured: { key: string; value: number };
}

export type Db = IDBPDatabase<Schema>;

let opened: Promise<Db> | undefined;

/** The page's database; one connection a thread. */
export function db(): Promise<Db> {
  opened ??= openDB<Schema>('autoannotator', 3, {
    upgrade(base, before) {
      base.createObjectStore('retractions', { autoIncrement: true });
      if (before === 2) return;
      if (before === 1) {
        // Batches were kept without their texts.
        base.deleteObjectStore('batches');
        base.createObjectStore('batches', { keyPath: 'key' });
        base.createObjectStore('departures', { autoIncrement: true });
        return;
      }
      base.createObjectStore('project');
      base.createObjectStore('file');
      base.createObjectStore('rows', { keyPath: 'block' });
      base.createObjectStore('results', { keyPath: 'block' });
      base.createObjectStore('reviews', { keyPath: 'row' });
      base.createObjectStore('batches', { keyPath: 'key' });
      base.createObjectStore('departures', { autoIncrement: true });
      base.createObjectStore('measured');
    },
    // Another tab wants to upgrade: let it.
    blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
    terminated: () => {
      opened = undefined;
    },
  });
  return opened;
}

/** Forgets the data set and everything said of it; what was measured stays. */
export async function clearProject(): Promise<void> {
  const base = await db();
  const stores = ['project', 'file', 'rows', 'results', 'reviews', 'batches', 'departures', 'retractions'] as const;
  const change = base.transaction(stores, 'readwrite');
  await Promise.all([...stores.map((store) => change.objectStore(store).clear()), change.done]);
}

/** Forgets votes and reviews, keeps the rows and what was sent. */
export async function clearResults(): Promise<void> {
  const base = await db();
  const stores = ['results', 'reviews', 'batches'] as const;
  const change = base.transaction(stores, 'readwrite');
  await Promise.all([...stores.map((store) => change.objectStore(store).clear()), change.done]);
}
