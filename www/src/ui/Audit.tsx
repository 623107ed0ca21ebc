import { count, percent, wilson } from '../core/estimate';
import type { Columns } from '../core/columns';
import type { Session } from '../core/session';
import type { Project } from '../core/types';

const SHARES = [0, 0.01, 0.02, 0.05, 0.1];

/** How many of the rows that the models agree on are reviewed all the same. */
export function AuditChoice({ session, project }: { session: Session; project: Project }) {
  return (
    <label class="field audit">
      <span>Rows the models agree on</span>
      <select name="audit" value={String(project.audit ?? 0)} onChange={(event) => void session.chooseAudit(Number(event.currentTarget.value))}>
        {SHARES.map((share) => (
          <option key={share} value={String(share)}>
            {share === 0 ? 'are accepted unseen' : `check ${percent(share, 1, 0)} of them, to know how many are wrong`}
          </option>
        ))}
      </select>
    </label>
  );
}

/** What the checked rows say of all that were accepted. */
export function AuditWords({ columns }: { columns: Columns }) {
  const { rows, done, wrong } = columns.audited;
  if (rows === 0) return null;
  const [from, to] = wilson(wrong, done);
  return (
    <p data-audit={done}>
      {count(done)} of {count(rows)} accepted rows to be checked are.
      {done > 0 && ` ${count(wrong)} of them were wrong, so of all accepted rows ${percent(from, 1, 0)} to ${percent(to, 1, 0)} are (95 % sure).`}
    </p>
  );
}
