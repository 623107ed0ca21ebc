import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig, type Plugin } from 'vite';

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The built page says itself what it may load and where it may connect: only its own server. */
const policy = [
  "default-src 'self'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "connect-src 'self' blob:",
  "worker-src 'self'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

function contentSecurityPolicy(): Plugin {
  return {
    name: 'content-security-policy',
    apply: 'build',
    transformIndexHtml: () => [
      { tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content: policy }, injectTo: 'head-prepend' },
    ],
  };
}

/**
 * Scripts and styles of the built page are taken only with the hash they were built with (SRI). Workers, wasm and what is
 * imported later cannot be marked so.
 */
function subresourceIntegrity(): Plugin {
  let out = '';
  return {
    name: 'subresource-integrity',
    apply: 'build',
    configResolved: (config) => {
      out = path.resolve(config.root, config.build.outDir);
    },
    writeBundle: () => {
      const file = path.join(out, 'index.html');
      const loads = /<(script|link)\b([^>]*\b(?:src|href)="(\/assets\/[^"]+)")/g;
      const marked = readFileSync(file, 'utf8').replace(loads, (_, tag: string, rest: string, url: string) => {
        const hash = createHash('sha384').update(readFileSync(path.join(out, url))).digest('base64');
        return `<${tag} integrity="sha384-${hash}"${rest}`;
      });
      writeFileSync(file, marked);
    },
  };
}

const server = process.env['AUTOANNOTATOR_URL'] ?? 'http://127.0.0.1:8080';

export default defineConfig({
  plugins: [contentSecurityPolicy(), subresourceIntegrity()],
  resolve: {
    alias: [
      { find: /^#wasm-bg/, replacement: at('../pkg/wasm/plain/autoannotator_bg.wasm') },
      { find: /^#wasm$/, replacement: at('../pkg/wasm/plain/autoannotator.js') },
      { find: /^#wasm-relaxed-bg/, replacement: at('../pkg/wasm/relaxed/autoannotator_bg.wasm') },
      { find: /^#wasm-relaxed$/, replacement: at('../pkg/wasm/relaxed/autoannotator.js') },
      { find: /^#wasm-gpu-bg/, replacement: at('../pkg/wasm/gpu/autoannotator_bg.wasm') },
      { find: /^#wasm-gpu$/, replacement: at('../pkg/wasm/gpu/autoannotator.js') },
    ],
  },
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false }, chunkSizeWarningLimit: 800 },
  worker: { format: 'es' },
  server: { fs: { allow: [at('..')] }, proxy: { '/models': server, '/v1': server } },
});
