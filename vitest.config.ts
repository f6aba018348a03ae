import { defineConfig } from 'vitest/config';

/** One project a tier; the tiers differ in what they need of the machine (test/README.md). */
const tier = (name: string, rest: object = {}) => ({
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    // Processes: Node closes files that a worker thread opened and native code has closed since.
    pool: 'forks',
    ...rest,
  },
});

export default defineConfig({
  test: {
    projects: [
      tier('unit'),
      tier('compat', { testTimeout: 30_000 }),
      tier('contract'),
      tier('clients', { testTimeout: 60_000 }),
      tier('kvm', { testTimeout: 20_000 }),
      tier('e2e', {
        fileParallelism: false,
        testTimeout: 180_000,
        hookTimeout: 300_000,
        // What the emulated host spoils: see test/host/README.md.
        retry: { count: 2, condition: /The emulated host is (lost|at fault)/ },
        globalSetup: ['test/host/global-setup.ts'],
      }),
    ],
  },
});
