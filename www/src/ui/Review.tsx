// The hard queue, by keyboard.
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Columns } from '../core/columns';
import { count } from '../core/estimate';
import { votesOf } from '../core/results';
import type { Session } from '../core/session';
import { BLOCK, type Project, type Review, type Vote } from '../core/types';
import { keysOf } from './keys';
import { Chip, Placeholders, ReviewText, tone, Votes } from './parts';

interface Shown {
  row: number;
  id: string;
  text: string;
  sent: string;
  votes: Vote[];
  why: string;
  review: Review | undefined;
}

interface Props {
  session: Session;
  project: Project;
  columns: Columns;
}

export function ReviewView({ session, project, columns }: Props) {
  void session.tick.value;
  const reviewing = session.reviewing;
  const [row, setRow] = useState<number | undefined>(() => reviewing.next(columns, -1));
  const [shown, setShown] = useState<Shown | undefined>();
  const [redacted, setRedacted] = useState(false);
  const [said, setSaid] = useState('');
  const help = useRef<HTMLDialogElement>(null);
  const keys = keysOf(project.labels);
  const waiting = reviewing.count(columns);

  // A row that the LLM or another view decided meanwhile makes room for the next.
  useEffect(() => {
    if (row === undefined || !columns.isOpen(row)) setRow(reviewing.next(columns, row ?? -1));
  }, [session.tick.value]);

  useEffect(() => {
    let current = true;
    if (row === undefined) setShown(undefined);
    else void look(session, project, row).then((found) => current && setShown(found));
    return () => {
      current = false;
    };
  }, [row]);

  const decide = async (label: string) => {
    if (row === undefined || shown?.row !== row) return;
    const number = shown.id;
    try {
      await reviewing.decide(row, label);
      setSaid(`Row ${number}: ${label}.`);
      setRow(reviewing.next(columns, row));
    } catch (error) {
      session.fail(error);
    }
  };
  const skip = () => {
    if (row === undefined) return;
    reviewing.skip(row);
    setSaid(`Row ${shown?.id ?? ''} put off.`);
    setRow(reviewing.next(columns, row));
  };
  const undo = async () => {
    const back = await reviewing.undo();
    if (back === undefined) return;
    setSaid(`Row ${back + 1}: label taken back.`);
    setRow(back);
  };

  // As soon as a row is shown, not after it was painted: a key pressed in between would be lost.
  useLayoutEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || help.current?.open) return;
      const target = event.target as HTMLElement;
      if (target.closest('input:not([type=checkbox]), select, textarea, dialog')) return;
      const key = event.key.toLowerCase();
      const label = keys.find((entry) => entry.keys.includes(key))?.label;
      if (label !== undefined) void decide(label);
      else if (key === 'u') void undo();
      else if (key === 's') skip();
      else if (key === 'r') setRedacted((on) => !on);
      else if (event.key === '?') help.current?.showModal();
      else return;
      event.preventDefault();
    };
    window.addEventListener('keydown', onKey);
    return () => window.removeEventListener('keydown', onKey);
  });

  const done = columns.reviewed;
  return (
    <section class="review" aria-label="Review">
      <div class="review-head">
        <p>
          <strong>{count(waiting)}</strong> to review, {count(done)} of {count(columns.byVerdict[2] ?? 0)} hard rows decided
        </p>
        <button type="button" onClick={() => help.current?.showModal()}>
          Keys <kbd>?</kbd>
        </button>
      </div>
      <progress value={done} max={Math.max(1, columns.byVerdict[2] ?? 1)} aria-label="Hard rows decided" />
      <p class="sr-only" aria-live="assertive">
        {said}
      </p>
      {shown && shown.row === row ? (
        <article class="card sample" aria-label={`Row ${shown.id}`}>
          <div class="sample-head">
            <span class="quiet">Row {shown.id}, {columns.isAudited(shown.row) ? 'to be checked' : shown.why}</span>
            <label class="toggle">
              <input type="checkbox" checked={redacted} onChange={() => setRedacted(!redacted)} /> as an LLM would see it <kbd>R</kbd>
            </label>
          </div>
          <p class="sample-text" dir="auto">
            {redacted ? <Placeholders text={shown.sent} /> : shown.text}
          </p>
          <div class="labels" role="group" aria-label="Labels">
            {keys.map(({ label, keys: [first] }) => (
              <button type="button" key={label} class={`label ${tone(label, project.labels)}`} aria-keyshortcuts={first} onClick={() => void decide(label)}>
                <kbd>{first?.toUpperCase()}</kbd> {label}
              </button>
            ))}
          </div>
          <div class="row">
            <button type="button" aria-keyshortcuts="s" onClick={skip}>
              Skip <kbd>S</kbd>
            </button>
            <button type="button" aria-keyshortcuts="u" disabled={reviewing.undoable.value === 0} onClick={() => void undo()}>
              Undo <kbd>U</kbd>
            </button>
          </div>
          {shown.review && (
            <p class="quiet">
              The LLM was asked: <ReviewText review={shown.review} />
            </p>
          )}
          {columns.isAudited(shown.row) ? (
            <p class="quiet">The models agree on this row. What they say is hidden, so that you judge for yourself.</p>
          ) : (
            <Votes votes={shown.votes} labels={project.labels} />
          )}
        </article>
      ) : (
        <Nothing session={session} project={project} columns={columns} loading={row !== undefined} onUndo={() => void undo()} />
      )}
      <Help dialog={help} keys={keys} labels={project.labels} />
    </section>
  );
}

function Nothing({ session, project, columns, loading, onUndo }: Props & { loading: boolean; onUndo: () => void }) {
  void session.tick.value;
  if (loading) return <p class="quiet center">…</p>;
  const running = project.state === 'running';
  return (
    <div class="card narrow center">
      <h2>{columns.waiting > 0 ? 'The LLM is at it' : running ? 'Nothing to review yet' : 'All done'}</h2>
      <p class="quiet">
        {columns.waiting > 0
          ? `${count(columns.waiting)} rows wait for the LLM. What it cannot label comes here.`
          : running
            ? 'Hard rows appear here as the models vote.'
            : 'No hard row is left. Export the labelled file from the top of the page.'}
      </p>
      {session.reviewing.undoable.value > 0 && (
        <button type="button" onClick={onUndo}>
          Undo the last label <kbd>U</kbd>
        </button>
      )}
    </div>
  );
}

function Help({ dialog, keys, labels }: { dialog: { current: HTMLDialogElement | null }; keys: { label: string; keys: string[] }[]; labels: string[] }) {
  return (
    <dialog ref={dialog} aria-labelledby="keys-title">
      <h2 id="keys-title">Keys</h2>
      <table class="keys">
        <tbody>
          {keys.map((entry) => (
            <tr key={entry.label}>
              <th scope="row">
                {entry.keys.map((key) => (
                  <kbd key={key}>{key.toUpperCase()}</kbd>
                ))}
              </th>
              <td>
                <Chip label={entry.label} labels={labels} />
              </td>
            </tr>
          ))}
          <tr><th scope="row"><kbd>S</kbd></th><td>skip, it comes back at the end</td></tr>
          <tr><th scope="row"><kbd>U</kbd></th><td>undo the last label</td></tr>
          <tr><th scope="row"><kbd>R</kbd></th><td>show the text as an LLM would see it</td></tr>
          <tr><th scope="row"><kbd>?</kbd></th><td>this list</td></tr>
        </tbody>
      </table>
      <button type="button" class="primary" onClick={() => dialog.current?.close()}>
        Close
      </button>
    </dialog>
  );
}

async function look(session: Session, project: Project, row: number): Promise<Shown | undefined> {
  const block = Math.floor(row / BLOCK);
  const place = row % BLOCK;
  const [stored, result, reviews] = await Promise.all([session.row(row), session.resultBlock(block), session.review(row)]);
  if (!stored) return undefined;
  const sent = (await session.redact([stored.text]))[0]?.text ?? '';
  const votes = result ? votesOf(result, place, project.slms, project.labels) : [];
  return { row, id: stored.id, text: stored.text, sent, votes, why: split(votes, project.labels), review: reviews };
}

/** How the votes fell, such as "2 positive, 1 neutral". */
function split(votes: Vote[], labels: string[]): string {
  const counts = labels.map((label) => votes.filter((vote) => vote.label === label).length);
  const words = labels.flatMap((label, index) => ((counts[index] ?? 0) > 0 ? [[counts[index] ?? 0, label] as const] : []));
  return words.sort((a, b) => b[0] - a[0]).map(([many, label]) => `${many} ${label}`).join(', ') || 'no votes';
}
