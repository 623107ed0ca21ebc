// What is about to leave the device, and what did.
import { useEffect, useRef, useState } from 'preact/hooks';
import { type Columns, SOURCES } from '../core/columns';
import { db } from '../core/db';
import { count, dollars, duration } from '../core/estimate';
import { costWords } from '../core/money';
import { countPlaceholders } from '../core/placeholders';
import { messageOf } from '../core/rpc';
import type { Session } from '../core/session';
import { type Departure, type Item, NONE, type Project } from '../core/types';
import { Chip, Placeholders } from './parts';

/** Texts shown at once. */
const PAGE = 50;

interface Props {
  session: Session;
  project: Project;
  columns: Columns;
}

/** What the LLM needs of the person, on every view: leave to send, patience, or money. */
export function SendBar({ session, project, columns }: Props) {
  void session.tick.value;
  if (project.reviewTo !== 'llm') return null;
  const { reviewing } = session;
  const { state, why, until } = reviewing.llm.value;
  const unsent = reviewing.unsent(columns);
  return (
    <>
      {state === 'waiting' && <Waiting why={why} until={until} />}
      {state === 'budget' && <Broke session={session} project={project} columns={columns} why={why} />}
      {unsent > 0 && (
        <section class="card next send-bar" aria-label="To be sent" data-unsent={unsent}>
          <p>
            <strong>
              {count(unsent)} {project.audit ? '' : 'hard '}
              {unsent === 1 ? 'row waits' : 'rows wait'} to be sent to {session.server.value.model ?? 'the LLM'}.
            </strong>{' '}
            None of them leaves this device before you have seen {unsent === 1 ? 'it' : 'them'}.
          </p>
          <button type="button" class="primary" onClick={() => (reviewing.looking.value = true)}>
            Look and send…
          </button>
        </section>
      )}
    </>
  );
}

/** The LLM asks for patience: how long it still is, and that nothing stands still meanwhile. */
function Waiting({ why, until }: { why: string; until: number }) {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => again((n) => n + 1), 250);
    return () => clearInterval(timer);
  }, []);
  const left = Math.max(0, (until - Date.now()) / 1000);
  return (
    <div class="notice warn send-bar" role="status" data-state="waiting">
      <p>
        <strong>
          The LLM asks to wait:{' '}
          <span role="timer" class="countdown">
            {left >= 1 ? duration(left) : 'now'}
          </span>
        </strong>{' '}
        ({why.replace(/[.]$/, '')}). It goes on by itself; you can decide these rows in Review meanwhile.
      </p>
    </div>
  );
}

/** The budget is used up. */
function Broke({ session, project, columns, why }: Props & { why: string }) {
  const { spent } = session.server.value;
  const left = columns.waiting;
  return (
    <div class="notice error send-bar" role="alert" data-state="budget">
      <div>
        <p>
          <strong>The budget is used up.</strong> This run spent {dollars(project.spend.cost_usd)}
          {spent !== undefined && `, the server ${dollars(spent)} in all`}. {left === 1 ? '1 row that is left waits' : `${count(left)} rows that are left wait`} for you in Review, or until the operator raises the budget.
        </p>
        <p class="small">The server says: {why.replace(/[.]$/, '')}.</p>
      </div>
      <div class="notice-actions">
        <button type="button" onClick={() => session.reviewing.retry()}>
          Try again
        </button>
      </div>
    </div>
  );
}

/** Every text that is about to be sent, exactly as it will be; nothing goes before the person says so. */
export function SendDialog({ session, project, columns }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { looking } = session.reviewing;
  const open = looking.value && project.reviewTo === 'llm';
  useEffect(() => {
    if (open) dialog.current?.showModal();
    else if (dialog.current?.open) {
      dialog.current.close();
      // What opened it may be gone with what was sent.
      if (document.activeElement === document.body) document.getElementById('main')?.focus();
    }
  }, [open]);
  return (
    <dialog ref={dialog} class="send" aria-labelledby="send-title" onClose={() => (looking.value = false)}>
      {open && <Look session={session} project={project} columns={columns} onClose={() => (looking.value = false)} />}
    </dialog>
  );
}

function Look({ session, project, columns, onClose }: Props & { onClose: () => void }) {
  const [items, setItems] = useState<Item[]>();
  const [freely, setFreely] = useState(false);
  useEffect(() => {
    session.reviewing.look(columns).then(setItems, (error: unknown) => {
      session.fail(error);
      onClose();
    });
  }, []);
  const model = session.server.value.model ?? 'the LLM';
  if (!items) return <p class="quiet">Bringing the texts…</p>;
  const send = async () => {
    try {
      await session.reviewing.send(items, freely);
      onClose();
    } catch (error) {
      session.fail(error);
      onClose();
    }
  };
  return (
    <>
      <h2 id="send-title">{items.length === 0 ? 'There is nothing to send' : `Send this to ${model}?`}</h2>
      {items.length > 0 && <Facts session={session} project={project} items={items} />}
      {items.length > 0 && <Texts items={items} />}
      {items.length > 0 && (
        <label class="toggle ask-again">
          <input type="checkbox" name="freely" checked={freely} onChange={() => setFreely(!freely)} />
          Do not ask again for this run: send rows that become hard later without showing them first
        </label>
      )}
      <div class="row">
        {items.length > 0 && (
          <button type="button" class="primary" onClick={() => void send()}>
            Send {items.length === 1 ? 'this text' : `these ${count(items.length)} texts`}
          </button>
        )}
        <button type="button" onClick={onClose}>
          Not now
        </button>
      </div>
    </>
  );
}

/** How many texts, what was replaced in them, and what they will take. */
function Facts({ session, project, items }: { session: Session; project: Project; items: Item[] }) {
  const { prices } = session.server.value;
  const texts = items.map((item) => item.text);
  const tokens = session.expectedFor(texts, project);
  const kinds = countPlaceholders(texts);
  return (
    <dl class="facts">
      <div>
        <dt>Texts</dt>
        <dd>{count(items.length)}, each with its row number, and nothing else of the file</dd>
      </div>
      <div>
        <dt>Replaced</dt>
        <dd data-kinds>
          {kinds.length === 0 ? (
            'nothing was found that could name a person'
          ) : (
            <ul class="kinds">
              {kinds.map(([kind, many]) => (
                <li key={kind}>
                  <mark>{kind}</mark> {count(many)}
                </li>
              ))}
            </ul>
          )}
        </dd>
      </div>
      {tokens && (
        <div>
          <dt>Takes</dt>
          <dd data-estimate="look">
            {costWords(tokens, prices)}
            {!prices && <span class="quiet">; the server knows no prices</span>}
          </dd>
        </div>
      )}
    </dl>
  );
}

/** Texts as they are sent, in a list that scrolls by itself. */
function Texts({ items }: { items: Item[] }) {
  const [page, setPage] = useState(0);
  const pages = Math.max(1, Math.ceil(items.length / PAGE));
  return (
    <div class="texts">
      <ul class="sent-rows scrolls" tabIndex={0} aria-label="Texts as they are sent">
        {items.slice(page * PAGE, (page + 1) * PAGE).map((item) => (
          <li key={item.row}>
            <code>{item.id}</code> <Placeholders text={item.text} />
          </li>
        ))}
      </ul>
      <Pager page={page} pages={pages} onPage={setPage} />
    </div>
  );
}

function Pager({ page, pages, onPage }: { page: number; pages: number; onPage: (page: number) => void }) {
  if (pages === 1) return null;
  return (
    <div class="row center pager">
      <button type="button" class="small-button" disabled={page === 0} onClick={() => onPage(page - 1)}>
        Earlier
      </button>
      <span class="quiet small">
        part {page + 1} of {pages}
      </span>
      <button type="button" class="small-button" disabled={page === pages - 1} onClick={() => onPage(page + 1)}>
        Later
      </button>
    </div>
  );
}

/** A text that left the device, with when and for what. */
interface Gone extends Item {
  at: number;
  to: Departure['to'];
}

/** Everything of the file that left the device, the newest first. */
export function SentView({ session, project, columns }: Props) {
  void session.tick.value;
  const [gone, setGone] = useState<Gone[]>();
  const [page, setPage] = useState(0);
  const departed = session.reviewing.departed.value;
  useEffect(() => {
    let current = true;
    bring().then(
      (found) => current && setGone(found),
      (error: unknown) => session.notify({ code: 'departures', kind: 'error', text: `What was sent cannot be read: ${messageOf(error)}.` }),
    );
    return () => {
      current = false;
    };
  }, [departed]);
  if (!gone) return <p class="quiet center">…</p>;
  if (gone.length === 0) {
    return (
      <div class="card narrow center">
        <h2>Nothing was sent</h2>
        <p class="quiet">{project.reviewTo === 'never' ? 'And nothing will be in this run.' : 'Texts that leave this device are listed here, with the time.'}</p>
      </div>
    );
  }
  const pages = Math.ceil(gone.length / PAGE);
  const at = Math.min(page, pages - 1);
  return (
    <section class="sent-view" aria-labelledby="gone-title">
      <h2 id="gone-title">{gone.length === 1 ? '1 text' : `${count(gone.length)} texts`} left this device</h2>
      <p class="quiet small">As they stand here, with their row numbers, and nothing else of the file. {project.reviewTo === 'never' ? 'All of it left before this run, which sends nothing.' : 'Starting over does not make them unsent.'}</p>
      <ul class="sent-rows gone">
        {gone.slice(at * PAGE, (at + 1) * PAGE).map((item) => (
          <li key={`${item.at} ${item.row} ${item.to}`}>
            <span class="gone-head quiet small">
              <time dateTime={new Date(item.at).toISOString()}>{new Date(item.at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })}</time>
              <span>
                row {item.id}, {item.to === 'llm' ? 'to the LLM' : 'to the server, for training'}
              </span>
              {item.to === 'llm' && <Outcome columns={columns} row={item.row} labels={project.labels} />}
            </span>
            <Placeholders text={item.text} />
          </li>
        ))}
      </ul>
      <Pager page={at} pages={pages} onPage={setPage} />
    </section>
  );
}

/** What came of a text that was sent to the LLM. */
function Outcome({ columns, row, labels }: { columns: Columns; row: number; labels: string[] }) {
  if (columns.llmFailed[row] === 1) return <Chip label={null} labels={labels} />;
  const label = columns.label[row] ?? NONE;
  return label === NONE || SOURCES[columns.source[row] ?? 0] !== 'llm' ? null : <Chip label={labels[label] ?? null} labels={labels} />;
}

async function bring(): Promise<Gone[]> {
  const departures = await (await db()).getAll('departures');
  return departures.reverse().flatMap(({ at, to, items }) => items.map((item) => ({ ...item, at, to })));
}
