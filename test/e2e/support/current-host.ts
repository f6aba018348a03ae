/** The host that the tests of this process run on, found once and again after it was lost. */
import { HostLostError, type KvmHost } from '../../host/host.ts';
import { attach, openHost } from '../../host/open-host.ts';
import { statePath } from '../../host/state-file.ts';

let opened: Promise<KvmHost> | undefined;
let current: KvmHost | undefined;

/** The host, the same one as long as it lives; waits while it is started again. */
export async function currentHost(): Promise<KvmHost> {
  opened ??= openHost();
  current ??= await opened;
  if (!current.isEmulated) return current;
  const alive = await attach(statePath());
  if (alive && alive.id !== current.id) current = alive;
  return current;
}

const ANSWER_TIMEOUT_MS = 30_000;

/**
 * What to blame for `error`: a test that waited in vain on a host that no longer answers has met
 * the end of the host, not a defect.
 */
export async function blame(host: KvmHost, error: unknown): Promise<unknown> {
  if (error instanceof HostLostError || !host.isEmulated) return error;
  const options = { timeoutMs: ANSWER_TIMEOUT_MS };
  return host.exec('true', options).then(
    () => error,
    (cause: unknown) => new HostLostError(`no answer, after: ${error}`, { cause }),
  );
}

/** Removes what a test made on its host. One that is lost took it along. */
export async function cleanUp(host: KvmHost, command: string): Promise<void> {
  try {
    await host.exec(command);
  } catch (error) {
    if (!(error instanceof HostLostError)) throw error;
  }
}
