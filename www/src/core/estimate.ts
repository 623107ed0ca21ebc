// How long a run will take, and how it goes.

/** Seconds for `texts` texts, given the texts a second of each SLM on one core: the cores share the work of all. */
export function estimateSeconds(texts: number, rates: number[], cores: number): number | undefined {
  if (rates.length === 0 || rates.some((rate) => !(rate > 0))) return undefined;
  return rates.reduce((sum, rate) => sum + texts / rate, 0) / cores;
}

/** The rate over the last seconds, from marks of (milliseconds, rows done). */
export class Pace {
  #marks: [number, number][] = [];
  readonly #span: number;

  constructor(span = 12_000) {
    this.#span = span;
  }

  mark(now: number, done: number): void {
    this.#marks.push([now, done]);
    while (this.#marks.length > 2 && (this.#marks[1]?.[0] ?? now) < now - this.#span) this.#marks.shift();
  }

  /** Rows a second, or undefined before there is anything to tell. */
  rate(now: number): number | undefined {
    const first = this.#marks[0];
    const last = this.#marks.at(-1);
    if (!first || !last || last[1] === first[1]) return undefined;
    const ms = now - first[0];
    return ms < 300 ? undefined : ((last[1] - first[1]) * 1000) / ms;
  }

  clear(): void {
    this.#marks = [];
  }
}

/** Keeps a timeline short: every second point goes once there are more than `most`. */
export function thin<T>(points: T[], most = 600): T[] {
  if (points.length <= most) return points;
  return points.filter((_, index) => index % 2 === 0 || index === points.length - 1);
}

/** Seconds as a person says them. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '–';
  if (seconds < 1) return 'under 1 s';
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Bytes as a person says them. */
export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${(count / 1e3).toFixed(0)} kB`;
  if (count < 1e9) return `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB`;
  return `${(count / 1e9).toFixed(1)} GB`;
}

/** A whole number with separators. */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** US dollars as a person says them. */
export function dollars(amount: number): string {
  if (amount === 0) return '$0';
  return amount < 0.0001 ? 'under $0.0001' : `$${amount.toFixed(amount < 0.1 ? 4 : 2)}`;
}

/** A share as a percentage. */
export function percent(part: number, whole: number, digits = 1): string {
  return whole === 0 ? '–' : `${((100 * part) / whole).toFixed(digits)} %`;
}

/** The 95 % interval of a share, by Wilson's score. */
export function wilson(part: number, all: number): [number, number] {
  if (all === 0) return [0, 1];
  const z = 1.959964;
  const p = part / all;
  const middle = p + (z * z) / (2 * all);
  const half = z * Math.sqrt((p * (1 - p)) / all + (z * z) / (4 * all * all));
  const scale = 1 + (z * z) / all;
  return [Math.max(0, (middle - half) / scale), Math.min(1, (middle + half) / scale)];
}
