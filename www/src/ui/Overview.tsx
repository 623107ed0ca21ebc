import type { Columns } from '../core/columns';
import { count, dollars, duration, percent } from '../core/estimate';
import { countWords, dollarsOf, projected, rangeWords, total } from '../core/money';
import type { Session } from '../core/session';
import type { Project } from '../core/types';
import { Chart } from './Chart';
import { AuditWords } from './Audit';
import { HandInChoice } from './HandIn';
import { Loads } from './Loads';
import { short, Stat, tone } from './parts';

interface CardProps {
  session: Session;
  project: Project;
  columns: Columns;
}

interface Props extends CardProps {
  onReview: () => void;
}

export function Overview({ session, project, columns, onReview }: Props) {
  void session.tick.value;
  const [pending = 0, accepted = 0, hard = 0] = columns.byVerdict;
  const rate = session.rate.value;
  const mean = project.seconds > 0 ? (columns.rows - pending) / project.seconds : undefined;
  const waiting = session.reviewing.count(columns);
  return (
    <div class="overview">
      {project.state === 'done' && waiting > 0 && session.reviewing.unsent(columns) === 0 && (
        <section class="card next">
          <p>
            <strong>{count(waiting)} rows wait for you.</strong> One key a row.
          </p>
          <button type="button" class="primary" onClick={onReview}>
            Review them
          </button>
        </section>
      )}
      {session.loads.value.some((load) => load.state !== 'ready') && (
        <section class="card" aria-labelledby="loads-title">
          <h2 id="loads-title">Models</h2>
          <Loads session={session} />
        </section>
      )}
      <dl class="stats">
        <Stat name="Texts a second" value={rate !== undefined ? rate.toFixed(1) : mean !== undefined && project.state !== 'running' ? mean.toFixed(1) : '–'} note={project.state === 'running' ? 'over the last seconds' : 'mean of the run'} />
        <Stat name="Agreement" value={percent(accepted, accepted + hard)} note={`${count(accepted)} accepted, ${count(hard)} hard`} />
        <Stat name="Labelled" value={count(columns.byLabel.reduce((sum, rows) => sum + rows, 0))} note={sources(columns)} />
        <Stat name="Spend" value={dollars(project.spend.cost_usd)} note={spendNote(session, project)} />
      </dl>
      <div class="two">
        <Labels session={session} project={project} columns={columns} />
        <section class="card" aria-labelledby="time-title">
          <h2 id="time-title">Over time</h2>
          <Chart timeline={project.timeline} />
          <p class="quiet small">{count(accepted)} accepted (solid line) and {count(hard)} hard (dashed) after {duration(project.seconds)} of running.</p>
        </section>
      </div>
      <div class="two">
        <Agreement session={session} project={project} columns={columns} />
        <Reviewer session={session} project={project} columns={columns} />
      </div>
    </div>
  );
}

function sources(columns: Columns): string {
  const [, consensus = 0, llm = 0, human = 0] = columns.bySource;
  return [`${count(consensus)} by consensus`, llm > 0 ? `${count(llm)} by the LLM` : '', human > 0 ? `${count(human)} by you` : ''].filter(Boolean).join(', ');
}

function spendNote(session: Session, project: Project): string {
  const { calls, prompt_tokens, completion_tokens } = project.spend;
  if (calls === 0) return 'the models in the tab cost nothing';
  const left = session.server.value.remaining;
  return `${count(calls)} calls, ${count(prompt_tokens + completion_tokens)} tokens${left === undefined ? '' : `, $${left.toFixed(2)} left`}`;
}

function Labels({ session, project, columns }: CardProps) {
  void session.tick.value;
  const most = Math.max(1, ...columns.byLabel);
  const total = columns.byLabel.reduce((sum, rows) => sum + rows, 0);
  return (
    <section class="card" aria-labelledby="labels-title">
      <h2 id="labels-title">Labels</h2>
      <ul class="bars">
        {project.labels.map((label, index) => {
          const rows = columns.byLabel[index] ?? 0;
          return (
            <li key={label}>
              <span class="bar-name">{label}</span>
              <span class="track tall" aria-hidden="true">
                <span class={`fill ${tone(label, project.labels)}`} style={{ width: `${(100 * rows) / most}%` }} />
              </span>
              <span class="bar-value">
                {count(rows)} <span class="quiet">{percent(rows, total, 0)}</span>
              </span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

/** How often two models name the same label: a model that stands apart shows here. */
function Agreement({ session, project, columns }: CardProps) {
  void session.tick.value;
  const k = project.slms.length;
  const pairs: { a: string; b: string; same: number; both: number }[] = [];
  for (let a = 0; a < k; a++) {
    for (let b = a + 1; b < k; b++) {
      let same = 0;
      let both = 0;
      for (let row = 0; row < columns.rows; row++) {
        const first = columns.votes[row * k + a] ?? 255;
        if (first === 255) continue;
        both += 1;
        if (first === columns.votes[row * k + b]) same += 1;
      }
      pairs.push({ a: project.slms[a]?.id ?? '', b: project.slms[b]?.id ?? '', same, both });
    }
  }
  return (
    <section class="card" aria-labelledby="pairs-title">
      <h2 id="pairs-title">Who agrees with whom</h2>
      {pairs.length === 0 ? (
        <p class="quiet">Only one model votes.</p>
      ) : (
        <ul class="bars pairs">
          {pairs.map((pair) => (
            <li key={`${pair.a} ${pair.b}`}>
              <span class="bar-name">
                {short(pair.a)} and {short(pair.b)}
              </span>
              <span class="track tall" aria-hidden="true">
                <span class="fill plain-fill" style={{ width: pair.both === 0 ? '0%' : `${(100 * pair.same) / pair.both}%` }} />
              </span>
              <span class="bar-value">{percent(pair.same, pair.both)}</span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function Reviewer({ session, project, columns }: CardProps) {
  void session.tick.value;
  const server = session.server.value;
  const reviewing = session.reviewing;
  const llm = reviewing.llm.value;
  const to = project.reviewTo;
  return (
    <section class="card" aria-labelledby="who-title">
      <h2 id="who-title">Hard rows {to === 'llm' ? 'go to the LLM' : to === 'never' ? 'stay here, for you' : 'go to you'}</h2>
      <p>
        {count(columns.reviewed)} of {count(columns.byVerdict[2] ?? 0)} are decided.
        {to === 'llm' && llmWords(llm)}
      </p>
      <AuditWords columns={columns} />
      {to === 'llm' && <MoneyWords session={session} project={project} columns={columns} />}
      {to === 'never' && <p class="quiet small">You chose that nothing is ever sent. Start over to choose otherwise.</p>}
      {to === 'person' && server.reviewer && columns.waiting > 0 && (
        <>
          <p class="quiet small">
            {server.model ?? 'The LLM'} can take them: you see every text as it would be sent, redacted, and agree before it goes.
          </p>
          <div class="row">
            <button type="button" onClick={() => void session.chooseReviewer('llm').then(() => (reviewing.looking.value = true))}>
              Send the hard rows to the LLM…
            </button>
            <button type="button" onClick={() => void session.chooseReviewer('never')}>
              Never send in this run
            </button>
          </div>
        </>
      )}
      {to === 'llm' && (
        <div class="row">
          <button type="button" onClick={() => void session.chooseReviewer('person')}>
            {project.spend.calls > 0 ? 'Stop sending, I decide' : 'Do not send, I decide'}
          </button>
          {project.sendFreely === true && (
            <button type="button" onClick={() => void session.askAgain()}>
              Show me texts before they go
            </button>
          )}
          {llm.state === 'down' && (
            <button type="button" onClick={() => reviewing.retry()}>
              Ask the LLM again
            </button>
          )}
        </div>
      )}
      <HandInChoice session={session} project={project} />
    </section>
  );
}

/** What was spent, and what there will be in all. */
function MoneyWords({ session, project, columns }: CardProps) {
  const { prices } = session.server.value;
  const { reviews, prompt_tokens, completion_tokens, cost_usd } = project.spend;
  if (reviews === 0) return null;
  const more = session.expectedYet(project, columns);
  const all = more && {
    prompt: projected(prompt_tokens, more.prompt),
    completion: projected(completion_tokens, more.completion),
  };
  const spent = `${count(reviews)} reviews so far: ${prices ? `${dollars(cost_usd)}, ` : ''}${count(prompt_tokens + completion_tokens)} tokens.`;
  return (
    <p class="quiet small" data-estimate="so-far">
      {spent} {all && `The whole run: ${prices && more ? `${rangeWords(projected(cost_usd, dollarsOf(more, prices)), dollars)}, ` : ''}${countWords(total(all))} tokens.`}
    </p>
  );
}

function llmWords({ state, why }: { state: string; why: string }): string {
  if (state === 'asking') return ' Asking…';
  if (state === 'waiting') return ' The LLM asks to wait.';
  if (state === 'budget') return ' The budget is used up.';
  if (state === 'down') return ` The LLM does not answer: ${why}.`;
  return '';
}
