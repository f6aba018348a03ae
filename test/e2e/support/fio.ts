/** fio on a passed-through NVMe drive. */
import type { Guest } from './guest.ts';

/** To be among the guest's programs. */
export const FIO = { fio: '/usr/bin/fio' };

export const NVME = '/dev/nvme0n1';

const TIMEOUT_MS = 240_000;

/** Keeps the drive busy until it is gone, and says so by a file `/ended`. */
export const NVME_LOAD =
  `(while dd if=/dev/zero of=${NVME} bs=64k count=16 oflag=direct; do :; done; touch /ended) ` +
  '>/dev/null 2>&1 &';

const job = (options: string): string =>
  `fio --name=job --filename=${NVME} --bs=4k --iodepth=32 --ioengine=libaio --direct=1 --thread ` +
  `--minimal ${options}`;

/** Of what `--minimal` prints, from 0 on. */
const FIELD = { error: 4, readKib: 5, readsPerSecond: 7 } as const;

async function run(guest: Guest, options: string): Promise<(field: keyof typeof FIELD) => number> {
  const said = await guest.run(job(options), TIMEOUT_MS);
  const fields = said.trim().split('\n').at(-1)?.split(';') ?? [];
  return (field) => Number(fields[FIELD[field]]);
}

/** Reads blocks at random, 32 at a time. */
export async function fioReadsPerSecond(guest: Guest, seconds: number): Promise<number> {
  const field = await run(guest, `--rw=randread --time_based --runtime=${seconds}`);
  return field('readsPerSecond');
}

/** Writes blocks at random, 32 at a time, then reads and checks each. */
export async function fioVerify(guest: Guest, mib = 4): Promise<void> {
  const checks = '--verify=crc32c --verify_fatal=1 --verify_state_save=0';
  const field = await run(guest, `--rw=randwrite --size=${mib}M ${checks}`);
  const [error, readKib] = [field('error'), field('readKib')];
  if (error !== 0 || readKib !== mib * 1024)
    throw new Error(`fio checked ${readKib} KiB of ${mib} MiB, with error ${error}`);
}
