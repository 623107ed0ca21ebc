import { useRef } from 'preact/hooks';
import { messageOf } from '../core/rpc';
import type { Session } from '../core/session';

const SAMPLE = 'sample-tweets.csv';

export function Empty({ session }: { session: Session }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <section class="hero" aria-labelledby="hero-title">
      <h1 id="hero-title">Label a file of texts, on this device</h1>
      <p class="lead">Three small language models read every row in this tab and vote. What they agree on is labelled. The rest is yours to decide, or an LLM's, if you say so.</p>
      <div class="drop">
        <p class="drop-title">Drop a file here</p>
        <p class="quiet">CSV, TSV, JSONL or plain text, one text a row. You can also paste texts.</p>
        <div class="row center">
          <input
            ref={input}
            id="choose-file"
            type="file"
            accept=".csv,.tsv,.jsonl,.ndjson,.txt,text/csv,text/plain,text/tab-separated-values,application/jsonl"
            class="hidden"
            tabIndex={-1}
            aria-hidden="true"
            onChange={(event) => {
              const file = event.currentTarget.files?.[0];
              if (file) void session.openFile(file);
            }}
          />
          <button type="button" class="primary" onClick={() => input.current?.click()}>
            Choose a file
          </button>
          <button type="button" onClick={() => void openSample(session)}>
            Try the sample file
          </button>
        </div>
      </div>
      <ol class="steps">
        <li>
          <strong>Your texts stay here.</strong> They are read, kept and labelled in your browser. Nothing is sent unless you choose an LLM.
        </li>
        <li>
          <strong>Agreement is accepted.</strong> All models must name the same label; every vote is kept.
        </li>
        <li>
          <strong>Doubt is shown.</strong> No row gets a label by default: you see why it is hard.
        </li>
      </ol>
    </section>
  );
}

async function openSample(session: Session): Promise<void> {
  try {
    const response = await fetch(`/${SAMPLE}`);
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    await session.openFile(new File([await response.blob()], SAMPLE, { type: 'text/csv' }));
  } catch (error) {
    session.notify({ code: 'sample', kind: 'error', text: `The sample file could not be fetched: ${messageOf(error)}. Is the server running?` });
  }
}
