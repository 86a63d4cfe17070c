import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { include: ['{packages,apps}/*/test/**/*.test.ts'], restoreMocks: true, unstubGlobals: true, pool: 'threads', testTimeout: 20_000 },
});
