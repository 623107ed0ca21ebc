// A batch job (Node.js, Deno, Bun): reads a JSON object with a `text` a line from standard input, writes an annotation a line.
// Arguments: the folder that `autoannotator pack` wrote and, if there is one, the address of an `autoannotator serve`.
import process from 'node:process';
import { createInterface } from 'node:readline';
import { Annotator } from 'autoannotator/worker';

const [models, reviewer = 'none'] = process.argv.slice(2);

async function* texts() {
  for await (const line of createInterface({ input: process.stdin })) if (line !== '') yield JSON.parse(line).text;
}

const annotator = await Annotator.load({ task: 'sentiment', models, reviewer, slms: ['sentiment-minilm-l3', 'sentiment-minilm-l6'], batch: 32 });
for await (const annotation of annotator.annotate(texts())) process.stdout.write(`${JSON.stringify(annotation)}\n`);
annotator.dispose();
