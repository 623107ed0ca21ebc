// A person at the review view.

/** Gives the next rows their first label, each as soon as it is shown. */
export async function decide(page, rows) {
  let last = null;
  for (let row = 0; row < rows; row++) {
    await page.waitForFunction((was) => ![null, was].includes(document.querySelector('.sample')?.getAttribute('aria-label') ?? null), last);
    last = await page.getAttribute('.sample', 'aria-label');
    await page.keyboard.press('1');
  }
  // Only when another row, or none, is shown was the last one taken.
  await page.waitForFunction((was) => document.querySelector('.sample')?.getAttribute('aria-label') !== was, last);
}
