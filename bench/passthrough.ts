/**
 * Devices of the host's own: how many reads a second a Linux guest gets through to an NVMe drive
 * that is passed through, and how long its memory takes to be mapped for that, beside QEMU's
 * vfio-pci with the same drive.
 *
 *     npx tsx bench/passthrough.ts [--rounds N] [--json FILE]
 *
 * Runs where the end-to-end tests run (test/host): the drive, the IOMMU and the host are emulated.
 * Subjects alternate within each round, each with a guest of its own.
 */
import { passOnGuestImages } from '../guest-images/images.ts';
import { FIO, fioReadsPerSecond, NVME } from '../test/e2e/support/fio.ts';
import { Guest } from '../test/e2e/support/guest.ts';
import { HostDevice } from '../test/e2e/support/host-device.ts';
import { product, qemu, type Vmm } from '../test/e2e/support/vmm.ts';
import { mustExec } from '../test/host/exec.ts';
import { openHost } from '../test/host/open-host.ts';
import { again } from './support/again.ts';
import { placeOf } from './support/place.ts';
import { add, type Goal, median, report, type Samples } from './support/record.ts';
import { benchArguments } from './support/subjects.ts';
import { nameOf } from './support/vmms.ts';

const SECONDS = 5;
const MAPPED_GIB = 4;
const TRACE = '/tmp/passthrough-bench.trace';
const MAPPED_TIMEOUT_MS = 120_000;

const READS = 'random read, 4 KiB, depth 32: microseconds a request';
const MAPPING = `milliseconds in VFIO_IOMMU_MAP_DMA for ${MAPPED_GIB} GiB`;
const GOALS: Goal[] = [{ measure: READS, limit: 1, times: 'qemu' }];

const samples: Samples = new Map();

const argsOf = (vmm: Vmm, device: HostDevice): string[] =>
  vmm === product
    ? ['--device', `path=${device.path}`]
    : ['-device', `vfio-pci,host=${device.name}`];

/** With the drive taken anew, as in the next: a host that is started again has it back. */
async function measureReads(vmm: Vmm): Promise<void> {
  await using device = await HostDevice.take();
  const args = argsOf(vmm, device);
  await using guest = await Guest.boot({ vmm, cpus: 2, memory: '1G', args, programs: FIO });
  await guest.eventually(`test -b ${NVME}`);
  add(samples, READS, nameOf(vmm), 1e6 / (await fioReadsPerSecond(guest, SECONDS)));
}

/** Up to the first instruction of the guest: by then all of its memory is mapped. */
async function measureMapping(vmm: Vmm): Promise<void> {
  await using device = await HostDevice.take();
  const strace = ['strace', '-f', '-qq', '-T', '-e', 'trace=ioctl', '-o', TRACE];
  const traced: Vmm = {
    ...vmm,
    argv: async (host, machine) => [...strace, ...(await vmm.argv(host, machine))],
  };
  const { host } = device;
  await mustExec(host, `rm -f ${TRACE}`);
  const args = argsOf(vmm, device);
  await using _ = await Guest.start({ vmm: traced, memory: `${MAPPED_GIB}G`, args });
  await mustExec(host, `until grep -q KVM_RUN ${TRACE} 2>/dev/null; do sleep 0.2; done`, {
    timeoutMs: MAPPED_TIMEOUT_MS,
  });
  const calls = await mustExec(host, `grep -E 'VFIO_IOMMU_MAP_DMA|0x3b, 0x71' ${TRACE}`);
  const seconds = [...calls.matchAll(/<([\d.]+)>$/gm)].map(([, text]) => Number(text));
  if (seconds.length === 0) throw new Error(`No call ended: ${calls}`);
  add(samples, MAPPING, nameOf(vmm), 1000 * seconds.reduce((sum, each) => sum + each, 0));
}

const { rounds, json } = benchArguments(process.argv.slice(2));
await passOnGuestImages();
await using host = await openHost();
// Once for the host's memory, which an emulated host gets from its own when it is first touched.
await again(nameOf(product), () => measureMapping(product));
samples.clear();
for (let round = 0; round < rounds; round++)
  for (const vmm of [product, qemu])
    for (const measure of [measureReads, measureMapping])
      await again(nameOf(vmm), () => measure(vmm));
report('passthrough', samples, GOALS, json, await placeOf(host));
const of = (subject: string) => median(samples.get(READS)?.get(subject) ?? []);
console.log(`reads a second: ${(of('qemu') / of('ours')).toFixed(2)} × qemu`);
