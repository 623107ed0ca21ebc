// Files and pasted texts to rows.
import Papa from 'papaparse';

/** A file, read: its columns, and its rows with one cell each. */
export interface Table {
  name: string;
  columns: string[];
  rows: string[][];
  /** The objects of a JSONL, one a row. */
  objects?: Record<string, unknown>[];
  /** What the person should know. */
  note?: string;
}

const MAX_BYTES = 50 * 2 ** 20;
const MAX_ROWS = 100_000;
const LIKELY = ['text', 'tweet', 'sentence', 'content', 'message', 'comment', 'review', 'body', 'title'];
const LARGE = 'Label it with `autoannotator annotate`, or cut it.';

/** Reads a file; what cannot be read is an error that says why. */
export async function readFile(file: File): Promise<Table> {
  if (file.size > MAX_BYTES) throw new Error(`${file.name} is larger than ${MAX_BYTES / 2 ** 20} MiB. ${LARGE}`);
  const bytes = await file.arrayBuffer();
  const { text, note } = decode(bytes);
  const table = { ...read(file.name, text), ...(note ? { note } : {}) };
  if (table.rows.length === 0) throw new Error(`${file.name} holds no texts.`);
  if (table.rows.length > MAX_ROWS) throw new Error(`${file.name} has more than ${MAX_ROWS.toLocaleString('en')} rows. ${LARGE}`);
  return table;
}

/** Pasted texts, one a line. */
export function readLines(name: string, text: string): Table {
  const lines = text.split(/\r\n|\n|\r/).filter((line) => line.trim() !== '');
  return { name, columns: ['text'], rows: lines.map((line) => [line]) };
}

/** The column that is likely the one of the texts. */
export function likely({ columns, rows }: Table): number {
  for (const name of LIKELY) {
    const at = columns.findIndex((column) => column.trim().toLowerCase() === name);
    if (at >= 0) return at;
  }
  const some = rows.slice(0, 50);
  const lengths = columns.map((_, at) => some.reduce((sum, row) => sum + (row[at]?.length ?? 0), 0));
  return lengths.indexOf(Math.max(...lengths));
}

/** UTF-8; UTF-16 where a byte order mark says so; else Windows-1252, which reads anything. */
function decode(bytes: ArrayBuffer): { text: string; note?: string } {
  const [first, second] = new Uint8Array(bytes);
  if (first === 0xff && second === 0xfe) return { text: new TextDecoder('utf-16le').decode(bytes) };
  if (first === 0xfe && second === 0xff) return { text: new TextDecoder('utf-16be').decode(bytes) };
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch {
    return { text: new TextDecoder('windows-1252').decode(bytes), note: 'The file is not UTF-8 and was read as Windows-1252: look whether the letters are right.' };
  }
}

function read(name: string, text: string): Table {
  const ending = name.slice(name.lastIndexOf('.') + 1).toLowerCase();
  switch (ending) {
    case 'csv':
    case 'tsv':
      return readDelimited(name, text, ending === 'tsv' ? '\t' : '');
    case 'jsonl':
    case 'ndjson':
      return readObjects(name, text);
    case 'txt':
      return readLines(name, text);
    default:
      throw new Error(`${name} is of no kind that this page reads: name it .csv, .tsv, .jsonl or .txt.`);
  }
}

/** An empty delimiter is guessed. The first row names the columns. */
function readDelimited(name: string, text: string, delimiter: string): Table {
  const { data, errors } = Papa.parse<string[]>(text, { delimiter, skipEmptyLines: 'greedy' });
  const broken = errors.find(({ type }) => type === 'Quotes');
  if (broken) throw new Error(`${name}, row ${(broken.row ?? 0) + 1}: ${broken.message}.`);
  const [columns = [], ...rows] = data;
  return { name, columns, rows };
}

function readObjects(name: string, text: string): Table {
  const objects: Record<string, unknown>[] = [];
  text.split('\n').forEach((line, at) => {
    if (line.trim() === '') return;
    try {
      const value: unknown = JSON.parse(line);
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('not an object');
      objects.push(value as Record<string, unknown>);
    } catch {
      throw new Error(`${name}, line ${at + 1}: each line has to be a JSON object.`);
    }
  });
  const columns = [...new Set(objects.flatMap((object) => Object.keys(object)))];
  const cell = (value: unknown) => (typeof value === 'string' ? value : value === undefined ? '' : JSON.stringify(value));
  return { name, columns, rows: objects.map((object) => columns.map((column) => cell(object[column]))), objects };
}
