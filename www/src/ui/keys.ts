// Which keys stand for which labels.

/** Keys that mean something else. */
const TAKEN = new Set(['u', 's', 'r', '?']);

/** For each label its keys: its number, and the first of its letters that is still free. */
export function keysOf(labels: string[]): { label: string; keys: string[] }[] {
  const used = new Set(TAKEN);
  return labels.map((label, index) => {
    const keys = index < 9 ? [String(index + 1)] : [];
    const letter = [...label.toLowerCase()].find((char) => /[a-z]/.test(char) && !used.has(char));
    if (letter) {
      used.add(letter);
      keys.push(letter);
    }
    return { label, keys };
  });
}
