// Whether the tab is in sight. Browsers slow down a hidden one, so what is timed there says nothing of the device.

let hides = 0;
globalThis.document?.addEventListener('visibilitychange', () => {
  if (document.hidden) hides += 1;
});

/** Watches from now on; what it gives says whether the tab was in sight all the while. */
export function watch(): () => boolean {
  const before = hides;
  const seen = !globalThis.document?.hidden;
  return () => seen && hides === before;
}

/** Waits until the tab is in sight. */
export async function inSight(): Promise<void> {
  if (!globalThis.document?.hidden) return;
  await new Promise<void>((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', look);
      resolve();
    };
    document.addEventListener('visibilitychange', look);
  });
}
