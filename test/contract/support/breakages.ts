/** Each rule of VIRTIO 1.2 §2.7 that a driver can break, as it would write it into its rings. */
import type { GuestMemory } from '../../../src/native.ts';
import { F_NEXT, F_WRITE, type RingDriver } from '../../support/ring-driver.ts';
import { RAM_BYTES } from './rig.ts';

interface Breakage {
  name: string;
  write: (ring: RingDriver, memory: GuestMemory) => void;
}

const F_INDIRECT = 4;
const BUFFER_GPA = 0x20_0000;

interface Descriptor {
  gpa?: number;
  sizeBytes?: number;
  flags?: number;
  next?: number;
}

function descriptor({ gpa = BUFFER_GPA, sizeBytes = 16, flags = 0, next = 0 }: Descriptor) {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(BigInt(gpa));
  bytes.writeUInt32LE(sizeBytes, 8);
  bytes.writeUInt16LE(flags, 12);
  bytes.writeUInt16LE(next, 14);
  return bytes;
}

/** One chain whose descriptors are these, offered as head 0. */
const chain =
  (...descriptors: Descriptor[]): Breakage['write'] =>
  (ring, memory) => {
    memory.write(ring.descGpa, Buffer.concat(descriptors.map(descriptor)));
    ring.offer(0);
  };

export const BREAKAGES: readonly Breakage[] = [
  {
    name: 'more requests than entries',
    write: ({ availGpa, size }, memory) =>
      memory.write(availGpa + 2, Uint8Array.of((size + 1) & 0xff, (size + 1) >> 8)),
  },
  { name: 'a head beyond its entries', write: (ring) => ring.offer(ring.size) },
  {
    name: 'a next beyond its entries',
    write: (ring, memory) => chain({ flags: F_NEXT, next: ring.size })(ring, memory),
  },
  { name: 'a chain in a loop', write: chain({ flags: F_NEXT, next: 0 }) },
  {
    name: 'room before what is to be read',
    write: chain({ flags: F_NEXT | F_WRITE, next: 1 }, {}),
  },
  { name: 'a buffer beyond RAM', write: chain({ gpa: RAM_BYTES }) },
  { name: 'a buffer that leaves RAM', write: chain({ gpa: RAM_BYTES - 8 }) },
  {
    name: 'a buffer that wraps around',
    write: chain({ gpa: Number.MAX_SAFE_INTEGER, sizeBytes: 0xffff_ffff }),
  },
  { name: 'an indirect table of no entry', write: chain({ flags: F_INDIRECT, sizeBytes: 0 }) },
  { name: 'an indirect table of odd size', write: chain({ flags: F_INDIRECT, sizeBytes: 17 }) },
  {
    name: 'an indirect table beyond RAM',
    write: chain({ flags: F_INDIRECT, gpa: RAM_BYTES }),
  },
  {
    name: 'an indirect table within another',
    write: (ring, memory) => {
      memory.write(BUFFER_GPA, descriptor({ flags: F_INDIRECT }));
      chain({ flags: F_INDIRECT })(ring, memory);
    },
  },
  {
    name: 'an indirect table with a next',
    write: chain({ flags: F_INDIRECT | F_NEXT, next: 1 }, {}),
  },
];
