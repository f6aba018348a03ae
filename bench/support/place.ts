import { mustExec } from '../../test/host/exec.ts';
import type { KvmHost } from '../../test/host/host.ts';

/** The host as a record names it, for figures that were not taken on this machine. */
export async function placeOf(host: KvmHost): Promise<object> {
  const facts = "grep -m1 '^model name' /proc/cpuinfo | cut -d: -f2; nproc; uname -r";
  const [cpu, cpus, linux] = (await mustExec(host, facts)).trim().split('\n');
  return { emulated: host.isEmulated, cpu, cpus: Number(cpus), linux };
}
