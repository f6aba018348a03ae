import { defineConfig } from 'vitest/config';

/** One project a tier; the tiers differ in what they need of the machine (test/README.md). */
const tier = (name: string, rest: object = {}) => ({
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    ...rest,
  },
});

export default defineConfig({
  test: {
    projects: [
      // Processes: Node closes files that a worker thread opened and native code has closed since.
      tier('unit', { pool: 'forks' }),
      tier('compat', { pool: 'threads', testTimeout: 30_000 }),
      tier('contract', { pool: 'threads' }),
      tier('clients', { pool: 'forks', testTimeout: 60_000 }),
      tier('kvm', { pool: 'forks', testTimeout: 20_000 }),
      tier('e2e', {
        pool: 'forks',
        fileParallelism: false,
        testTimeout: 180_000,
        hookTimeout: 300_000,
        // Nothing else is ever tried again: see test/host/README.md.
        retry: { count: 2, condition: /The emulated host is (lost|at fault)/ },
        globalSetup: ['test/host/global-setup.ts'],
      }),
    ],
  },
});
