import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { bareGuest } from '../support/bare-guest.ts';

const run = promisify(execFile);

const MEMORY = 'size=64M,hotplug_method=virtio-mem,hotplug_size=128M';

/** What the hostile guest says of each rule that it broke, by `device, rule`. */
async function attack(isBehindIommu: boolean): Promise<[key: string, outcome: string][]> {
  const folder = mkdtempSync(join(tmpdir(), 'hostile-'));
  const behind = isBehindIommu ? ',iommu=on' : '';
  try {
    const disk = join(folder, 'disk.img');
    writeFileSync(disk, Buffer.alloc(1 << 20));
    const pmem = join(folder, 'pmem.img');
    writeFileSync(pmem, Buffer.alloc(2 << 20));
    const { stdout } = await run('unshare', [
      ...['-n', resolve('dist/cloud-hypervisor')], // its tap is nobody else's business
      ...['--kernel', bareGuest('hostile'), '--memory', MEMORY],
      ...['--serial', 'tty', '--console', `file=${join(folder, 'console')}${behind}`],
      ...['--disk', `path=${disk},image_type=raw${behind}`, '--net', `tap=${behind}`],
      ...['--rng', `src=/dev/urandom${behind}`],
      ...['--pmem', `file=${pmem}${behind}`],
      ...['--vsock', `cid=3,socket=${join(folder, 'vsock')}${behind}`],
      ...['--balloon', 'size=0', '--watchdog', '--rtc', ...(isBehindIommu ? ['iommu=on'] : [])],
    ]);
    expect(stdout.trimEnd().endsWith('done')).toBe(true);
    expect(readFileSync(disk)).toEqual(Buffer.alloc(1 << 20));
    const lines = stdout.trimEnd().split(/\r?\n/).slice(0, -1);
    return lines.map((line) => line.split(': ') as [string, string]);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const plain = await attack(false);
const behindIommu = (await attack(true)).map(([key, outcome]): [string, string] => [
  `behind the IOMMU, ${key}`,
  outcome,
]);
const outcomes = [...plain, ...behindIommu];
const DEVICES = [
  ...['block', 'net', 'rng', 'control of net', 'console', 'pmem', 'vsock', 'balloon', 'mem'],
  ...['watchdog', 'rtc'],
];
const RULES = new Set(plain.map(([key]) => key.split(', ')[1]));

test('every rule was broken on every device, also where there is an IOMMU', () => {
  expect(RULES.size).toBe(16);
  expect(plain).toHaveLength(DEVICES.length * RULES.size);
  expect(behindIommu).toHaveLength((DEVICES.length + 1) * RULES.size);
});

/** By itself no fault where a device has given a chain back before it looks for the next. */
const isTwice = (key: string) => key.endsWith('same head twice');

test.each(outcomes.filter(([key]) => !isTwice(key)))(
  '%s: that device alone asks for a reset, and serves again after it',
  (_, outcome) => {
    expect(outcome).toBe('needs reset 1, neighbour 1, again 1');
  },
);

test.each(outcomes.filter(([key]) => isTwice(key)))(
  '%s: whether taken or refused, it harms nobody',
  (_, outcome) => {
    expect(outcome).toMatch(/^needs reset [01], neighbour 1, again 1$/);
  },
);
