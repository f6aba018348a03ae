/** What a bench does about an emulated host that fails now and then (test/host/README.md). */

import { ConsoleTimeoutError } from '../../test/e2e/support/serial-console.ts';
import { HostFaultError, HostLostError, HostTimeoutError } from '../../test/host/host.ts';

const TRIES_MAX = 3;
const FAILURES = [HostLostError, HostFaultError, HostTimeoutError, ConsoleTimeoutError];

/** Does it again, with a word on who was measured and the reason. */
export async function again<T>(subject: string, work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++)
    try {
      return await work();
    } catch (error) {
      if (attempt === TRIES_MAX || !FAILURES.some((kind) => error instanceof kind)) throw error;
      const reason = error instanceof Error ? error.message : error;
      console.log(`Measured again with ${subject} after this: ${reason}`);
    }
}
