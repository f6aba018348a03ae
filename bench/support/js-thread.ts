import type { Guest } from '../../test/e2e/support/guest.ts';
import { mustExec } from '../../test/host/exec.ts';
import { switchesIn, ticksIn } from './proc.ts';

/** Of the VMM's first thread, so far. */
export async function jsThread(guest: Guest): Promise<{ switches: number; ticks: number }> {
  const task = `/proc/${guest.vmm.pid}/task/${guest.vmm.pid}`;
  const text = await mustExec(guest.host, `cat ${task}/status ${task}/stat`);
  return { switches: switchesIn(text), ticks: ticksIn(text) };
}
