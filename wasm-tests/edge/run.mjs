// Runs in Node.js, Deno and Bun alike: votes on the texts of a file and prints what came of it.
import { readFile } from 'node:fs/promises';
import process from 'node:process';

const { models, slms, texts, entry, device: wanted = 'cpu' } = JSON.parse(await readFile('job.json', 'utf8'));
const { Annotator } = await import(entry);
const annotator = await Annotator.load({ task: 'sentiment', slms, models, device: wanted });
const found = [];
for await (const { label } of annotator.annotate(texts.slice(0, 1))) if (label === undefined) throw new Error('no label');
const first = performance.now(); // since the process began
const from = performance.now();
const cpu = process.cpuUsage?.();
for await (const annotation of annotator.annotate(texts)) found.push(annotation);
const ms = performance.now() - from;
const { user = 0, system = 0 } = cpu ? process.cpuUsage(cpu) : {};
const { memoryBytes, build, device } = await annotator.info();
annotator.dispose();
console.log(JSON.stringify({ annotations: found, first, ms, cpuMs: (user + system) / 1000, memoryBytes, build, device }));
