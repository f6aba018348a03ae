/** A guest at its worst behind a virtio-iommu, and what the VMM makes of it. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, test } from 'vitest';
import { MIB } from '../../src/bytes.ts';
import { VmmProcess } from '../compat/support/vmm-process.ts';
import { bareGuest } from '../support/bare-guest.ts';

const BYTE = 0x5a;

interface Report {
  said: Map<string, string>;
  /** By mark, how much memory the VMM had then. */
  memoryBytes: Map<string, number>;
  /** By mark, whether it answered. */
  states: Map<string, unknown>;
}

/** Two disks behind an IOMMU of 40 bits, of which the second takes its time, and a card. */
function args(folder: string): string[] {
  const disks = ['quick', 'slow'].map((name) => join(folder, name));
  for (const path of disks) writeFileSync(path, Buffer.alloc(MIB, BYTE));
  // After some idleness the first request passes at once, and the second 0.3 s later.
  const limits = 'ops_size=1,ops_refill_time=700';
  return [
    ...['--kernel', bareGuest('hostile-iommu'), '--memory', 'size=64M'],
    ...['--serial', 'tty', '--console', 'off', '--platform', 'iommu_address_width=40'],
    '--disk',
    `path=${disks[0]},image_type=raw,iommu=on`,
    `path=${disks[1]},image_type=raw,iommu=on,${limits}`,
    ...['--net', 'tap=,iommu=on'],
  ];
}

const rssBytes = (pid: number): number =>
  1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);

/** All that the guest says until it powers off. */
async function attack(): Promise<Report> {
  const report: Report = { said: new Map(), memoryBytes: new Map(), states: new Map() };
  await using vmm = VmmProcess.launch({
    args,
    through: ['unshare', '-n'], // its tap is nobody else's business
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const { stdin, stdout } = vmm.child;
  if (!stdin || !stdout) throw new Error('No pipes');
  for await (const line of createInterface({ input: stdout })) {
    const [name = '', value = ''] = line.split(': ');
    if (name === 'mark') {
      const { body } = await vmm.get('vm.info');
      report.states.set(value, (body as { state: string }).state);
      report.memoryBytes.set(value, rssBytes(vmm.pid));
      stdin.write('\n');
    } else {
      const before = report.said.get(name) ?? value;
      report.said.set(name, before === value ? value : `${before}, then ${value}`);
    }
  }
  if (vmm.child.exitCode === null) await once(vmm.child, 'exit');
  expect([...report.said.keys()].at(-1)).toBe('done');
  return report;
}

const { said, memoryBytes, states } = await attack();

const [OK, INVALID, RANGE, NO_ENTRY] = ['0', '4', '5', '6'];
const GIVEN_BACK = 'given back';

test.each([
  ['ATTACH', OK],
  ['MAP', OK],
  ['MAP over the start of another', INVALID],
  ['MAP over the end of another', INVALID],
  ['MAP within another', INVALID],
  ['MAP around another', INVALID],
  ['MAP of the same', INVALID],
  ['MAP from within a page', RANGE],
  ['MAP to within a page', RANGE],
  ['MAP to an odd place', RANGE],
  ['MAP backwards', RANGE],
  ['MAP beyond the width', RANGE],
  ['MAP of everything', RANGE],
  ['MAP to no address', RANGE],
  ['MAP that wraps', RANGE],
  ['MAP over interrupts', INVALID],
  ['MAP with odd flags', INVALID],
  ['MAP of no domain', NO_ENTRY],
  ['UNMAP of a part', RANGE],
  ['UNMAP from the middle', RANGE],
  ['UNMAP backwards', RANGE],
  ['UNMAP of nothing', OK],
  ['UNMAP of no domain', NO_ENTRY],
  ['ATTACH of no endpoint', NO_ENTRY],
  ['ATTACH with odd flags', INVALID],
  ['ATTACH with more', INVALID],
  ['ATTACH past mappings', INVALID],
  ['DETACH from elsewhere', INVALID],
  ['DETACH of no endpoint', NO_ENTRY],
  ['PROBE of no endpoint', NO_ENTRY],
  ['PROBE without room', INVALID],
  ['request of no type', GIVEN_BACK],
  ['request that ends early', GIVEN_BACK],
  ['request of no bytes', GIVEN_BACK],
  ['request without room', GIVEN_BACK],
  ['request with little room', GIVEN_BACK],
  ['UNMAP of all', OK],
  ['DETACH', OK],
])('%s is answered with %s', (name, answer) => {
  expect(said.get(name)).toBe(answer);
});

test('mappings end, over all domains, and those of a domain that has gone make room', () => {
  expect(said.get('mappings')).toBe(`${2 ** 17}, then 8`);
  expect(said.get('MAP elsewhere')).toBe('8');
  expect(said.get('DETACH of all that')).toBe(OK);
  expect(said.get('MAP after it')).toBe(OK);
});

test.each(['UNMAP', 'UNMAP of all', 'DETACH', 'ATTACH', 'reset'])(
  '%s of what a disk is reading into is answered when it has read',
  (name) => {
    expect(said.get(`${name} in flight`)).toBe('0, read 0, data 5a');
  },
);

test.each([
  ...['rings that are not mapped', 'rings that are read-only', 'rings that go'],
  ...['a buffer that is not mapped', 'a buffer that is read-only', 'a device without a domain'],
  'receive buffers that go',
])('%s: the device asks for a reset', (name) => {
  expect(said.get(name)).toBe('needs reset 1');
});

test.each(['UNMAP of rings', 'UNMAP of receive buffers'])('%s waits for no kick', (name) => {
  expect(said.get(name)).toBe(OK);
});

test('each request of a storm of attachments, detachments and resets is answered', () => {
  expect(said.get('storm of 200')).toBe('unanswered 0');
});

test.each(['wrong requests', 'endless maps', 'unmapping', 'a storm'])(
  'the disk serves after %s',
  (what) => {
    expect(said.get(`after ${what}`)).toBe('serves 1, data 5a');
  },
);

test('the VMM answers meanwhile, and does not grow', () => {
  expect([...states.values()]).toEqual(Array(4).fill('Running'));
  const grown = (from: string, to: string) =>
    (memoryBytes.get(to) ?? Number.NaN) - (memoryBytes.get(from) ?? Number.NaN);
  expect(grown('filled', 'filled again')).toBeLessThan(8 * MIB);
  expect(grown('storm', 'more storms')).toBeLessThan(8 * MIB);
});
