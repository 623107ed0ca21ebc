// Takes the README's picture of the page: node page/picture.mjs, with the models packed and the companion built.
import path from 'node:path';
import { chromium } from 'playwright-core';
import { root, serve, stubLlm } from './servers.mjs';

const llm = await stubLlm();
const server = await serve(llm.url);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const page = await browser.newPage({ viewport: { width: 1200, height: 740 } });
  await page.goto(server.url);
  await page.click('text=Try the sample file');
  await page.waitForSelector('.models');
  await page.click('.what button.primary');
  await page.waitForSelector('.pill.done', { timeout: 15 * 60_000 });
  await page.click('#tab-review');
  await page.waitForSelector('.sample');
  for (const key of ['3', '1', 'S']) {
    await page.keyboard.press(key.toLowerCase());
    await page.waitForTimeout(400);
  }
  await page.evaluate(() => document.activeElement?.blur());
  await page.screenshot({ path: path.join(root, 'docs/page.png') });
} finally {
  await browser.close();
  server.stop();
  llm.stop();
}
