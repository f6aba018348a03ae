/** `npm run host`: keeps an emulated host up, so that test runs need not start their own. */
import { join } from 'node:path';
import { cacheDir } from '../../guest-images/cache.ts';
import { StepError } from '../../guest-images/command.ts';
import { hasHardwareVirtualisation } from './local-host.ts';
import { startHost } from './open-host.ts';
import { developerStatePath, readState } from './state-file.ts';

async function main(): Promise<void> {
  const path = developerStatePath();
  const other = await readState(path);
  if (other) throw new Error(`Process ${other.ownerPid} keeps a host already (${path})`);
  if (await hasHardwareVirtualisation())
    console.log('[host] Test runs will not use it: this machine has hardware virtualisation');
  const supervisor = await startHost(path, { consolePath: join(cacheDir(), 'host-console.log') });
  console.log(`[host] Test runs find it by ${path}; Ctrl-C ends it`);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, async () => {
      await supervisor.close();
      process.exit(0);
    });
  await supervisor.failed.catch(async (error: unknown) => {
    await supervisor.close();
    throw error;
  });
}

await main().catch((error: unknown) => {
  console.error(error instanceof StepError ? `[prepare] ${error.message}` : error);
  process.exitCode = 1;
});
