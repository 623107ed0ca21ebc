// The built page as a person uses it, served by the companion: its memory, and how well a run fills the cores.
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { serve } from '../page/servers.mjs';
import { launch, memory, threadSeconds } from './tab.mjs';

/** Waits for a selector; a problem that the page tells of ends the bench. */
async function until(page, selector) {
  const found = await page.waitForSelector(`${selector}, .notice.error`);
  if (await found.evaluate((element) => element.classList.contains('error'))) throw new Error(`the page says: ${await found.textContent()}`);
}

/** The page with `file` opened, ready to start. */
async function opened(tab, server, file) {
  const page = await tab.open(server.url);
  await page.waitForSelector('.drop');
  await page.setInputFiles('#choose-file', file);
  await page.waitForSelector('.what');
  await page.check('input[value=sentiment]');
  await page.check('input[value=person]');
  await until(page, '.models');
  return page;
}

async function withPage(texts, folder, work) {
  const file = `${folder}/texts.jsonl`;
  writeFileSync(file, texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  const server = await serve('http://127.0.0.1:9');
  const tab = await launch();
  try {
    return await work(tab, await opened(tab, server, file));
  } finally {
    await tab.close();
    server.stop();
  }
}

/** MB of the page with its ensemble loaded and at least half of `texts` labelled, paused there: a run that ends lets its SLMs go. */
export function pageMemory(texts, folder) {
  return withPage(texts, folder, async (tab, page) => {
    await page.click('.what button.primary');
    await until(page, '.run-count');
    const done = (least) => Number(document.querySelector('.run-count strong')?.textContent.replaceAll(',', '')) >= least;
    await page.waitForFunction(done, texts.length / 2);
    await page.click('button:text-is("Pause")');
    await page.waitForTimeout(3000);
    if (page.workers().length < 2) throw new Error('the run was over before it could be paused; give it more texts');
    return memory(tab, page);
  });
}

/**
 * Wall time of a run over `texts`, SLMs loaded before, and the processor time its workers took for it, in seconds. Threads
 * are looked at often, since they end with the run.
 */
export function makespan(texts, folder) {
  return withPage(texts, folder, async (tab, page) => {
    await page.click('.what button:text-is("Estimate first")');
    await until(page, '.what button.primary:enabled:text-is("Start")');
    const pid = tab.process();
    const before = threadSeconds(pid, 'DedicatedWorker');
    const after = new Map();
    const look = () => threadSeconds(pid, 'DedicatedWorker').forEach((seconds, thread) => after.set(thread, seconds));
    const clock = setInterval(look, 100);
    const start = performance.now();
    await page.click('.what button.primary');
    await until(page, '.pill.done');
    const wall = (performance.now() - start) / 1000;
    clearInterval(clock);
    const work = [...after].reduce((sum, [thread, seconds]) => sum + seconds - (before.get(thread) ?? 0), 0);
    return { wall, work, cores: availableParallelism() };
  });
}
