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

const server = process.env['AUTOANNOTATOR_URL'] ?? 'http://127.0.0.1:8080';

export default defineConfig({
  plugins: [contentSecurityPolicy()],
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
