// The page: texts in, votes and hard samples on the screen, labelled rows out.
import type { Annotation, Progress } from 'autoannotator/worker';
import { $, make, many } from './dom.js';
import { begin, keeps, kept, note } from './keep.js';
import { names, project, reviewUrl } from './project.js';
import { likely, readFile, readLines, type Table } from './read.js';
import { Run } from './run.js';
import { chip, reason, row, votes } from './views.js';
import { csv, jsonl, save } from './write.js';

const PIECE = 50;

let table: Table | undefined;
let run: Run | undefined;
/** The row that the review shows. */
let shown: number | undefined;
/** Rows of the list that are shown. */
let length = PIECE;
/** Decisions that no export has. */
let unsaved = false;
/** Whether they survive a reload all the same. */
let safe = false;
let drawing = false;

// --- what went wrong, and what is read out

function problem(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  $('problem-text').textContent = message;
  $<'div'>('problem').hidden = false;
}

function say(text: string): void {
  $('status').textContent = text;
}

$<'button'>('problem-close').addEventListener('click', () => {
  $<'div'>('problem').hidden = true;
});

// --- texts in

async function take(reading: () => Table | Promise<Table>): Promise<void> {
  try {
    const read = await reading();
    if (read.rows.length === 0) throw new Error('There is no text yet: paste some, one a line.');
    $<'div'>('problem').hidden = true;
    ready(read);
    if (read.note) problem(read.note);
  } catch (error) {
    problem(error);
  }
}

function ready(read: Table): void {
  table = read;
  const select = $<'select'>('column');
  select.replaceChildren(...read.columns.map((name, at) => make('option', { value: String(at) }, name || `column ${at + 1}`)));
  select.value = String(likely(read));
  $('column-row').hidden = read.columns.length < 2;
  first();
  $('ready-title').textContent = `${many(read.rows.length, 'text')} from ${read.name}`;
  $<'button'>('start').textContent = `Label ${many(read.rows.length, 'text')}`;
  show('ready');
  $('ready-title').focus();
}

function first(): void {
  const column = Number($<'select'>('column').value);
  const text = table?.rows.map((cells) => cells[column] ?? '').find((cell) => cell.trim() !== '');
  $('first').textContent = text ?? 'This column is empty.';
}

const drop = $<'div'>('drop');
for (const name of ['dragenter', 'dragover']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
}
document.addEventListener('dragleave', (event) => {
  if (event.relatedTarget === null) drop.classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  const file = event.dataTransfer?.files[0];
  if (!file) return;
  if ($<'section'>('input').hidden) problem('Texts are here already: choose Other texts first.');
  else void take(() => readFile(file));
});
$<'input'>('file').addEventListener('change', (event) => {
  const input = event.currentTarget as HTMLInputElement;
  const file = input.files?.[0];
  if (file) void take(() => readFile(file));
  input.value = '';
});
$<'button'>('use').addEventListener('click', () => void take(() => readLines('what you pasted', $<'textarea'>('paste').value)));
$<'select'>('column').addEventListener('change', first);

// --- the run

/** Shows either where texts come in, or what is about to be done, or what is being done. */
function show(part: 'input' | 'ready' | 'run'): void {
  for (const id of ['input', 'ready', 'run'] as const) $<'section'>(id).hidden = id !== part;
  for (const id of ['review', 'results'] as const) if (part !== 'run') $<'section'>(id).hidden = true;
}

function progress({ status, loaded, total }: Progress): void {
  const bar = $<'progress'>('bar');
  bar.max = total;
  bar.value = loaded;
  const mib = (bytes: number) => Math.round(bytes / 2 ** 20);
  if (status === 'download') $('run-title').textContent = `Loading the models, ${mib(loaded)} of ${mib(total)} MiB`;
}

/** From now on nothing is promised to survive a reload. */
function lost(): void {
  if (!safe) return;
  safe = false;
  $('where').textContent = 'This browser keeps nothing more: export before you close the tab.';
}

const told = {
  progress,
  note: (row: number, annotation: Annotation) => note(row, annotation, lost),
  changed: draw,
  reviewError: (error: Error) => problem(`The reviewer did not answer, so its texts stay for you. ${error.message}`),
};

async function start(): Promise<void> {
  if (!run && table) {
    run = new Run(table, Number($<'select'>('column').value), told);
    await begin(run.table, run.column).catch(lost);
  }
  if (!run) return;
  const running = run;
  const send = $<'input'>('send').checked;
  if (send) $('promise').textContent = `Texts on which they disagree go, redacted, to ${reviewUrl}.`;
  $('run-title').textContent = 'Loading the models';
  show('run');
  $('run-title').focus();
  try {
    const whole = await running.start($<'input'>('token').value || undefined, send);
    if (run !== running) return;
    const { agreed, open } = running.counts;
    say(whole ? `Done: the models agree on ${many(agreed, 'text')}, ${open.toLocaleString('en')} to review.` : 'Stopped.');
  } catch (error) {
    problem(error);
  }
}

$<'button'>('start').addEventListener('click', () => void start());
$<'button'>('stop').addEventListener('click', () => {
  if (run && run.phase !== 'idle') run.stop();
  else void start();
});
for (const id of ['other', 'leave']) $<'button'>(id).addEventListener('click', other);

function other(): void {
  if (unsaved && !confirm('Your reviews are not exported yet. Go on without them?')) return;
  run?.end();
  run = undefined;
  table = undefined;
  shown = undefined;
  unsaved = false;
  length = PIECE;
  listed = [];
  void begin().catch(() => undefined);
  $('models').textContent = '';
  $<'textarea'>('paste').value = '';
  show('input');
  $<'input'>('file').focus();
}

addEventListener('beforeunload', (event) => {
  if (unsaved && !safe) event.preventDefault();
});

// --- drawing: at most once a frame

function draw(): void {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!run) return;
    drawRun(run);
    drawReview(run);
    drawResults(run);
  });
}

function drawRun({ phase, counts, total, models }: Run): void {
  const whole = counts.done === total;
  const some = `${counts.done.toLocaleString('en')} of ${many(total, 'text')}`;
  if (phase === 'running') $('run-title').textContent = `Voting, ${some}`;
  else if (phase === 'idle') $('run-title').textContent = whole ? `The models have voted on ${many(total, 'text')}` : counts.done > 0 ? `Stopped after ${some}` : `No vote yet on ${many(total, 'text')}`;
  if (phase !== 'loading') {
    $<'progress'>('bar').max = total;
    $<'progress'>('bar').value = counts.done;
  }
  const stop = $<'button'>('stop');
  stop.textContent = phase === 'idle' ? 'Go on' : 'Stop';
  if (whole && stop === document.activeElement) $('run-title').focus();
  stop.hidden = whole;
  $<'button'>('leave').hidden = phase !== 'idle';
  for (const name of ['agreed', 'open', 'reviewed', 'aside'] as const) $(name).textContent = counts[name].toLocaleString('en');
  $('models').textContent = models;
}

function drawReview(run: Run): void {
  const section = $<'section'>('review');
  const { next, undoable, phase } = run;
  const over = next === undefined && !undoable;
  const focused = section.contains(document.activeElement);
  section.hidden = over;
  if (over) return;
  $('review-title').textContent = next === undefined ? (phase === 'idle' ? 'Review: all done' : 'Review: nothing to review yet') : `Review: ${run.counts.open.toLocaleString('en')} to go`;
  $<'button'>('undo').disabled = !undoable;
  $<'button'>('skip').disabled = run.counts.open < 2;
  $<'div'>('choices').hidden = next === undefined;
  if (next === shown) return;
  shown = next;
  const annotation = next === undefined ? undefined : run.annotations[next];
  $('why').textContent = next === undefined || !annotation ? '' : `Text ${next + 1}, ${reason(annotation)}`;
  $('sample').textContent = next === undefined ? 'No text waits for you. Export the labelled texts below.' : run.text(next);
  $<'div'>('votes').replaceChildren(...(annotation ? [votes(annotation.votes)] : []));
  // A button that is disabled or gone takes the focus with it.
  if (focused && !section.contains(document.activeElement)) section.focus();
}

const FILTERS: [string, (annotation: Annotation) => boolean][] = [
  ['all texts', () => true],
  ['to review', ({ verdict, label }) => verdict.status === 'hard' && label === null],
  ['reviewed', ({ verdict, label }) => verdict.status === 'hard' && label !== null],
  ['set aside', ({ verdict }) => verdict.status === 'set-aside'],
  ...names.map((name): [string, (annotation: Annotation) => boolean] => [`labelled ${name}`, ({ label }) => label === name]),
];

/** The annotations that the list shows, so that it is only made anew where they are others. */
let listed: (Annotation | undefined)[] = [];

function drawResults(run: Run): void {
  $<'section'>('results').hidden = run.counts.done === 0;
  if (run.counts.done === 0) return;
  const [, wanted] = FILTERS[Number($<'select'>('filter').value)] ?? (FILTERS[0] as (typeof FILTERS)[number]);
  const found: number[] = [];
  let more = false;
  for (let at = 0; at < run.total && !more; at++) {
    const annotation = run.annotations[at];
    if (!annotation || !wanted(annotation)) continue;
    if (found.length === length) more = true;
    else found.push(at);
  }
  $<'button'>('more').hidden = !more;
  const now = found.map((at) => run.annotations[at]);
  if (now.length > 0 && now.length === listed.length && now.every((annotation, at) => annotation === listed[at])) return;
  listed = now;
  const items = found.map((at) => row(at + 1, run.text(at), run.annotations[at] as Annotation));
  $<'ol'>('list').replaceChildren(...(items.length > 0 ? items : [make('li', { class: 'quiet' }, 'There are none.')]));
}

$<'select'>('filter').append(...FILTERS.map(([name], at) => make('option', { value: String(at) }, name)));
$<'select'>('filter').addEventListener('change', () => {
  length = PIECE;
  draw();
});
$<'button'>('more').addEventListener('click', () => {
  length += PIECE;
  draw();
});

// --- review

function decide(label: string): void {
  if (!run || run.next === undefined || run.next !== shown) return;
  say(`Text ${run.next + 1}: ${label}.`);
  unsaved = true;
  run.decide(label);
}

function skip(): void {
  if (run?.next === undefined || run.counts.open < 2) return;
  say(`Text ${run.next + 1} put off.`);
  run.skip();
}

function undo(): void {
  const back = run?.undo();
  if (back !== undefined) say(`Text ${back + 1}: label taken back.`);
}

project.labels.forEach(({ name, definition }, at) => {
  const key = at < 9 ? String(at + 1) : undefined;
  const button = make('button', { type: 'button', class: 'choice', 'data-tone': String(at % 6), ...(key ? { 'aria-keyshortcuts': key } : {}) });
  button.append(...(key ? [make('kbd', {}, key), ' '] : []), make('bdi', {}, name));
  if (definition) button.append(make('span', { class: 'definition', dir: 'auto' }, definition));
  button.addEventListener('click', () => decide(name));
  $<'div'>('choices').append(button);
  $<'ul'>('labels').append(make('li', {}, chip(name)));
});
$<'button'>('skip').addEventListener('click', skip);
$<'button'>('undo').addEventListener('click', undo);
$<'section'>('review').addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const label = /^[1-9]$/.test(event.key) ? names[Number(event.key) - 1] : undefined;
  if (label !== undefined) decide(label);
  else if (event.key.toLowerCase() === 's') skip();
  else if (event.key.toLowerCase() === 'u') undo();
  else return;
  event.preventDefault();
});

// --- texts out

function exported(write: typeof csv, ending: string, type: string): void {
  if (!run) return;
  const name = run.table.name.includes('.') ? run.table.name.replace(/\.[^.]*$/, '') : 'texts';
  save(`${name}.labelled.${ending}`, type, write(run.table, run.annotations));
  unsaved = false;
}

$<'button'>('csv').addEventListener('click', () => exported(csv, 'csv', 'text/csv'));
$<'button'>('jsonl').addEventListener('click', () => exported(jsonl, 'jsonl', 'application/jsonl'));
$<'button'>(project.spec.export.format).classList.add('primary');
if (reviewUrl) {
  $<'fieldset'>('sending').hidden = false;
  $('review-url').textContent = reviewUrl;
  $('promise').textContent = 'No text leaves this device unless you say so.';
}

// --- what an earlier visit left

safe = await keeps;
const before = await kept().catch(() => undefined);
if (before && !run && !table) {
  table = before.table;
  run = new Run(before.table, before.column, told, before.annotations);
  unsaved = run.counts.reviewed > 0;
  show('run');
  draw();
}
if (safe) $('where').textContent = 'Texts are kept in this browser until you choose other ones.';
