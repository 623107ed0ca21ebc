import { useEffect, useRef } from 'preact/hooks';
import type { Session } from '../core/session';
import { bytes, count } from '../core/estimate';
import { Empty } from './Empty';
import { Notices } from './parts';
import { PlanView } from './Plan';
import { Work } from './Work';

export function App({ session }: { session: Session }) {
  const phase = session.phase.value;
  useDrop(session);
  return (
    <>
      <a class="skip-link" href="#main">
        Skip to content
      </a>
      <Top session={session} />
      <main id="main" tabIndex={-1}>
        <Notices session={session} />
        {phase === 'starting' && <p class="quiet center">Opening…</p>}
        {phase === 'elsewhere' && <Elsewhere />}
        {phase === 'empty' && <Empty session={session} />}
        {phase === 'importing' && <Importing session={session} />}
        {phase === 'plan' && <PlanView session={session} />}
        {phase === 'work' && <Work session={session} />}
      </main>
    </>
  );
}

function Top({ session }: { session: Session }) {
  const project = session.project.value;
  const words: Record<string, string> = { ready: 'ready', running: 'running', paused: 'paused', done: 'all voted', cancelled: 'stopped' };
  return (
    <header class="top">
      <div class="brand">
        <img src="/icon.svg" alt="" width="26" height="26" />
        <span>autoannotator</span>
      </div>
      {project && session.phase.value !== 'importing' && (
        <>
          <div class="file">
            <span class="file-name" title={project.name}>
              {project.name}
            </span>
            <span class={`pill ${project.state}`} role="status">
              {words[project.state]}
            </span>
          </div>
          <div class="top-actions">
            {session.phase.value === 'work' && <Export session={session} />}
            <NewFile session={session} />
          </div>
        </>
      )}
    </header>
  );
}

function Export({ session }: { session: Session }) {
  const busy = session.exporting.value;
  return (
    <div class="export" role="group" aria-label="Export the labelled file">
      <span class="export-word" aria-hidden="true">
        Export
      </span>
      <button type="button" disabled={busy} aria-label="Export CSV" onClick={() => void session.export('csv')}>
        CSV
      </button>
      <button type="button" disabled={busy} aria-label="Export JSONL" onClick={() => void session.export('jsonl')}>
        JSONL
      </button>
    </div>
  );
}

function NewFile({ session }: { session: Session }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const untouched = session.project.value?.state === 'ready';
  return (
    <>
      <button type="button" onClick={() => (untouched ? void session.close() : dialog.current?.showModal())}>
        New file
      </button>
      <dialog ref={dialog} aria-labelledby="close-title">
        <h2 id="close-title">Close this file?</h2>
        <p>Its votes and reviews are deleted from this browser. Export first if you want to keep them.</p>
        <div class="row">
          <button type="button" class="danger" onClick={() => {
            dialog.current?.close();
            void session.close();
          }}>
            Delete and open another
          </button>
          <button type="button" onClick={() => dialog.current?.close()}>
            Keep working
          </button>
        </div>
      </dialog>
    </>
  );
}

function Importing({ session }: { session: Session }) {
  const { name, bytes: here, total, rows } = session.importing.value;
  return (
    <section class="card narrow" aria-labelledby="reading">
      <h1 id="reading">Reading {name}</h1>
      <progress value={here} max={Math.max(1, total)} aria-label="Bytes read" />
      <p class="quiet">
        {count(rows)} rows, {bytes(here)} of {bytes(total)}. The file stays on this device.
      </p>
    </section>
  );
}

function Elsewhere() {
  return (
    <section class="card narrow">
      <h1>Open in another tab</h1>
      <p>The page is already open in another tab of this browser, and two would write over each other. Go on there, or close it: this one then takes over.</p>
    </section>
  );
}

/** A file dropped or a text pasted anywhere opens it, while nothing would be lost by that. */
function useDrop(session: Session): void {
  useEffect(() => {
    const free = () => session.phase.value === 'empty';
    const over = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes('Files')) return;
      event.preventDefault();
      document.body.classList.toggle('dropping', free());
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) document.body.classList.remove('dropping');
    };
    const drop = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes('Files')) return;
      event.preventDefault();
      document.body.classList.remove('dropping');
      const file = event.dataTransfer.files[0];
      if (file && free()) void session.openFile(file);
      else if (file) session.notify({ code: 'drop-busy', kind: 'warn', text: 'A file is open already. Press "New file" first, then drop the other one.' });
    };
    const paste = (event: ClipboardEvent) => {
      if (!free() || !event.clipboardData) return;
      const file = event.clipboardData.files[0];
      const text = event.clipboardData.getData('text/plain');
      if (file) void session.openFile(file);
      else if (text.trim() !== '') void session.openFile(new File([text], pastedName(text), { type: 'text/plain' }));
      else return;
      event.preventDefault();
    };
    window.addEventListener('dragover', over);
    window.addEventListener('dragleave', leave);
    window.addEventListener('drop', drop);
    window.addEventListener('paste', paste);
    return () => {
      window.removeEventListener('dragover', over);
      window.removeEventListener('dragleave', leave);
      window.removeEventListener('drop', drop);
      window.removeEventListener('paste', paste);
    };
  }, [session]);
}

/** A name whose ending tells what was pasted: cells of a spreadsheet come with tabs, JSON lines with braces. */
export function pastedName(text: string): string {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== '');
  if (lines.every((line) => line.trimStart().startsWith('{'))) return 'pasted.jsonl';
  if (lines.length > 1 && lines.every((line) => line.includes('\t'))) return 'pasted.tsv';
  return 'pasted.txt';
}
