/** Memory zones and NUMA nodes, as a guest finds them. */
import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';

const MIB = 1 << 20;
const TEST_TIMEOUT_MS = 240_000;
const POLL = { timeout: 60_000, interval: 200 };

/** What comes is used at once, and can be given up again. */
const ONLINE = 'echo online_movable >/sys/devices/system/memory/auto_online_blocks';

test('nodes have the CPUs, RAM and distances of the config, and zones grow and shrink', {
  timeout: TEST_TIMEOUT_MS,
}, async () => {
  await using guest = await Guest.boot({
    cpus: 2,
    memory: '0,hotplug_method=virtio-mem',
    args: [
      ...['--memory-zone', 'id=a,size=384M', 'id=b,size=256M,hotplug_size=512M'],
      '--numa',
      'guest_numa_id=0,cpus=[0],distances=[1@15],memory_zones=[a]',
      'guest_numa_id=1,cpus=[1],distances=[0@25],memory_zones=[b]',
    ],
  });
  const node = (n: number, file: string) => `cat /sys/devices/system/node/node${n}/${file}`;
  const nodeMib = (n: number) =>
    `$(awk '/MemTotal/{print int($4/1024)}' ${node(n, 'meminfo').slice(4)})`;
  const resize = async (mib: number): Promise<void> => {
    const answer = await guest.api.put('vm.resize-zone', { id: 'b', desired_ram: mib * MIB });
    expect(answer.status).toBe(204);
  };
  const actualMib = async (): Promise<number> => {
    const { json } = await guest.api.get('vm.info');
    return (json as { memory_actual_size: number }).memory_actual_size / MIB;
  };

  expect((await guest.run('cat /sys/devices/system/node/online')).trim()).toBe('0-1');
  expect((await guest.run(node(0, 'cpulist'))).trim()).toBe('0');
  expect((await guest.run(node(1, 'cpulist'))).trim()).toBe('1');
  expect((await guest.run(node(0, 'distance'))).trim()).toBe('10 15');
  expect((await guest.run(node(1, 'distance'))).trim()).toBe('25 10');
  await guest.run(
    `a=${nodeMib(0)} b=${nodeMib(1)}; echo $a $b; test $a -gt 300 && test $a -lt 384 && test $b -gt 180 && test $b -lt 257`,
  );
  await guest.run(ONLINE);

  await resize(640);
  await expect.poll(actualMib, POLL).toBe(384 + 640);
  await guest.eventually(`test ${nodeMib(1)} -gt 560`);
  await guest.run(`test ${nodeMib(0)} -lt 384`);
  await resize(256);
  await expect.poll(actualMib, POLL).toBe(384 + 256);
  await guest.eventually(`test ${nodeMib(1)} -lt 257`);
});
