// What this page is for: data alone, which `autoannotator generate` wrote.
import type { Label, Spec } from 'autoannotator/worker';
import json from './project.json';

export interface Project {
  /** What the annotator is loaded with. */
  spec: Partial<Spec> & Pick<Spec, 'slms' | 'review' | 'export'>;
  labels: Label[];
  /** The folder of packed models: an address, relative to this page or not. */
  models: string;
  /** Other origins that the page may connect to. */
  connect: string[];
}

export const project = json as unknown as Project;
export const names = project.labels.map(({ name }) => name);
/** The server that is asked for reviews, once the person agrees. */
export const reviewUrl = project.spec.review.to === 'llm' ? project.spec.review.url : undefined;
