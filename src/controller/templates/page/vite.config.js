import { readFileSync } from 'node:fs';
import { defineConfig } from 'vite';

const { connect } = JSON.parse(readFileSync(new URL('./src/project.json', import.meta.url), 'utf8'));

/** The built page says itself what it may load and where it may connect. */
const policy = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "img-src 'self'",
  `connect-src ${["'self'", ...connect].join(' ')}`,
  "worker-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

const contentSecurityPolicy = {
  name: 'content-security-policy',
  apply: 'build',
  transformIndexHtml: () => [{ tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content: policy }, injectTo: 'head-prepend' }],
};

export default defineConfig({
  base: './',
  plugins: [contentSecurityPolicy],
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  worker: { format: 'es' },
  optimizeDeps: { exclude: ['autoannotator'] },
});
