import { bytes } from '../core/estimate';
import type { Session } from '../core/session';

const WORDS = { waiting: 'waiting', downloading: 'downloading', loading: 'loading', ready: 'ready', failed: 'failed' };

/** How far each model's download and loading is. */
export function Loads({ session }: { session: Session }) {
  const loads = session.loads.value;
  if (loads.length === 0) return null;
  return (
    <ul class="loads" aria-label="Models">
      {loads.map((load) => (
        <li key={load.id}>
          <div class="load-head">
            <span class="slm">{load.id}</span>
            <span class="quiet">
              {load.state === 'downloading' ? `${bytes(load.here)} of ${bytes(load.total)}` : WORDS[load.state]}
            </span>
          </div>
          <progress value={load.here} max={Math.max(1, load.total)} aria-label={`${load.id}: ${WORDS[load.state]}`} />
        </li>
      ))}
    </ul>
  );
}
