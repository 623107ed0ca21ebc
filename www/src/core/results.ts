// Votes and verdicts of a block, packed for the database and unpacked for the screen and the export.
import {
  ACCEPTED,
  type Annotation,
  ASIDE,
  HARD,
  NONE,
  type PinnedSlm,
  type ResultBlock,
  type Review,
  type Row,
  type Verdict,
  type Vote,
} from './types';

/** The places of a block's rows that are voted on. */
export function voters(rows: Row[]): number[] {
  return rows.flatMap((row, place) => (row.setAside === undefined ? [place] : []));
}

/**
 * Packs a block. `votes`: for each SLM the votes of the rows that are voted on, in their order; `decide`: the crate's rule.
 * A label or a number of probabilities that is not the task's is an error: the SLM is not for this task.
 */
export function pack(
  block: number,
  rows: Row[],
  votes: Vote[][],
  labels: string[],
  decide: (votes: Vote[]) => Verdict,
): ResultBlock {
  const n = rows.length;
  const result: ResultBlock = {
    block,
    verdict: new Uint8Array(n).fill(ASIDE),
    label: new Uint8Array(n).fill(NONE),
    confidence: new Float32Array(n),
    why: {},
    versions: votes.map((all) => all[0]?.version ?? ''),
    votes: votes.map(() => ({
      label: new Uint8Array(n).fill(NONE),
      probabilities: new Float32Array(n * labels.length),
      truncated: new Uint8Array(n),
    })),
  };
  rows.forEach((row, place) => {
    if (row.setAside !== undefined) result.why[place] = row.setAside;
  });
  voters(rows).forEach((place, index) => {
    const ballot = votes.map((all) => all[index]).filter((vote) => vote !== undefined);
    if (ballot.length !== votes.length) throw new Error('votes-missing: an SLM left out a text; press retry');
    ballot.forEach((vote, slm) => put(result, slm, place, vote, labels));
    const verdict = decide(ballot);
    if (verdict.status === 'accepted') {
      result.verdict[place] = ACCEPTED;
      result.label[place] = indexOf(verdict.label, labels);
      result.confidence[place] = verdict.confidence;
    } else {
      result.verdict[place] = verdict.status === 'hard' ? HARD : ASIDE;
      result.why[place] = verdict.why;
    }
  });
  return result;
}

function put(result: ResultBlock, slm: number, place: number, vote: Vote, labels: string[]): void {
  const columns = result.votes[slm];
  if (!columns) return;
  if (vote.probabilities.length !== labels.length) {
    throw new Error(`slm-labels: ${vote.slm} gives ${vote.probabilities.length} probabilities for ${labels.length} labels; pack it again for this task`);
  }
  // An empty label: the SLM finds none of the task's.
  columns.label[place] = vote.label === '' ? NONE : indexOf(vote.label, labels);
  columns.probabilities.set(vote.probabilities, place * labels.length);
  columns.truncated[place] = vote.truncated ? 1 : 0;
}

function indexOf(label: string, labels: string[]): number {
  const index = labels.indexOf(label);
  if (index < 0) throw new Error(`slm-labels: '${label}' is none of ${labels.join(', ')}; pack the SLM again for this task`);
  return index;
}

/** The votes on one row of a block; none where it was set aside. */
export function votesOf(result: ResultBlock, place: number, slms: PinnedSlm[], labels: string[]): Vote[] {
  if (result.verdict[place] === ASIDE) return [];
  return slms.flatMap((slm, index) => {
    const columns = result.votes[index];
    if (!columns) return [];
    const label = labels[columns.label[place] ?? NONE] ?? '';
    const probabilities = Array.from(columns.probabilities.subarray(place * labels.length, (place + 1) * labels.length));
    const version = result.versions?.[index] || slm.version;
    const vote: Vote = { slm: slm.id, version, engine: slm.engine, precision: slm.precision, label, probabilities };
    if (columns.truncated[place]) vote.truncated = true;
    return [vote];
  });
}

/** The verdict on one row of a block. */
export function verdictOf(result: ResultBlock, place: number, labels: string[]): Verdict {
  const why = result.why[place] ?? 'unknown';
  switch (result.verdict[place]) {
    case ACCEPTED:
      return { status: 'accepted', label: labels[result.label[place] ?? NONE] ?? '', confidence: result.confidence[place] ?? 0 };
    case HARD:
      return { status: 'hard', why };
    default:
      return { status: 'set-aside', why };
  }
}

/** Everything that was said of one row. */
export function annotationOf(
  row: Row,
  result: ResultBlock,
  place: number,
  review: Review | undefined,
  slms: PinnedSlm[],
  labels: string[],
): Annotation {
  const verdict = verdictOf(result, place, labels);
  let label = verdict.status === 'accepted' ? verdict.label : null;
  let source: Annotation['source'] = label === null ? null : 'consensus';
  if (review?.label != null) {
    label = review.label;
    source = review.by.kind === 'human' ? 'human' : 'llm';
  }
  return { sample: { id: row.id, text: row.text }, votes: votesOf(result, place, slms, labels), verdict, review: review ?? null, label, source };
}
