import { useEffect, useState } from 'preact/hooks';
import { follow } from '../core/api';
import { count } from '../core/estimate';
import { iAm, me } from '../core/reviewing';
import type { Session } from '../core/session';
import type { Project } from '../core/types';

/** Whether reviewed rows go to the server's pool; shown only where the server would keep them. */
export function HandInChoice({ session, project }: { session: Session; project: Project }) {
  if (!session.handingIn.offered) return null;
  const on = project.handIn === true;
  const handed = session.handingIn.count.value;
  return (
    <div class="hand-in">
      <label class="choice">
        <input type="checkbox" name="hand-in" checked={on} onChange={(event) => void session.chooseHandIn(event.currentTarget.checked)} />
        <span>
          <strong>Let this server train the models on reviewed rows</strong>
          <span class="quiet">
            It keeps the texts that you, or the LLM, labelled, redacted. Rows that nobody reviewed are never sent.
            {on && handed !== undefined && handed > 0 && ` ${count(handed)} handed in.`}
          </span>
        </span>
      </label>
      {on && (
        <label class="field">
          <span class="quiet small">Your name or initials, kept with each label (optional)</span>
          <input type="text" name="me" maxLength={40} autoComplete="nickname" value={me.value} onChange={(event) => iAm(event.currentTarget.value)} />
        </label>
      )}
      {on && <RoundWords task={project.task} />}
    </div>
  );
}

/** What `/v1/rounds` says of a task. */
interface TaskRounds {
  unused: number;
  starts_at: number;
  running: { slm: string; done: number; all: number } | null;
  last: { outcome: string; reports: { slm: string; outcome: string }[] } | null;
}

/** How the server's training goes, as it tells. */
function RoundWords({ task }: { task: string }) {
  const [rounds, setRounds] = useState<TaskRounds | undefined>(undefined);
  useEffect(() => {
    const cut = new AbortController();
    void follow('/v1/rounds/events', cut.signal, (data) => {
      try {
        setRounds((JSON.parse(data) as Record<string, TaskRounds>)[task]);
      } catch {
        setRounds(undefined);
      }
    });
    return () => cut.abort();
  }, [task]);
  if (!rounds) return null;
  return (
    <p class="quiet small" role="status">
      {words(rounds)}
    </p>
  );
}

function words({ unused, starts_at, running, last }: TaskRounds): string {
  if (running) {
    const share = running.all > 0 ? ` (${Math.floor((100 * running.done) / running.all)} % of this step)` : '';
    return running.slm ? `The server trains ${running.slm} now${share}.` : 'The server starts to train the models.';
  }
  const waits = starts_at > 0 ? `The server has ${count(unused)} of the ${count(starts_at)} reviewed rows at which it trains the models.` : `The server has ${count(unused)} reviewed rows that no training has used.`;
  if (!last) return waits;
  const better = last.reports.filter((report) => report.outcome === 'promoted').map((report) => report.slm);
  if (last.outcome !== 'done') return `${waits} The last training ${last.outcome === 'stopped' ? 'was stopped' : 'failed'}.`;
  return `${waits} The last training ${better.length > 0 ? `made ${better.join(', ')} better` : 'made none better, so nothing was changed'}.`;
}
