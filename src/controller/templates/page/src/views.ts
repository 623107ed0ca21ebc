// Chips, votes and rows of the list.
import type { Annotation, Vote } from 'autoannotator/worker';
import { make } from './dom.js';
import { names } from './project.js';

/** A label with its colour; the name always stands beside it. */
export function chip(label: string | null): HTMLElement {
  if (label === null) return make('span', { class: 'chip none' }, 'no label');
  return make('span', { class: 'chip', 'data-tone': String(names.indexOf(label) % 6) }, make('bdi', {}, label));
}

const percent = (probability: number) => `${(100 * probability).toFixed(probability >= 0.0995 ? 0 : 1)} %`;

/** What each model says: a bar a label. */
export function votes(all: Vote[]): HTMLElement {
  if (all.length === 0) return make('p', { class: 'quiet' }, 'No model voted on this text.');
  const one = (vote: Vote) =>
    make(
      'li',
      {},
      make('p', { class: 'voter' }, make('span', { class: 'quiet' }, vote.slm), chip(vote.label)),
      ...names.map((name, at) => {
        const probability = vote.probabilities[at] ?? 0;
        const bar = make('meter', { min: '0', max: '1', value: String(probability), 'aria-hidden': 'true' });
        return make('p', { class: 'probability' }, make('bdi', {}, name), bar, make('span', {}, percent(probability)));
      }),
      ...(vote.truncated ? [make('p', { class: 'quiet small' }, 'The text is longer than this model reads; its end was cut.')] : []),
    );
  return make('ul', { class: 'votes', 'aria-label': 'Votes' }, ...all.map(one));
}

const SOURCES = { consensus: 'the models agree', llm: 'by an LLM', human: 'by you' };

/** Why a row has the label that it has, or none. */
export function reason({ verdict, source, review }: Annotation): string {
  if (source) return SOURCES[source];
  if (verdict.status === 'set-aside') return `set aside: ${verdict.why.replace(/^[a-z-]+: /, '')}`;
  if (review) return `to review; ${review.by.kind === 'llm' ? `${review.by.model} gave no label` : 'no label'}${review.why ? `: ${review.why}` : ''}`;
  return verdict.status === 'hard' && verdict.why !== 'tie' ? 'to review: the models disagree' : 'to review: the votes are tied';
}

/** A row of the list; its votes are made when it is opened. */
export function row(number: number, text: string, annotation: Annotation): HTMLElement {
  const summary = make('summary', {}, make('span', { class: 'number' }, String(number)), make('span', { class: 'cut', dir: 'auto' }, text), chip(annotation.label));
  const details = make('details', {}, summary);
  details.addEventListener(
    'toggle',
    () => details.append(make('p', { class: 'text', dir: 'auto' }, text), make('p', { class: 'quiet small' }, reason(annotation)), votes(annotation.votes)),
    { once: true },
  );
  return make('li', {}, details);
}
