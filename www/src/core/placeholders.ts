// The placeholders of a redacted text: [EMAIL], [PHONE2] and whatever kinds there will be.

const PLACEHOLDER = /(\[[A-Z][A-Z_]+\d*\])/;

/** The text cut at its placeholders, which are every other part, from the second on. */
export function cutAtPlaceholders(text: string): string[] {
  return text.split(PLACEHOLDER);
}

/** How many placeholders of each kind some texts have, the most frequent first. */
export function countPlaceholders(texts: string[]): [kind: string, many: number][] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [at, part] of cutAtPlaceholders(text).entries()) {
      if (at % 2 === 0) continue;
      const kind = part.replace(/[[\]\d]/g, '');
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
  }
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}
