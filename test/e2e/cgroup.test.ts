/** The launcher in a control group of its own, as a service manager or a container starts it. */
import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import type { KvmHost } from '../host/host.ts';
import { cleanUp, currentHost } from './support/current-host.ts';
import { Guest } from './support/guest.ts';
import { product, type Vmm } from './support/vmm.ts';

/** A control group that gets the time of one CPU. */
async function oneCpuGroup(host: KvmHost) {
  const root = '/sys/fs/cgroup';
  const path = `${root}/one-cpu`;
  await mustExec(
    host,
    `echo +cpu >${root}/cgroup.subtree_control
     mkdir -p ${path} && echo '100000 100000' >${path}/cpu.max`,
  );
  return { path, [Symbol.asyncDispose]: () => cleanUp(host, `rmdir ${path}`) };
}

const productIn = (group: string): Vmm => ({
  ...product,
  argv: async (host, machine) => {
    const enter = `echo $$ >${group}/cgroup.procs && exec "$@"`;
    return ['sh', '-c', enter, 'sh', ...(await product.argv(host, machine))];
  },
});

/** How often vCPU 0 has gone to sleep by itself. */
async function sleeps({ host, vmm }: Guest): Promise<number> {
  const find = `cd /proc/${vmm.pid}/task && cd $(dirname $(grep -lx vcpu0 */comm))`;
  const count = await mustExec(host, `${find} && awk '/^voluntary_ctxt/ { print $2 }' status`);
  return Number(count);
}

/** Each of its 32-bit words is an access that the JS thread answers. */
const CONFIG_SPACE = '/sys/bus/pci/devices/0000:00:00.0/config';

test('with the time of one CPU a guest boots, and no vCPU spins for its answers', async () => {
  const host = await currentHost();
  await using group = await oneCpuGroup(host);
  await using guest = await Guest.boot({ vmm: productIn(group.path) });
  const before = await sleeps(guest);

  const bytes = Number(await guest.run(`cat ${CONFIG_SPACE} | wc -c`));

  expect(await mustExec(host, `cat ${group.path}/cgroup.procs`)).toContain(`${guest.vmm.pid}\n`);
  expect(bytes).toBeGreaterThanOrEqual(256);
  // Now and then an answer is there before the vCPU sleeps.
  expect((await sleeps(guest)) - before).toBeGreaterThan(bytes / 8);
});
