import { useState } from 'preact/hooks';
import { token } from '../core/api';
import { bytes, count, dollars, duration, percent } from '../core/estimate';
import { costWords, countWords, dollarsOf } from '../core/money';
import type { Choice, Session } from '../core/session';
import type { Project, ReviewTo } from '../core/types';
import { cell } from '../core/guess';
import { AuditChoice } from './Audit';
import { HandInChoice } from './HandIn';
import { Loads } from './Loads';
import { ComputesOn, Placeholders, plain } from './parts';

const TASKS = [
  { name: 'sentiment', title: 'Sentiment', about: 'negative, neutral or positive' },
  { name: 'toxicity', title: 'Toxicity', about: 'toxic or non-toxic' },
];

/** Why rows are set aside, by the crate's code. */
const ASIDE_WORDS: Record<string, string> = {
  'blank-text': 'no text, or only whitespace',
  'ragged-row': 'more or fewer fields than the header',
  'not-utf8': 'not valid in the file\'s encoding; try another one on the left',
  'not-json': 'not a JSON object',
  'no-text': 'the object has no text in this column',
  'row-too-long': 'longer than a row may be',
};

const ENCODINGS = ['windows-1252', 'iso-8859-2', 'iso-8859-15', 'windows-1251', 'koi8-r', 'utf-16le', 'utf-16be', 'shift_jis', 'euc-jp', 'gb18030', 'big5', 'euc-kr'];

export function PlanView({ session }: { session: Session }) {
  const project = session.project.value;
  if (!project) return null;
  return (
    <div class="plan">
      <div class="plan-left">
        <DataCard session={session} project={project} />
        <TaskCard session={session} project={project} />
        <ReviewerCard session={session} project={project} />
      </div>
      <WhatCard session={session} project={project} />
    </div>
  );
}

function DataCard({ session, project }: { session: Session; project: Project }) {
  const rows = session.head.value.slice(0, 5);
  return (
    <section class="card" aria-labelledby="data-title">
      <h2 id="data-title">
        <span class="step">1</span> Your texts
      </h2>
      {project.cut !== undefined && (
        <p class="notice warn" role="status">
          The file cannot be read to its end: {plain(project.cut)}. The {count(project.rows)} rows before that are here; you can label them, or mend the file and open it again.
        </p>
      )}
      <div class="two-fields">
        {project.columns.length > 0 && (
        <label class="field">
          Column with the texts
          <select value={project.textColumn} onChange={(event) => void session.readAgain({ textColumn: event.currentTarget.value })}>
            {project.columns.map((column) => (
              <option key={column} value={column}>
                {column}
              </option>
            ))}
          </select>
        </label>
      )}
        <label class="field">
          Encoding
          <select value={project.encoding ?? ''} onChange={(event) => void session.readAgain({ encoding: event.currentTarget.value })}>
            <option value="">UTF-8, or as the file says</option>
            {ENCODINGS.map((encoding) => (
              <option key={encoding} value={encoding}>
                {encoding}
              </option>
            ))}
          </select>
        </label>
      </div>
      <ol class="head-rows" aria-label="The first rows">
        {rows.map((row) => (
          <li key={row.id}>{project.columns.length > 0 ? cell(row, project.columns, project.textColumn) || row.text : row.text}</li>
        ))}
      </ol>
    </section>
  );
}

function TaskCard({ session, project }: { session: Session; project: Project }) {
  return (
    <section class="card" aria-labelledby="task-title">
      <h2 id="task-title">
        <span class="step">2</span> What to label
      </h2>
      <div class="choices" role="radiogroup" aria-labelledby="task-title">
        {TASKS.map((task) => (
          <label class="choice" key={task.name}>
            <input type="radio" name="task" value={task.name} checked={project.task === task.name} onChange={() => void session.chooseTask(task.name)} />
            <span>
              <strong>{task.title}</strong>
              <span class="quiet">{task.about}</span>
            </span>
          </label>
        ))}
      </div>
    </section>
  );
}

function ReviewerCard({ session, project }: { session: Session; project: Project }) {
  const server = session.server.value;
  const handsIn = project.handIn === true && session.handingIn.offered;
  const choice = (value: ReviewTo, title: string, about: string, off = false) => (
    <label class={`choice ${off ? 'off' : ''}`}>
      <input type="radio" name="reviewer" value={value} disabled={off} checked={project.reviewTo === value} onChange={() => void session.chooseReviewer(value)} />
      <span>
        <strong>{title}</strong>
        <span class="quiet">{about}</span>
      </span>
    </label>
  );
  return (
    <section class="card" aria-labelledby="reviewer-title">
      <h2 id="reviewer-title">
        <span class="step">3</span> Who decides the hard rows
      </h2>
      <div class="choices stacked" role="radiogroup" aria-labelledby="reviewer-title">
        {choice('never', 'I do, and never send anything', 'Every hard row stays on this device and waits for you. In this run nothing can be sent, whatever is pressed later.')}
        {choice('person', server.reviewer ? 'I do, and may ask the LLM later' : 'I do', `With the keyboard, one row after the other. ${handsIn ? '' : 'Nothing leaves this device'}${!handsIn && server.reviewer ? ' unless you say so then.' : handsIn ? '' : '.'}`)}
        {choice(
          'llm',
          `An LLM${server.model ? `: ${server.model}` : ''}`,
          server.reviewer
            ? `The hard rows${project.audit ? ', and those to be checked,' : ', and only they,'} go to it through your server, redacted, once you have seen them and agreed. What it cannot label comes back to you.`
            : 'This server has no LLM. Set AUTOANNOTATOR_LLM_URL, start it again and reload.',
          !server.reviewer,
        )}
      </div>
      {(server.asksToken || token.value !== '') && <TokenField session={session} />}
      {project.reviewTo === 'llm' && <Sent session={session} />}
      <AuditChoice session={session} project={project} />
      <HandInChoice session={session} project={project} />
    </section>
  );
}

/** The server's token; kept for this tab alone. */
function TokenField({ session }: { session: Session }) {
  const { asksToken, token: answered } = session.server.value;
  const [typed, setTyped] = useState(token.value);
  const unknown = asksToken && token.value !== '' && token.value === answered;
  return (
    <label class="field audit">
      <span>{asksToken ? 'This server asks for a token before it reviews or keeps anything' : 'The server’s token'}</span>
      <input type="password" name="token" autoComplete="off" value={typed} aria-invalid={unknown} onInput={(event) => setTyped(event.currentTarget.value)} onChange={(event) => void session.giveToken(event.currentTarget.value)} />
      {unknown && <span role="alert">The server does not know this token.</span>}
    </label>
  );
}

/** What would be sent, by the example of some rows. */
function Sent({ session }: { session: Session }) {
  return (
    <div class="sent">
      <h3>What would be sent</h3>
      <p class="quiet small">
        Of each hard row its number and its text, never the other columns. What could name a person is replaced first. Nothing goes before you have seen every text and agreed. If these rows turn out to be hard, this would be sent:
      </p>
      <ul class="sent-rows">
        {session.preview.value.map((row) => (
          <li key={row.id}>
            <code>{row.id}</code> <Placeholders text={row.sent} />
          </li>
        ))}
      </ul>
    </div>
  );
}

function WhatCard({ session, project }: { session: Session; project: Project }) {
  const plan = session.plan.value;
  const choice = plan?.choice;
  const texts = project.rows - project.aside;
  return (
    <section class="card what" aria-labelledby="what-title">
      <h2 id="what-title">What will happen</h2>
      <dl class="facts">
        <div>
          <dt>Rows</dt>
          <dd>
            {count(project.rows)}
            {project.aside > 0 && (
              <ul class="aside-why">
                {Object.entries(project.asideWhy).map(([why, many]) => (
                  <li key={why}>
                    {count(many)} set aside: {ASIDE_WORDS[why] ?? why}
                  </li>
                ))}
              </ul>
            )}
          </dd>
        </div>
        <div>
          <dt>Models</dt>
          <dd>{choice ? <Models choice={choice} /> : 'looking…'}</dd>
        </div>
        {plan && plan.choices.length > 1 && (
          <div>
            <dt id="precision-title">Precision</dt>
            <dd>
              <Precisions session={session} choices={plan.choices} chosen={plan.choice} project={project} />
            </dd>
          </div>
        )}
        {choice && (
          <div>
            <dt id="device-title">Computes on</dt>
            <dd>
              <Devices session={session} project={project} />
            </dd>
          </div>
        )}
        <div>
          <dt>Download</dt>
          <dd>{choice ? (choice.download === 0 ? 'none, the models are on this device' : `${bytes(choice.download)}, once${choice.download < choice.total ? ` (${bytes(choice.total - choice.download)} are here already)` : ''}`) : '–'}</dd>
        </div>
        <div>
          <dt>Time</dt>
          <dd>{choice ? <Time session={session} choice={choice} project={project} /> : '–'}</dd>
        </div>
        <div>
          <dt>Hard rows</dt>
          <dd data-estimate="hard">{hardWords(session, project, plan?.hardShare, texts)}</dd>
        </div>
        {project.reviewTo === 'llm' && (
          <div>
            <dt>LLM</dt>
            <dd data-estimate="cost">
              <Cost session={session} project={project} />
            </dd>
          </div>
        )}
        <div>
          <dt>Leaves the device</dt>
          <dd>{leaves(session, project)}</dd>
        </div>
      </dl>
      {plan?.problem && (
        <p class="notice warn" role="status">
          {plan.problem}
        </p>
      )}
      {session.measuring.value && <Loads session={session} />}
      <div class="row">
        <button type="button" class="primary big" disabled={!choice || choice.slms.length === 0 || session.measuring.value || texts === 0} onClick={() => void session.start()}>
          {choice && choice.download > 0 ? `Download ${bytes(choice.download)} and start` : 'Start'}
        </button>
        {choice && choice.slms.length > 0 && texts > 0 && (session.estimate(choice, project) === undefined || session.expected(project) === undefined) && (
          <button type="button" disabled={session.measuring.value} onClick={() => void session.measure()}>
            {session.measuring.value ? `Estimating…${session.probed.value > 0 ? ` ${count(session.probed.value)} texts` : ''}` : 'Estimate first'}
          </button>
        )}
      </div>
      <p class="quiet small">You can pause, reload or close the page at any time; the run goes on where it was.</p>
    </section>
  );
}

/** How many rows will be hard, as far as that is known. */
function hardWords(session: Session, project: Project, share: number | undefined, texts: number): string {
  const expected = session.expected(project);
  if (expected) return `${countWords(expected.hard)}, by the votes on ${count(project.probe?.texts ?? 0)} of your texts`;
  return share === undefined ? 'known once estimated' : `about ${count(Math.round(share * texts))} (${percent(share, 1, 0)} in your last run)`;
}

/** What the LLM will take, in tokens and, where the server knows prices, in dollars. */
function Cost({ session, project }: { session: Session; project: Project }) {
  const { prices, remaining } = session.server.value;
  const expected = session.expected(project);
  const left = remaining === undefined ? '' : ` ${dollars(remaining)} is left of the server's budget.`;
  if (!expected?.tokens) return <>known once estimated.{left}</>;
  const most = prices ? dollarsOf(expected.tokens, prices).high : 0;
  return (
    <>
      {costWords(expected.tokens, prices)}
      <span class="quiet small block">
        for {countWords(expected.reviews)} reviews.{!prices && ' The server knows no prices.'}
        {left}
      </span>
      {remaining !== undefined && most > remaining && <span class="small block short">The budget may not be enough. Rows that it does not cover wait for you.</span>}
    </>
  );
}

function leaves(session: Session, project: Project): string {
  if (project.reviewTo === 'never') return 'nothing in this run';
  const parts = [
    ...(project.reviewTo === 'llm' ? [`the hard rows${project.audit ? ` and ${percent(project.audit, 1, 0)} of the others` : ''}, redacted, to the LLM, when you agree`] : []),
    ...(project.handIn && session.handingIn.offered ? ['the reviewed rows, redacted, to the server, which keeps them'] : []),
  ];
  return parts.length === 0 ? 'nothing' : parts.join('; ');
}

function Models({ choice }: { choice: Choice }) {
  return (
    <ul class="models">
      {choice.slms.map((slm) => (
        <li key={slm.id}>
          {slm.id} <span class="quiet">{bytes(slm.bytes)}</span>
        </li>
      ))}
    </ul>
  );
}

const DEVICE_WORDS = { auto: 'Whatever is faster', cpu: 'CPU', gpu: 'GPU' };

/** What the models compute on, and why. */
function Devices({ session, project }: { session: Session; project: Project }) {
  const { found } = session.computing.value;
  const wanted = project.device ?? 'auto';
  return (
    <>
      <div class="devices" role="radiogroup" aria-labelledby="device-title">
        {(['auto', 'cpu', 'gpu'] as const).map((choice) => (
          <label key={choice}>
            <input
              type="radio"
              name="device"
              value={choice}
              checked={choice === wanted}
              disabled={session.measuring.value || (choice === 'gpu' && found?.name === undefined)}
              onChange={() => void session.chooseDevice(choice)}
            />
            {DEVICE_WORDS[choice]}
          </label>
        ))}
      </div>
      <ComputesOn session={session} />
    </>
  );
}

const PRECISION_WORDS = { int8: 'int8 (smaller, faster)', f32: 'f32 (reference)' };

/** Both precisions, each with what it takes. */
function Precisions({ session, choices, chosen, project }: { session: Session; choices: Choice[]; chosen: Choice; project: Project }) {
  return (
    <div class="precisions" role="radiogroup" aria-labelledby="precision-title">
      {choices.map((choice) => {
        const seconds = session.estimate(choice, project);
        return (
          <label key={choice.precision}>
            <input
              type="radio"
              name="precision"
              value={choice.precision}
              checked={choice.precision === chosen.precision}
              disabled={session.measuring.value}
              onChange={() => void session.choosePrecision(choice.precision)}
            />
            <span>
              {PRECISION_WORDS[choice.precision]}
              <span class="quiet small">
                {bytes(choice.total)}
                {choice.download === 0 ? ', on this device' : ''}, {seconds === undefined ? 'not timed yet' : `about ${duration(seconds)}`}
              </span>
            </span>
          </label>
        );
      })}
    </div>
  );
}

function Time({ session, choice, project }: { session: Session; choice: Choice; project: Project }) {
  const seconds = session.estimate(choice, project);
  if (seconds === undefined) return <>known once the models are here and measured</>;
  return <>about {duration(seconds)} on this device</>;
}
