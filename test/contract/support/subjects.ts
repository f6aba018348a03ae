/** Every virtio device that there is, and how to have it do something. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { normalise, normaliseCli } from '../../../src/api/dialects.ts';
import { Balloon, type BalloonConfig } from '../../../src/devices/virtio/balloon.ts';
import { Block, type DiskConfig } from '../../../src/devices/virtio/block.ts';
import { Console } from '../../../src/devices/virtio/console.ts';
import type { VirtioDevice } from '../../../src/devices/virtio/device.ts';
import { Iommu } from '../../../src/devices/virtio/iommu.ts';
import { IommuDomains } from '../../../src/devices/virtio/iommu-domains.ts';
import { Mem } from '../../../src/devices/virtio/mem.ts';
import { Net, type NetConfig } from '../../../src/devices/virtio/net.ts';
import { Pmem, type PmemConfig } from '../../../src/devices/virtio/pmem.ts';
import { Rng } from '../../../src/devices/virtio/rng.ts';
import { Rtc } from '../../../src/devices/virtio/rtc.ts';
import { Vsock, type VsockConfig } from '../../../src/devices/virtio/vsock.ts';
import { Watchdog } from '../../../src/devices/virtio/watchdog.ts';
import { native } from '../../../src/native.ts';
import { tapFiles } from '../../support/tap-exec.ts';
import { Echo } from '../../unit/support/echo.ts';
import { FakeCharHost } from '../../unit/support/fake-char-host.ts';
import type { Request } from './rig.ts';

/** RAM beside that of the rigs, for devices that give some back. */
const discarding = new native.GuestMemory();
discarding.addRegion({
  ...{ gpa: 0, sizeBytes: 1 << 24, shared: false, thp: false, discardable: true },
});

export interface Subject {
  name: string;
  create: () => VirtioDevice;
  /** One that it answers without further ado. */
  request: Request;
  /** How often its driver does its worst at a time, where that takes long. */
  rounds?: number;
  /** How many its queue holds, two descriptors each; 100 if absent. */
  atOnce?: number;
}

function disk(): Block {
  const folder = mkdtempSync(join(tmpdir(), 'contract-disk-'));
  const path = join(folder, 'disk.img');
  writeFileSync(path, new Uint8Array(4096));
  const [config] = normalise({ disks: [{ path, queue_size: 256 }] }).config.disks as [DiskConfig];
  const made = new Block(config, {
    id: '_disk0',
    rateLimitGroups: new Map(),
    onWarning: () => {},
  });
  rmSync(folder, { recursive: true });
  return made;
}

function pmem(): Pmem {
  const folder = mkdtempSync(join(tmpdir(), 'contract-pmem-'));
  const file = join(folder, 'pmem.img');
  writeFileSync(file, new Uint8Array(2 << 20));
  const [config] = normalise({ pmem: [{ file }] }).config.pmem as [PmemConfig];
  const made = new Pmem(config, { id: '_pmem0', onWarning: () => {}, mapFile: () => 1 << 30 });
  rmSync(folder, { recursive: true });
  return made;
}

/** A file for each card: what it sends goes nowhere. */
const taps: number[] = [];
for (let i = 0; i < 8; i++) taps.push(...(await tapFiles(8)));
let cards = 0;

function card(): Net {
  const [config] = normaliseCli({ payload: {}, net: [{ fds: [taps[cards++]] }] }).net as [
    NetConfig,
  ];
  return new Net(config, { id: '_net0', onWarning: () => {} });
}

function balloon(): Balloon {
  const { config } = normalise({ balloon: { size: 0, free_page_reporting: true } });
  const context = {
    id: '__balloon',
    discard: (ranges: Float64Array) => discarding.discard(ranges),
    onWarning: () => {},
  };
  return new Balloon(config.balloon as BalloonConfig, context);
}

function mem(): Mem {
  const blocks = {
    ...{ gpa: 0, regionBytes: 1 << 24, blockBytes: 2 << 20 },
    ...{ usableBytes: 1 << 24, requestedBytes: 1 << 24, plugged: new Uint8Array(8) },
  };
  return new Mem(blocks, {
    ...{ id: 'mem0', memory: discarding, onWarning: () => {} },
    blocksChanged: async () => {},
  });
}

function vsock(): Vsock {
  const folder = mkdtempSync(join(tmpdir(), 'contract-vsock-'));
  const socket = join(folder, 'socket');
  const [config] = normalise({ vsock: { cid: 3, socket } }).config.vsock as [VsockConfig];
  const made = new Vsock(config, { id: '_vsock0', onWarning: () => {} });
  rmSync(folder, { recursive: true });
  return made;
}

export const SUBJECTS: readonly Subject[] = [
  {
    name: 'disk',
    create: disk,
    // A header of zeros: the first sector is to be read, and there is room for it and the status.
    request: { queue: 0, readableBytes: 16, writableBytes: 513 },
    rounds: 20, // each has a thread start and end
  },
  {
    name: 'net',
    create: card,
    request: { queue: 1, readableBytes: 12 + 60, writableBytes: 0 },
    rounds: 20,
  },
  {
    name: 'net control',
    create: card,
    request: { queue: 2, readableBytes: 3, writableBytes: 1 },
    rounds: 20,
  },
  {
    name: 'rng',
    create: () => new Rng({ src: '/dev/urandom' }, { onWarning: () => {} }),
    request: { queue: 0, readableBytes: 0, writableBytes: 300 },
  },
  {
    name: 'console',
    create: () => new Console(new FakeCharHost()),
    request: { queue: 1, readableBytes: 100, writableBytes: 0 },
  },
  {
    name: 'persistent memory',
    create: pmem,
    request: { queue: 0, readableBytes: 4, writableBytes: 4 },
    rounds: 20, // a flush each
  },
  {
    name: 'balloon',
    create: balloon,
    request: { queue: 0, readableBytes: 4, writableBytes: 0 },
  },
  {
    name: 'memory by the block',
    create: mem,
    // To plug no block at all: refused.
    request: { queue: 0, readableBytes: 24, writableBytes: 10 },
  },
  {
    name: 'vsock',
    create: vsock,
    // A packet of zeros, of no type: it is taken, and reset where there is room for that.
    request: { queue: 1, readableBytes: 44, writableBytes: 0 },
    rounds: 20, // each has a thread start and end
  },
  {
    name: 'watchdog',
    create: () => new Watchdog({ resetGuest: () => {}, onWarning: () => {} }),
    request: { queue: 0, readableBytes: 0, writableBytes: 1 },
    atOnce: 4,
  },
  {
    name: 'rtc',
    create: () => new Rtc(() => 0n),
    request: { queue: 0, readableBytes: 16, writableBytes: 16 },
  },
  {
    name: 'iommu',
    create: () => new Iommu(new IommuDomains(native, { addressBits: 64 })),
    // To probe an endpoint that is not there.
    request: { queue: 0, readableBytes: 72, writableBytes: 516 },
  },
  {
    name: 'toy',
    create: () => new Echo(),
    request: { queue: 0, readableBytes: 100, writableBytes: 100 },
  },
];
