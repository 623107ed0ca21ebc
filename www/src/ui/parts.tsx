// Small pieces that several views share.
import type { ComponentChildren } from 'preact';
import { cutAtPlaceholders } from '../core/placeholders';
import { workersOf } from '../core/pool';
import type { Session } from '../core/session';
import type { Review, Verdict, Vote } from '../core/types';

/** The class that colours a label. Its name always stands beside the colour. */
export function tone(label: string, labels: string[]): string {
  const known: Record<string, string> = { negative: 'bad', toxic: 'bad', neutral: 'mid', positive: 'good', 'non-toxic': 'good' };
  return known[label] ?? `tone-${labels.indexOf(label) % 6}`;
}

/** An SLM's id without its task, which stands at the top of the page anyway. */
export function short(id: string): string {
  return id.replace(/^(sentiment|toxicity)-/, '');
}

export function Chip({ label, labels }: { label: string | null; labels: string[] }) {
  if (label === null) return <span class="chip chip-none">no label</span>;
  return <span class={`chip ${tone(label, labels)}`}>{label}</span>;
}

/** A reason of the crate without its code. */
export function plain(why: string): string {
  return why.replace(/^[a-z0-9]+(-[a-z0-9]+)*: /, '').replace(/[.]$/, '') || why;
}

/** What became of a row, in words. */
export function reason(why: string): string {
  const known: Record<string, string> = {
    disagreement: 'the models disagree',
    tie: 'the votes are tied',
    'no-votes': 'no model voted',
    'no-label': 'a model found none of the labels',
  };
  return known[why] ?? why;
}

export function VerdictText({ verdict }: { verdict: Verdict }) {
  if (verdict.status === 'accepted') return <>accepted, confidence {verdict.confidence.toFixed(2)}</>;
  if (verdict.status === 'hard') return <>hard: {reason(verdict.why)}</>;
  return <>set aside: {plain(verdict.why)}</>;
}

/** The votes on one text: a bar a label for every SLM. */
export function Votes({ votes, labels }: { votes: Vote[]; labels: string[] }) {
  if (votes.length === 0) return <p class="quiet">No model voted on this row.</p>;
  return (
    <ul class="votes" aria-label="Votes">
      {votes.map((vote) => (
        <li key={vote.slm}>
          <div class="vote-head">
            <span class="slm" title={`${vote.slm}, version ${vote.version}, ${vote.engine} ${vote.precision}`}>
              {short(vote.slm)}
            </span>
            <Chip label={vote.label || null} labels={labels} />
          </div>
          <div class="probs">
            {labels.map((label, index) => {
              const probability = vote.probabilities[index] ?? 0;
              return (
                <div class="prob" key={label}>
                  <span class="prob-name">{label}</span>
                  <span class="track" aria-hidden="true">
                    <span class={`fill ${tone(label, labels)}`} style={{ width: `${(probability * 100).toFixed(1)}%` }} />
                  </span>
                  <span class="prob-value">{(probability * 100).toFixed(probability > 0.0995 ? 0 : 1)} %</span>
                </div>
              );
            })}
          </div>
          {vote.truncated && <p class="quiet small">The text is longer than this model reads; its end was cut.</p>}
        </li>
      ))}
    </ul>
  );
}

export function ReviewText({ review }: { review: Review }) {
  const by = review.by.kind === 'human' ? (review.by.id ?? 'a person') : review.by.model;
  return (
    <>
      {review.label === null ? 'no label' : review.label} by {by}
      {review.why ? ` (${review.why})` : ''}
    </>
  );
}

export function Stat({ name, value, note }: { name: string; value: ComponentChildren; note?: ComponentChildren }) {
  return (
    <div class="stat">
      <dt>{name}</dt>
      <dd>{value}</dd>
      {note !== undefined && <dd class="note">{note}</dd>}
    </div>
  );
}

/** What the person should know; errors are read out at once. */
export function Notices({ session }: { session: Session }) {
  return (
    <div class="notices" aria-live="polite">
      {session.notices.value.map((notice) => (
        <div key={notice.code} class={`notice ${notice.kind}`} role={notice.kind === 'error' ? 'alert' : 'status'} data-code={notice.code}>
          <p>
            <strong>{{ error: 'Problem. ', warn: 'Note. ', info: '' }[notice.kind]}</strong>
            {notice.text}
          </p>
          <div class="notice-actions">
            {notice.action && (
              <button
                type="button"
                onClick={() => {
                  session.dismiss(notice.code);
                  notice.action?.run();
                }}
              >
                {notice.action.label}
              </button>
            )}
            <button type="button" class="plain" aria-label="Dismiss this message" onClick={() => session.dismiss(notice.code)}>
              <Cross />
            </button>
          </div>
        </div>
      ))}
    </div>
  );
}

/** A redacted text with its placeholders marked. */
export function Placeholders({ text }: { text: string }) {
  return <span>{cutAtPlaceholders(text).map((part, at) => (at % 2 === 1 ? <mark key={at}>{part}</mark> : part))}</span>;
}

export function Cross() {
  return (
    <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
      <path d="M3 3l10 10M13 3L3 13" stroke="currentColor" stroke-width="2" stroke-linecap="round" />
    </svg>
  );
}

const GPU_WORDS = { gpu: 'GPU, by WebGPU', burn: 'GPU, by burn-wgpu on WebGPU' };

/** What the models compute on, and why. */
export function ComputesOn({ session }: { session: Session }) {
  const { device, why } = session.computing.value;
  const simd = session.build.value === 'relaxed' ? 'relaxed ' : '';
  return (
    <p class="quiet small" data-device={device}>
      {device !== 'cpu' ? GPU_WORDS[device] : `CPU, by WebAssembly with ${simd}SIMD, ${workersOf(navigator.hardwareConcurrency, device)} workers`}
      {why && `: ${why}`}
    </p>
  );
}
