/** The ACPI tables of what lies close to what. ACPI 6.5 §5.2.16 (SRAT) and §5.2.17 (SLIT). */
import { Writer } from '../../bytes.ts';
import type { PciPlace } from '../../devices/device.ts';
import type { NumaMemory } from '../numa.ts';
import { table } from './header.ts';
import type { Processor } from './processor.ts';

/** A PCI function; its bus is 0. */
interface Initiator extends PciPlace {
  node: number;
}

/** What the tables say. */
export interface NumaTables {
  /** What the distances are asked of. */
  localities: number;
  distance(from: number, to: number): number;
  memory: readonly NumaMemory[];
  initiators: readonly Initiator[];
}

const ENABLED = 1 << 0;
const HOT_PLUGGABLE = 1 << 1;
/** Of a device handle: that of a PCI function. */
const PCI_HANDLE = 1;

export function srat(numa: NumaTables, processors: readonly Processor[]): Uint8Array {
  const head = new Writer(12).u32(0, 1); // a field of old, always 1
  const parts = [
    ...processors.flatMap(({ apicId, node }) => (node === undefined ? [] : cpu(apicId, node))),
    ...numa.memory.map(memory),
    ...numa.initiators.map(initiator),
  ];
  return table('SRAT', 3, Buffer.concat([head.bytes, ...parts]));
}

/** §5.2.16.3. */
const cpu = (apicId: number, node: number): Uint8Array =>
  new Writer(24).u8(0, 2).u8(1, 24).u32(4, node).u32(8, apicId).u32(12, ENABLED).bytes;

/** §5.2.16.2. */
const memory = ({ gpa, sizeBytes, node, isPluggable }: NumaMemory): Uint8Array =>
  new Writer(40)
    .u8(0, 1)
    .u8(1, 40)
    .u32(2, node)
    .u64(8, gpa)
    .u64(16, sizeBytes)
    .u32(28, ENABLED | (isPluggable ? HOT_PLUGGABLE : 0)).bytes;

/** §5.2.16.6. */
const initiator = ({ node, segment, slot }: Initiator): Uint8Array =>
  new Writer(32)
    .u8(0, 5)
    .u8(1, 32)
    .u8(3, PCI_HANDLE)
    .u32(4, node)
    .u16(8, segment)
    .u8(11, slot << 3) // bus and function: byte 10 is the bus
    .u32(24, ENABLED).bytes;

/** A row of distances for each node that there may be, also where ids leave gaps. */
export function slit({ localities, distance }: Pick<NumaTables, 'localities' | 'distance'>) {
  const body = new Writer(8 + localities ** 2).u64(0, localities);
  for (let from = 0; from < localities; from++)
    for (let to = 0; to < localities; to++) body.u8(8 + from * localities + to, distance(from, to));
  return table('SLIT', 1, body.bytes);
}
