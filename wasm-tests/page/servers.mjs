// What the page is tested against: the real companion, a stub LLM behind it, and a proxy in front that sees everything.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const require = createRequire(import.meta.url);

/** The companion's binary: $AUTOANNOTATOR_BINARY, or the one cargo built. */
export function companion() {
  const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
  const file = process.env.AUTOANNOTATOR_BINARY ?? process.env.AUTOANNOTATOR_BIN ?? path.join(target, 'release', 'autoannotator');
  if (!existsSync(file)) throw new Error(`${file} is missing; run \`cargo build --release\`, or set AUTOANNOTATOR_BINARY`);
  return file;
}

function listen(server) {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
}

function bodyOf(stream) {
  return new Promise((resolve, reject) => {
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => resolve(Buffer.concat(parts)));
    stream.on('error', reject);
  });
}

/** An OpenAI-compatible LLM that answers by a rule the test knows: the label depends on the text's length; some are no label. */
export async function stubLlm() {
  const seen = [];
  const server = http.createServer(async (request, response) => {
    const body = JSON.parse((await bodyOf(request)).toString());
    const { text } = JSON.parse(body.messages.at(-1).content);
    seen.push(text);
    const labels = body.response_format?.json_schema?.schema?.properties?.label?.enum ?? ['negative', 'neutral', 'positive'];
    const label = text.length % 5 === 0 ? 'banana' : labels[text.length % labels.length];
    response.setHeader('content-type', 'application/json');
    response.end(
      JSON.stringify({
        model: 'stub',
        choices: [{ index: 0, message: { role: 'assistant', content: JSON.stringify({ label }) }, finish_reason: 'stop' }],
        usage: { prompt_tokens: 100, completion_tokens: 5, total_tokens: 105 },
      }),
    );
  });
  const port = await listen(server);
  return { url: `http://127.0.0.1:${port}`, seen, stop: () => server.close() };
}

/** Where `make pull` and `make pack` put what they bring. */
export const cache = process.env.AUTOANNOTATOR_HOME ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache'), 'autoannotator');

/** `autoannotator serve`, on a free port, with more arguments; without an LLM where there is no address. */
export async function serve(llmUrl, more = []) {
  // A home of its own, unless one is given: with the packed SLMs, and without what other servers spent and answered.
  const home = mkdtempSync(path.join(tmpdir(), 'autoannotator-home-'));
  symlinkSync(path.join(cache, 'packed'), path.join(home, 'packed'));
  if (!more.includes('--home')) more = [...more, '--home', home];
  const llm = llmUrl ? { AUTOANNOTATOR_LLM_URL: llmUrl, AUTOANNOTATOR_LLM_KEY: 'test-key', AUTOANNOTATOR_LLM_MODEL: 'stub' } : {};
  const child = spawn(companion(), ['serve', '--port', '18080', '--page', path.join(root, 'www/dist'), ...more], {
    cwd: root,
    env: { ...process.env, ...llm },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const url = await new Promise((resolve, reject) => {
    let said = '';
    child.stdout.on('data', (part) => {
      said += part;
      const found = /http:\/\/[^\s/]+/.exec(said);
      if (found) resolve(found[0]);
    });
    child.on('exit', (code) => reject(new Error(`serve ended with ${code}: ${said}`)));
  });
  const stop = () => {
    child.kill();
    rmSync(home, { recursive: true, force: true });
  };
  return { url, stop };
}

/**
 * A proxy that records every request and, where `fault` says so, answers in the server's place. `fault(request, answer)`
 * gives undefined to let it through, or {status, headers, body}, {cut: bytes} (the connection breaks off) or
 * {change: (buffer) => buffer}.
 */
export async function proxy(target) {
  const seen = [];
  const state = { fault: () => undefined };
  const { host } = new URL(target);
  const server = http.createServer(async (request, response) => {
    const body = await bodyOf(request);
    const record = { method: request.method, url: request.url, headers: request.headers, body: body.toString() };
    seen.push(record);
    const fault = state.fault(record);
    if (fault?.status) {
      response.writeHead(fault.status, fault.headers ?? {});
      response.end(fault.body ?? '');
      return;
    }
    const headers = { ...request.headers, host };
    if (headers.origin) headers.origin = target;
    delete headers['accept-encoding'];
    const onward = http.request(`${target}${request.url}`, { method: request.method, headers }, async (answer) => {
      if (!fault) {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        return;
      }
      const whole = await bodyOf(answer);
      response.writeHead(answer.statusCode, answer.headers);
      if (fault.cut !== undefined) response.write(whole.subarray(0, fault.cut), () => response.destroy());
      else response.end(fault.change(Buffer.from(whole)));
    });
    onward.on('error', () => response.destroy());
    onward.end(body);
  });
  const port = await listen(server);
  return {
    url: `http://127.0.0.1:${port}`,
    seen,
    set fault(rule) {
      state.fault = rule ?? (() => undefined);
    },
    stop: () => server.close(),
  };
}

/**
 * A browser's only way out: a proxy for all hosts that records every request, whoever in the browser makes it, and lets
 * through those to `target`. What is encrypted it refuses.
 */
export async function gateway(target) {
  const seen = [];
  const { host } = new URL(target);
  const server = http.createServer(async (request, response) => {
    const body = await bodyOf(request);
    seen.push({ method: request.method, url: request.url, headers: request.headers, body: body.toString() });
    const url = new URL(request.url);
    if (url.host !== host) {
      response.writeHead(403).end();
      return;
    }
    const onward = http.request(url, { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    onward.end(body);
  });
  server.on('connect', (request, socket) => {
    seen.push({ method: 'CONNECT', url: request.url, headers: request.headers, body: '' });
    socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
  });
  const port = await listen(server);
  return { url: `http://127.0.0.1:${port}`, seen, stop: () => server.close() };
}
