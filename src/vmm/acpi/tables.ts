/**
 * The ACPI tables but for what the DSDT says: pure functions from plain data to bytes. ACPI 6.5
 * §5.2. Guests match quirks on the ids in the headers, so those are the original's.
 */
import { Writer } from '../../bytes.ts';
import { VmmError } from '../../errors.ts';
import { GSI, MEMORY, PORTS, segmentEcam } from '../layout.ts';
import { checksum, HEADER_BYTES, OEM_ID, table } from './header.ts';
import { type IommuTables, viot } from './iommu.ts';
import { type NumaTables, slit, srat } from './numa.ts';
import type { Processor } from './processor.ts';

/** What the tables beside the DSDT tell of. */
export interface Machine {
  processors: readonly Processor[];
  /** How many there are of PCI. */
  segments: number;
  numa?: NumaTables | undefined;
  iommu?: IommuTables | undefined;
}

/** A blob for guest memory. */
export interface Tables {
  gpa: number;
  bytes: Uint8Array;
}

/**
 * All tables, packed from the RSDP up, in the original's order: DSDT, FADT, MADT, MCFG, SRAT and
 * SLIT if there are NUMA nodes, VIOT if there is an IOMMU, XSDT.
 * @param terms what the DSDT holds.
 * @throws VmmError 'invalid-config' if they do not fit below `MEMORY.smbios`.
 */
export function buildAcpi(
  terms: readonly Uint8Array[],
  { processors, segments, numa, iommu }: Machine,
): Tables {
  const { gpa, sizeBytes } = MEMORY.acpi;
  const blobs: Uint8Array[] = [];
  let end = gpa + RSDP_BYTES;
  const place = (bytes: Uint8Array): number => {
    const at = end;
    blobs.push(bytes);
    end += bytes.length;
    return at;
  };
  const dsdt = place(table('DSDT', 6, Buffer.concat(terms)));
  const nearness = numa ? [srat(numa, processors), slit(numa)] : [];
  const behind = iommu ? [viot(iommu)] : [];
  const listed = [fadt(dsdt), madt(processors), mcfg(segments), ...nearness, ...behind].map(place);
  const root = place(xsdt(listed));
  if (end > gpa + sizeBytes) throw tooMuch(end - gpa, sizeBytes);
  return { gpa, bytes: Buffer.concat([rsdp(root), ...blobs]) };
}

/** 254 processors, 96 segments and 128 NUMA nodes do fit, and 500 devices behind an IOMMU. */
const tooMuch = (bytes: number, room: number): VmmError =>
  new VmmError(
    'invalid-config',
    `The ACPI tables take ${bytes} bytes, for which there are ${room}: give the VM less of ` +
      'platform.num_pci_segments, cpus.max_vcpus or numa, or put devices behind the IOMMU by ' +
      'platform.iommu_segments',
  );

const RSDP_BYTES = 36;
const RSDP_V1_BYTES = 20;

/** §5.2.5.3. */
function rsdp(xsdtGpa: number): Uint8Array {
  const { bytes } = new Writer(RSDP_BYTES)
    .ascii(0, 'RSD PTR ')
    .ascii(9, OEM_ID)
    .u8(15, 2) // revision: the XSDT counts
    .u32(20, RSDP_BYTES)
    .u64(24, xsdtGpa);
  bytes[8] = checksum(bytes.subarray(0, RSDP_V1_BYTES));
  bytes[32] = checksum(bytes);
  return bytes;
}

/** §5.2.8. */
function xsdt(gpas: number[]): Uint8Array {
  const body = new Writer(8 * gpas.length);
  gpas.forEach((gpa, i) => {
    body.u64(8 * i, gpa);
  });
  return table('XSDT', 1, body.bytes);
}

/** Written to the reset register, it resets. */
const RESET_VALUE = 1;

// FADT flags.
const TIMER_32_BITS = 1 << 8;
const RESET_REGISTER = 1 << 10;
const HARDWARE_REDUCED = 1 << 20;

/**
 * §5.2.9; offsets as in the specification, which count from the header. No FACS, no PM1, no GPE.
 */
function fadt(dsdtGpa: number): Uint8Array {
  const shutdown = ioRegister(PORTS.shutdown.base, 1);
  const body = new Writer(276 - HEADER_BYTES);
  const at = (offset: number): number => offset - HEADER_BYTES;
  body
    .u32(at(112), TIMER_32_BITS | RESET_REGISTER | HARDWARE_REDUCED)
    .put(at(116), shutdown) // reset register
    .u8(at(128), RESET_VALUE)
    .u8(at(131), 3) // minor version
    .u64(at(140), dsdtGpa)
    .put(at(208), ioRegister(PORTS.pmTimer.base, 4))
    .put(at(244), shutdown) // sleep control
    .put(at(256), shutdown) // sleep status
    .ascii(at(268), 'CLOUDHYP'); // hypervisor vendor
  return table('FACP', 6, body.bytes);
}

/** §5.2.3.2, in system I/O space; the access sizes are 1 for a byte, 3 for four. */
const ioRegister = (port: number, sizeBytes: 1 | 4): Uint8Array =>
  new Writer(12)
    .u8(0, 1)
    .u8(1, 8 * sizeBytes)
    .u8(3, sizeBytes === 1 ? 1 : 3)
    .u64(4, port).bytes;

const ENABLED = 1 << 0;
/** Without it Linux refuses a processor that is plugged later. */
const ONLINE_CAPABLE = 1 << 1;

/** §5.2.12: local x2APICs, one IOAPIC for GSIs from 0 up, and the serial line kept where it is. */
function madt(processors: readonly Processor[]): Uint8Array {
  const x2apics = processors.map(({ apicId, present }, uid) =>
    x2apic(apicId, ONLINE_CAPABLE | (present ? ENABLED : 0), uid),
  );
  const ioapic = new Writer(12).u8(0, 1).u8(1, 12).u32(4, MEMORY.ioapic.gpa);
  const override = new Writer(10).u8(0, 2).u8(1, 10).u8(3, GSI.serial).u32(4, GSI.serial);
  const head = new Writer(8).u32(0, MEMORY.lapic.gpa);
  const parts = [head.bytes, ...x2apics, ioapic.bytes, override.bytes];
  return table('APIC', 5, Buffer.concat(parts), 'MADT');
}

/** §5.2.12.12. */
const x2apic = (apicId: number, flags: number, uid: number): Uint8Array =>
  new Writer(16).u8(0, 9).u8(1, 16).u32(4, apicId).u32(8, flags).u32(12, uid).bytes;

/** Of a processor once it is plugged: what its `_MAT` says, §6.2.10. */
export const madtEntry = ({ apicId }: Processor, uid: number): Uint8Array =>
  x2apic(apicId, ENABLED, uid);

const MCFG_HEAD_BYTES = 8;
const MCFG_ENTRY_BYTES = 16;

/** PCI Firmware 3.3 §4.1.2: of each segment, from bus 0 to bus 0. */
function mcfg(segments: number): Uint8Array {
  const body = new Writer(MCFG_HEAD_BYTES + MCFG_ENTRY_BYTES * segments);
  for (let segment = 0; segment < segments; segment++) {
    const at = MCFG_HEAD_BYTES + MCFG_ENTRY_BYTES * segment;
    body.u64(at, segmentEcam(segment).gpa).u16(at + 8, segment);
  }
  return table('MCFG', 1, body.bytes);
}
