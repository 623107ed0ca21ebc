// Which column holds the texts.
import type { Row } from './types';

const NAMES = ['text', 'tweet', 'content', 'body', 'message', 'comment', 'review', 'sentence', 'post', 'headline', 'title', 'utterance', 'prompt'];

/** A cell of a row as text, by its column. */
export function cell(row: Row, columns: string[], name: string): string {
  if ('fields' in row.columns) return row.columns.fields[columns.indexOf(name)] ?? '';
  const json = row.columns.members.find(([key]) => key === name)?.[1] ?? '';
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'string' ? value : json;
  } catch {
    return json;
  }
}

/** The column most likely to hold the texts: one with a telling name, or else the one with the longest cells. */
export function guessTextColumn(columns: string[], rows: Row[]): string {
  for (const name of NAMES) {
    const found = columns.find((column) => column.trim().toLowerCase() === name);
    if (found !== undefined) return found;
  }
  for (const name of NAMES) {
    const found = columns.find((column) => column.toLowerCase().includes(name));
    if (found !== undefined) return found;
  }
  const length = (column: string) => rows.reduce((sum, row) => sum + cell(row, columns, column).length, 0);
  let best = columns[0] ?? '';
  for (const column of columns) if (length(column) > length(best)) best = column;
  return best;
}
