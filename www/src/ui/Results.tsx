// All rows, filtered, in a virtualised table.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { type Columns, type Filter, SOURCES } from '../core/columns';
import { count } from '../core/estimate';
import { annotationOf } from '../core/results';
import type { Session } from '../core/session';
import { ACCEPTED, type Annotation, ASIDE, BLOCK, HARD, NONE, type Project, type Source } from '../core/types';
import { Chip, ReviewText, tone, VerdictText, Votes } from './parts';
import { useVirtual } from './virtual';

/** Rows a table shows at most: browsers cannot lay out an element much taller than this. */
const PAGE = 100_000;
const HEIGHT = 49;

interface Props {
  session: Session;
  project: Project;
  columns: Columns;
}

export function ResultsView({ session, project, columns }: Props) {
  const tick = session.tick.value;
  const [filter, setFilter] = useState<Filter>({});
  const [words, setWords] = useState('');
  const [page, setPage] = useState(0);
  const [open, setOpen] = useState<number | undefined>();
  const rows = useMemo(() => columns.filter(filter), [filter, tick, columns]);
  useSearch(session, words, setFilter);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const at = Math.min(page, pages - 1);
  const shown = pages === 1 ? rows : rows.subarray(at * PAGE, (at + 1) * PAGE);
  return (
    <section aria-label="Results">
      <Filters project={project} filter={filter} words={words} onFilter={setFilter} onWords={setWords} />
      <p class="quiet small" role="status">
        {count(rows.length)} of {count(columns.rows)} rows
      </p>
      {rows.length === 0 ? (
        <p class="card narrow center quiet">No row passes these filters.</p>
      ) : (
        <Table session={session} project={project} columns={columns} rows={shown} open={open} onOpen={setOpen} />
      )}
      {pages > 1 && (
        <div class="row center">
          <button type="button" disabled={at === 0} onClick={() => setPage(at - 1)}>
            Earlier rows
          </button>
          <span class="quiet">
            part {at + 1} of {pages}
          </span>
          <button type="button" disabled={at === pages - 1} onClick={() => setPage(at + 1)}>
            Later rows
          </button>
        </div>
      )}
    </section>
  );
}

function useSearch(session: Session, words: string, setFilter: (change: (filter: Filter) => Filter) => void): void {
  useEffect(() => {
    let current = true;
    const timer = setTimeout(async () => {
      if (words.trim() === '') {
        setFilter(({ found: _, ...rest }) => rest);
        return;
      }
      try {
        const found = await session.search(words.trim());
        if (current) setFilter((filter) => ({ ...filter, found }));
      } catch (error) {
        session.fail(error);
      }
    }, 200);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [words]);
}

interface FiltersProps {
  project: Project;
  filter: Filter;
  words: string;
  onFilter: (change: (filter: Filter) => Filter) => void;
  onWords: (words: string) => void;
}

function Filters({ project, filter, words, onFilter, onWords }: FiltersProps) {
  const set = <K extends keyof Filter>(key: K, value: Filter[K] | undefined) =>
    onFilter((before) => {
      const next = { ...before };
      if (value === undefined) delete next[key];
      else next[key] = value;
      return next;
    });
  return (
    <div class="filters" role="search">
      <label class="field grow">
        Search
        <input type="search" value={words} placeholder="words in the text" onInput={(event) => onWords(event.currentTarget.value)} />
      </label>
      <label class="field">
        Label
        <select value={String(filter.label ?? '')} onChange={({ currentTarget: { value } }) => set('label', value === '' ? undefined : value === 'none' ? 'none' : Number(value))}>
          <option value="">any</option>
          {project.labels.map((label, index) => (
            <option key={label} value={String(index)}>
              {label}
            </option>
          ))}
          <option value="none">no label</option>
        </select>
      </label>
      <label class="field">
        Verdict
        <select value={filter.verdict ?? ''} onChange={({ currentTarget: { value } }) => set('verdict', (value || undefined) as Filter['verdict'])}>
          <option value="">any</option>
          <option value="accepted">accepted</option>
          <option value="hard">hard</option>
          <option value="set-aside">set aside</option>
          <option value="pending">not yet voted</option>
        </select>
      </label>
      <label class="field">
        Votes
        <select value={filter.votes ?? ''} onChange={({ currentTarget: { value } }) => set('votes', (value || undefined) as Filter['votes'])}>
          <option value="">any</option>
          <option value="differ">models differ</option>
          <option value="agree">models agree</option>
        </select>
      </label>
      <label class="field">
        Source
        <select value={filter.source ?? ''} onChange={({ currentTarget: { value } }) => set('source', (value || undefined) as Source | undefined)}>
          <option value="">any</option>
          <option value="consensus">consensus</option>
          <option value="llm">LLM</option>
          <option value="human">you</option>
        </select>
      </label>
    </div>
  );
}

interface TableProps extends Props {
  rows: Uint32Array;
  open: number | undefined;
  onOpen: (row: number | undefined) => void;
}

function Table({ session, project, columns, rows, open, onOpen }: TableProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtual(rows.length, scroller, HEIGHT);
  const items = virtual.getVirtualItems();
  return (
    <div ref={scroller} class="table" role="table" aria-label="Rows" aria-rowcount={rows.length + 1} tabIndex={0}>
      <div role="rowgroup" class="table-head">
        <div class="tr th" role="row" aria-rowindex={1}>
          <span role="columnheader">Row</span>
          <span role="columnheader">Text</span>
          <span role="columnheader">Votes</span>
          <span role="columnheader">Label</span>
          <span role="columnheader">Source</span>
        </div>
      </div>
      <div class="sizer" role="rowgroup" style={{ height: `${virtual.getTotalSize()}px` }}>
          {items.map((item) => {
            const row = rows[item.index] ?? 0;
            return (
              <div key={row} data-index={item.index} ref={(element) => {
                  if (element) virtual.measureElement(element);
                }} class="item" style={{ transform: `translateY(${item.start}px)` }}>
                <Line session={session} project={project} columns={columns} row={row} index={item.index} open={open === row} onOpen={onOpen} />
              </div>
            );
          })}
      </div>
    </div>
  );
}

interface LineProps extends Props {
  row: number;
  index: number;
  open: boolean;
  onOpen: (row: number | undefined) => void;
}

function Line({ session, project, columns, row, index, open, onOpen }: LineProps) {
  void session.tick.value;
  const text = useText(session, row);
  const label = columns.label[row] ?? NONE;
  const verdict = columns.verdict[row];
  const source = SOURCES[columns.source[row] ?? 0];
  return (
    <>
      <div class={`tr ${open ? 'open' : ''}`} role="row" aria-rowindex={index + 2}>
        <span role="cell" class="cell-id">
          <button type="button" class="plain expand" aria-expanded={open} aria-label={`Votes of row ${row + 1}`} onClick={() => onOpen(open ? undefined : row)}>
            <span aria-hidden="true">{open ? '▾' : '▸'}</span> {row + 1}
          </button>
        </span>
        <span role="cell" class="cell-text" dir="auto" title={text} onClick={() => onOpen(open ? undefined : row)}>
          {text ?? '…'}
        </span>
        <span role="cell" class="cell-votes">
          <Dots project={project} columns={columns} row={row} />
        </span>
        <span role="cell" class="cell-label">
          {label !== NONE ? <Chip label={project.labels[label] ?? null} labels={project.labels} /> : <State verdict={verdict} />}
        </span>
        <span role="cell" class="cell-source">
          {source === 'human' ? 'you' : source === 'llm' ? 'LLM' : (source ?? '')}
        </span>
      </div>
      {open && (
        <div role="row">
          <div role="cell" aria-colspan={5}>
            <Detail session={session} project={project} columns={columns} row={row} />
          </div>
        </div>
      )}
    </>
  );
}

function State({ verdict }: { verdict: number | undefined }) {
  if (verdict === HARD) return <span class="chip chip-hard">hard</span>;
  if (verdict === ASIDE) return <span class="chip chip-none">set aside</span>;
  return <span class="quiet small">waiting</span>;
}

/** The votes at a glance: a letter for each model's label. */
function Dots({ project, columns, row }: { project: Project; columns: Columns; row: number }) {
  if (columns.verdict[row] === ASIDE || (columns.votes[row * columns.k] ?? NONE) === NONE) return null;
  const names = project.slms.map((_, slm) => project.labels[columns.votes[row * columns.k + slm] ?? NONE] ?? '?');
  return (
    <span class="dots">
      <span class="sr-only">{names.join(', ')}</span>
      {names.map((name, slm) => (
        <span key={slm} class={`dot ${tone(name, project.labels)}`} aria-hidden="true" title={`${project.slms[slm]?.id}: ${name}`}>
          {glyph(name)}
        </span>
      ))}
    </span>
  );
}

/** A sign a label, so that colour is never alone. */
function glyph(label: string): string {
  const known: Record<string, string> = { negative: '−', neutral: '○', positive: '+', toxic: '!', 'non-toxic': '✓' };
  return known[label] ?? label.charAt(0).toUpperCase();
}

function useText(session: Session, row: number): string | undefined {
  const [text, setText] = useState<{ row: number; text: string } | undefined>();
  useEffect(() => {
    let current = true;
    void session.row(row).then((found) => current && setText({ row, text: found?.text ?? '' }));
    return () => {
      current = false;
    };
  }, [row]);
  return text?.row === row ? text.text : undefined;
}

function Detail({ session, project, columns, row }: Props & { row: number }) {
  const [found, setFound] = useState<Annotation | undefined>();
  const tick = session.tick.value;
  useEffect(() => {
    let current = true;
    const block = Math.floor(row / BLOCK);
    void Promise.all([session.row(row), session.resultBlock(block), session.review(row)]).then(([cells, result, review]) => {
      if (current && cells && result) setFound(annotationOf(cells, result, row % BLOCK, review, project.slms, project.labels));
    });
    return () => {
      current = false;
    };
  }, [row, tick]);
  const voted = columns.verdict[row] === ACCEPTED || columns.verdict[row] === HARD;
  if (!found) return <div class="detail quiet">{voted ? '…' : 'The models have not voted on this row yet.'}</div>;
  return (
    <div class="detail">
      <p class="detail-text" dir="auto">{found.sample.text}</p>
      <p class="quiet">
        <VerdictText verdict={found.verdict} />
        {found.review && (
          <>
            ; reviewed: <ReviewText review={found.review} />
          </>
        )}
      </p>
      <Votes votes={found.votes} labels={project.labels} />
      {voted && (
        <div class="row" role="group" aria-label={`Set the label of row ${row + 1}`}>
          <span class="quiet">Set the label:</span>
          {project.labels.map((label) => (
            <button type="button" key={label} class="small-button" aria-pressed={found.label === label} onClick={() => void session.reviewing.decide(row, label).catch((error: unknown) => session.fail(error))}>
              {label}
            </button>
          ))}
          {session.reviewing.undoable.value > 0 && (
            <button type="button" class="small-button" onClick={() => void session.reviewing.undo()}>
              Undo the last
            </button>
          )}
        </div>
      )}
    </div>
  );
}
