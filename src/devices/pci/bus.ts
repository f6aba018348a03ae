/**
 * PCI bus 0 of a segment: 32 slots of one function each, reached through memory (ECAM, PCI Express
 * 5.0 §7.2.2), and that of segment 0 through ports 0xcf8 and 0xcfc (PCI Local Bus 3.0 §3.2.2.3.2).
 */
import { strict as assert } from 'node:assert';
import { allOnes } from '../../bytes.ts';
import type { LateHandler, Later } from '../../native.ts';
import * as aml from '../acpi/aml.ts';
import type { AmlSource, LateBusDevice } from '../device.ts';
import { ConfigSpace, FUNCTION_BYTES } from './config-space.ts';

const SLOT_COUNT = 32;
/** Of devices: slot 0 has the host bridge. */
export const DEVICE_SLOTS: readonly number[] = Array.from(
  { length: SLOT_COUNT },
  (_, n) => n,
).slice(1);
const FUNCTIONS_PER_SLOT = 8;

/** The address register, then the data that it leads to. */
const PORT_COUNT = 8;
const DATA = { offset: 4, sizeBytes: 4 } as const;
const ADDRESS_ENABLE = 0x8000_0000;

interface Addresses {
  gpa: number;
  sizeBytes: number;
}

export interface PciBusOptions {
  /** 0 if absent. */
  segment?: number;
  /** Of the first segment alone: 0xcf8, and what the address register there holds. */
  ports?: { base: number; address(): number } | undefined;
  /** 1 MiB: all of bus 0. */
  ecam: Addresses;
  /** The NUMA node that it is in, if there are nodes. */
  node?: number | undefined;
  /** Where BARs may lie, below and above 4 GiB. */
  window32: Addresses;
  window64: Addresses;
  /** Of the interrupt line that the functions of a slot share. */
  lineGsi(slot: number): number;
}

const bridgeName = (segment: number): string =>
  `PC${segment.toString(16).toUpperCase().padStart(2, '0')}`;

export class PciBus implements AmlSource {
  /** The ports of the data. */
  readonly data: LateBusDevice;
  readonly ecam: LateBusDevice;
  readonly #options: PciBusOptions;
  readonly #slots = new Array<LateHandler | undefined>(SLOT_COUNT).fill(undefined);

  constructor(options: PciBusOptions) {
    this.#options = options;
    const { ports } = options;
    const { offset, sizeBytes } = DATA;
    this.data = {
      claims: ports ? [{ space: 'port', base: ports.base + offset, sizeBytes }] : [],
      read: (byte, width) => this.#readData(byte, width),
      write: (byte, width, value) => this.#writeData(byte, width, value),
    };
    this.ecam = {
      claims: [{ space: 'mmio', base: options.ecam.gpa, sizeBytes: options.ecam.sizeBytes }],
      read: (offset, sizeBytes) => this.#read(offset, sizeBytes),
      write: (offset, sizeBytes, value) => this.#write(offset, sizeBytes, value),
    };
    this.add(0, new ConfigSpace({ vendorId: 0x8086, deviceId: 0x0d57, classCode: 0x060000 }));
  }

  /** Of its host bridge in the guest's namespace. */
  get path(): string {
    return `\\_SB.${bridgeName(this.#options.segment ?? 0)}`;
  }

  /** Where BARs may lie. */
  window(width: 32 | 64): Addresses {
    return width === 32 ? this.#options.window32 : this.#options.window64;
  }

  /** The slot must be free. */
  add(slot: number, space: LateHandler): void {
    assert(slot >= 0 && slot < SLOT_COUNT && !this.#slots[slot], `PCI slot ${slot} is not free`);
    this.#slots[slot] = space;
  }

  /** Its registers read all ones from now on. */
  remove(slot: number): void {
    this.#slots[slot] = undefined;
  }

  /** `offset` from the start of ECAM: 4 KiB a function, eight functions a slot. */
  #function(offset: number): LateHandler | undefined {
    const index = Math.floor(offset / FUNCTION_BYTES);
    return index % FUNCTIONS_PER_SLOT === 0 ? this.#slots[index / FUNCTIONS_PER_SLOT] : undefined;
  }

  #read(offset: number, sizeBytes: number): Later<number> {
    const space = this.#function(offset);
    return space ? space.read(offset % FUNCTION_BYTES, sizeBytes) : allOnes(sizeBytes);
  }

  #write(offset: number, sizeBytes: number, value: number): Later<void> {
    return this.#function(offset)?.write(offset % FUNCTION_BYTES, sizeBytes, value);
  }

  #readData(byte: number, sizeBytes: number): Later<number> {
    const target = this.#target(byte);
    return target === undefined ? allOnes(sizeBytes) : this.#read(target, sizeBytes);
  }

  #writeData(byte: number, sizeBytes: number, value: number): Later<void> {
    const target = this.#target(byte);
    return target === undefined ? undefined : this.#write(target, sizeBytes, value);
  }

  /** What the data ports stand for now, as an offset into ECAM; other buses have nothing. */
  #target(byte: number): number | undefined {
    const address = this.#options.ports?.address() ?? 0;
    const bus = (address >>> 16) & 0xff;
    if (byte < 0 || byte > 3 || address < ADDRESS_ENABLE || bus !== 0) return undefined;
    const slotAndFunction = (address >>> 8) & 0xff;
    return slotAndFunction * FUNCTION_BYTES + (address & 0xfc) + byte;
  }

  aml(): aml.Aml[] {
    const { segment = 0, ports, ecam, window32, window64, node } = this.#options;
    const io = ports
      ? [
          aml.ioPorts(ports.base, PORT_COUNT),
          aml.ioWindow(0, ports.base),
          aml.ioWindow(ports.base + PORT_COUNT, 0x1_0000 - ports.base - PORT_COUNT),
        ]
      : [];
    return [
      aml.device(
        bridgeName(segment),
        aml.name('_HID', aml.eisaId('PNP0A08')),
        aml.name('_CID', aml.eisaId('PNP0A03')),
        aml.name('_UID', segment),
        aml.name('_SEG', segment),
        ...(node === undefined ? [] : [aml.name('_PXM', node)]),
        aml.name(
          '_CRS',
          aml.resources(
            aml.busNumbers(0, 1),
            ...io,
            aml.memory32Fixed(ecam.gpa, ecam.sizeBytes),
            aml.memory32Window(window32.gpa, window32.sizeBytes),
            aml.memory64Window(window64.gpa, window64.sizeBytes),
          ),
        ),
        interruptLines(this.#options.lineGsi),
        osc(),
      ),
    ];
  }
}

/** ACPI 6.5 §6.2.13: pin A of each slot, wired to a GSI. Devices here have no other. */
const interruptLines = (lineGsi: (slot: number) => number): aml.Aml =>
  aml.name(
    '_PRT',
    aml.packageOf(
      ...DEVICE_SLOTS.map((slot) => aml.packageOf(slot * 0x1_0000 + 0xffff, 0, 0, lineGsi(slot))),
    ),
  );

/**
 * PCI Firmware 3.3 §4.1.2: ECAM is reserved by a motherboard resource, or Linux mistrusts it.
 * @param ecams of all segments.
 */
export const motherboard = (ecams: readonly Addresses[]): AmlSource => ({
  aml: () => [
    aml.device(
      'MBRD',
      aml.name('_HID', aml.eisaId('PNP0C02')),
      aml.name('_UID', 0),
      aml.name(
        '_CRS',
        aml.resources(...ecams.map(({ gpa, sizeBytes }) => aml.memory32Fixed(gpa, sizeBytes))),
      ),
    ),
  ],
});

const PCI_HOST_BRIDGE = '33db4d5b-1ff7-401c-9657-7441c03dd766';
/**
 * PME, AER, the PCI Express capability and LTR; hot-plug, native and SHPC, is not there to give.
 */
const GRANTED = 0x3c;
// Bits of the first DWORD that is returned.
const UNKNOWN_UUID = 1 << 2;
const UNKNOWN_REVISION = 1 << 3;
const MASKED = 1 << 4;

/** Lets the guest control what it asks for and we have: PCI Firmware 3.3 §4.5.1, ACPI §6.2.11. */
function osc(): aml.Aml {
  const [id, revision, capabilities] = [aml.arg(0), aml.arg(1), aml.arg(3)] as const;
  const [result, control, granted] = [aml.path('CDW1'), aml.path('CDW3'), aml.local(0)] as const;
  return aml.method(
    '_OSC',
    4,
    aml.createDwordField(capabilities, 0, 'CDW1'),
    aml.when(
      aml.equal(id, aml.uuid(PCI_HOST_BRIDGE)),
      aml.createDwordField(capabilities, 8, 'CDW3'),
      aml.bitAnd(control, GRANTED, granted),
      aml.when(aml.not(aml.equal(revision, 1)), aml.bitOr(result, UNKNOWN_REVISION, result)),
      aml.when(aml.not(aml.equal(granted, control)), aml.bitOr(result, MASKED, result)),
      aml.store(granted, control),
    ),
    aml.otherwise(aml.bitOr(result, UNKNOWN_UUID, result)),
    aml.returnValue(capabilities),
  );
}
