import { useEffect, useRef, useState } from 'preact/hooks';
import { count, duration, percent } from '../core/estimate';
import type { Session } from '../core/session';
import type { Project } from '../core/types';
import { Overview } from './Overview';
import { ComputesOn } from './parts';
import { ResultsView } from './Results';
import { ReviewView } from './Review';
import { SendBar, SendDialog, SentView } from './Send';

const TABS = ['overview', 'review', 'results', 'sent'] as const;
type Tab = (typeof TABS)[number];

function tabOf(hash: string): Tab {
  const name = hash.replace('#', '');
  return TABS.find((tab) => tab === name) ?? 'overview';
}

export function Work({ session }: { session: Session }) {
  const [tab, setTab] = useState<Tab>(tabOf(location.hash));
  const strip = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const onHash = () => setTab(tabOf(location.hash));
    window.addEventListener('hashchange', onHash);
    return () => window.removeEventListener('hashchange', onHash);
  }, []);
  void session.tick.value;
  const project = session.project.value;
  const columns = session.columns.value;
  if (!project || !columns) return <p class="quiet center">Preparing the run…</p>;
  const waiting = session.reviewing.count(columns);
  const names: Record<Tab, string> = { overview: 'Overview', review: `Review (${count(waiting)})`, results: 'Results', sent: `Sent (${count(session.reviewing.departed.value)})` };
  const go = (next: Tab) => {
    history.replaceState(null, '', `#${next}`);
    setTab(next);
  };
  const onKey = (event: KeyboardEvent) => {
    const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
    if (step === 0) return;
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length] as Tab;
    go(next);
    strip.current?.querySelector<HTMLElement>(`#tab-${next}`)?.focus();
    event.preventDefault();
  };
  return (
    <>
      <RunBar session={session} project={project} />
      <SendBar session={session} project={project} columns={columns} />
      <SendDialog session={session} project={project} columns={columns} />
      <div ref={strip} class="tabs" role="tablist" aria-label="Views" onKeyDown={onKey}>
        {TABS.map((name) => (
          <button key={name} id={`tab-${name}`} type="button" role="tab" aria-selected={tab === name} aria-controls={`panel-${name}`} tabIndex={tab === name ? 0 : -1} onClick={() => go(name)}>
            {names[name]}
          </button>
        ))}
      </div>
      <div id={`panel-${tab}`} role="tabpanel" aria-labelledby={`tab-${tab}`}>
        {tab === 'overview' && <Overview session={session} project={project} columns={columns} onReview={() => go('review')} />}
        {tab === 'review' && <ReviewView session={session} project={project} columns={columns} />}
        {tab === 'results' && <ResultsView session={session} project={project} columns={columns} />}
        {tab === 'sent' && <SentView session={session} project={project} columns={columns} />}
      </div>
    </>
  );
}

function RunBar({ session, project }: { session: Session; project: Project }) {
  const columns = session.columns.value;
  const dialog = useRef<HTMLDialogElement>(null);
  void session.tick.value;
  if (!columns) return null;
  const [pending = 0, accepted = 0, hard = 0, aside = 0] = columns.byVerdict;
  const done = columns.rows - pending;
  const rate = session.rate.value;
  const loading = project.state === 'running' && session.loads.value.some((load) => load.state !== 'ready');
  const part = (rows: number) => ({ width: `${(100 * rows) / columns.rows}%` });
  return (
    <section class="run" aria-label="The run">
      <div class="run-head">
        <p class="run-count">
          <strong>{count(done)}</strong> of {count(columns.rows)} rows
          <span class="quiet run-eta">{runWords(project, loading, rate, pending)}</span>
        </p>
        <div class="row">
          {project.state === 'running' && (
            <button type="button" onClick={() => void session.pause()}>
              Pause
            </button>
          )}
          {(project.state === 'paused' || project.state === 'cancelled') && (
            <button type="button" class="primary" onClick={() => void session.start()}>
              Resume
            </button>
          )}
          {(project.state === 'running' || project.state === 'paused') && (
            <button type="button" onClick={() => void session.cancel()}>
              Cancel
            </button>
          )}
          {(project.state === 'done' || project.state === 'cancelled') && (
            <button type="button" onClick={() => dialog.current?.showModal()}>
              Start over
            </button>
          )}
        </div>
      </div>
      <div class="stack" role="progressbar" aria-label="Rows done" aria-valuemin={0} aria-valuemax={columns.rows} aria-valuenow={done} aria-valuetext={`${done} of ${columns.rows} rows: ${accepted} accepted, ${hard} hard, ${aside} set aside`}>
        <span class="part accepted" style={part(accepted)} />
        <span class="part reviewed" style={part(columns.reviewed)} />
        <span class="part hard" style={part(columns.open)} />
        <span class="part aside" style={part(aside)} />
      </div>
      <ul class="legend">
        <li>
          <i class="accepted" /> accepted {count(accepted)}
        </li>
        <li>
          <i class="reviewed" /> hard, reviewed {count(columns.reviewed)}
        </li>
        <li>
          <i class="hard" /> hard, open {count(columns.open)}
        </li>
        {aside > 0 && (
          <li>
            <i class="aside" /> set aside {count(aside)}
          </li>
        )}
        <li class="agree">agreement {percent(accepted, accepted + hard)}</li>
      </ul>
      <ComputesOn session={session} />
      {project.reviewTo === 'never' && (
        <p class="small never">
          <strong>Never send:</strong> nothing of this file leaves this device in this run. Hard rows wait for you.
        </p>
      )}
      <dialog ref={dialog} aria-labelledby="over-title">
        <h2 id="over-title">Start over?</h2>
        <p>All votes and reviews of this file are deleted; the file stays. Export first if you want to keep them.</p>
        <div class="row">
          <button type="button" class="danger" onClick={() => {
            dialog.current?.close();
            void session.startOver();
          }}>
            Delete and start over
          </button>
          <button type="button" onClick={() => dialog.current?.close()}>
            Keep them
          </button>
        </div>
      </dialog>
    </section>
  );
}

function runWords(project: Project, loading: boolean, rate: number | undefined, pending: number): string {
  if (project.state === 'paused') return 'paused';
  if (project.state === 'cancelled') return 'stopped; what is done is kept';
  if (project.state === 'done') return `all rows voted on in ${duration(project.seconds)}`;
  if (rate !== undefined && rate > 0) return `${rate.toFixed(rate < 10 ? 1 : 0)} texts/s, ${duration(pending / rate)} left`;
  return loading ? 'loading the models' : 'starting';
}
