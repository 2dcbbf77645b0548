import { defineConfig } from 'vite';

// The build must come out the same on every machine, because CI builds it again
// and compares: no hashes of paths, no source maps, no inlined assets (the
// gateway's Content-Security-Policy allows neither data: scripts nor styles).
export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    outDir: 'dist',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    sourcemap: false,
    reportCompressedSize: false,
  },
  server: {
    proxy: {
      '/ws': { target: 'ws://127.0.0.1:8080', ws: true, changeOrigin: false },
      '/phone.json': 'http://127.0.0.1:8080',
    },
  },
});
