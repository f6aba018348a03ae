/**
 * The configuration space that a guest sees of a function that is handed to it. PCI Local Bus 3.0
 * §6, PCI Express 5.0 §7. Where BARs lie, interrupts, power states and resets are ours; of the rest
 * the guest reads what the device has, and writes what harms nobody: bus mastering, and
 * capabilities of the vendor's. Linux filters that once more.
 */
import { allOnes, Reader } from '../../bytes.ts';
import { allOf } from '../../in-turn.ts';
import type { LateHandler, Later } from '../../native.ts';
import { VFIO } from '../../native-vfio.ts';
import {
  CAPABILITIES_POINTER,
  type Capability,
  type CapabilityList,
  COMMAND,
  COMMAND_BUS_MASTER,
  COMMAND_MEMORY,
  COMMAND_NO_INTX,
  ConfigSpace,
  FUNCTION_BYTES,
  HEADER_BYTES,
  STATUS,
  STATUS_CAPABILITIES,
  withinDword,
} from '../pci/config-space.ts';
import { CAPABILITY, type Chain, findCapabilities, rewriteExtended } from './capabilities.ts';
import type { VfioBackend } from './device.ts';

const REVISION = 0x08;
const HEADER_TYPE = 0x0c;
const INTERRUPT = 0x3c;

// Offsets in capabilities: power management, PCI Express, advanced features.
const PM_CAPABILITIES = 2;
const PM_STATUS = 4;
const PM_STATES = 0b11;
const PM_NO_SOFT_RESET = 1 << 3;
const PCIE_DEVICE_CAPABILITIES = 4;
const PCIE_RESETS = 1 << 28;
const PCIE_DEVICE_CONTROL = 8;
const AF_CAPABILITIES = 3;
const AF_RESETS = 1 << 1;
const AF_CONTROL = 4;

export interface VfioConfigSpaceOptions {
  device: Pick<VfioBackend, 'read' | 'write' | 'settled'>;
  /** The device's own, as VfioBackend.readConfig has it. */
  config: Uint8Array;
  /** Of its interrupt line, if it has one. */
  lineGsi: number | undefined;
  /** Whether the guest lets it raise its interrupt line. Within the guest's write. */
  onLine(isOn: boolean): void;
  /** The guest has it reset. Within its write: it only starts the work. */
  onReset(): void;
}

interface Placed {
  capability: Capability;
  start: number;
  end: number;
}

export class VfioConfigSpace implements LateHandler {
  /** Identity, command and BARs. */
  readonly header: ConfigSpace;
  readonly #options: VfioConfigSpaceOptions;
  readonly #chain: Chain;
  /** What is ours, and by bit whether it is, and whether the guest may write it. */
  readonly #bytes = new Uint8Array(FUNCTION_BYTES);
  readonly #ours = new Uint8Array(FUNCTION_BYTES);
  readonly #writable = new Uint8Array(FUNCTION_BYTES);
  readonly #placed: Placed[] = [];
  #isMaster = false;

  /** @throws RangeError if a capability does not fit in. */
  constructor(options: VfioConfigSpaceOptions) {
    const { config, lineGsi } = options;
    this.#options = options;
    const own = Uint8Array.from(config.subarray(0, FUNCTION_BYTES));
    own[HEADER_TYPE + 2] = 0; // one function, no bridge
    const fields = new Reader(own);
    this.header = new ConfigSpace({
      ...{ vendorId: fields.u16(0), deviceId: fields.u16(2) },
      ...{ classCode: fields.u32(REVISION) >>> 8, revision: fields.u8(REVISION) },
      ...{ subsystemVendorId: fields.u16(0x2c), subsystemId: fields.u16(0x2e) },
    });
    this.#bytes.set(own);
    this.#ours.fill(0xff, own.length); // there is no more of it: zeroes
    this.#ours.fill(0xff, 0, HEADER_BYTES);
    this.#bytes.set([lineGsi ?? 0xff, lineGsi === undefined ? 0 : 1, 0, 0], INTERRUPT);
    this.#writable[INTERRUPT] = 0xff;
    this.#chain = findCapabilities(own);
    this.#relink();
    this.#emulate(fields);
    // Linux answers accesses to BARs only while the device itself does. The guest's bit is ours.
    this.#setMaster(false);
  }

  /** Where a capability begins; undefined if there is none. */
  find(id: number): number | undefined {
    return this.#chain.kept.find((one) => one.id === id)?.offset;
  }

  /** Puts one of ours in place of that of the device's. */
  at(offset: number): CapabilityList {
    return {
      addCapability: (capability) => {
        const start = offset + 2;
        const end = start + capability.body.length;
        this.#bytes.set(capability.body, start);
        this.#ours.fill(0xff, start, end);
        if (capability.writable) this.#writable.set(capability.writable, start);
        this.#placed.push({ capability, start, end });
        return this.#bytes.subarray(start, end);
      },
    };
  }

  read(offset: number, sizeBytes: number): Later<number> {
    if (!withinDword(offset, sizeBytes)) return allOnes(sizeBytes);
    if (isOfHeader(offset)) return this.#readHeader(offset, sizeBytes);
    for (const { capability, start, end } of this.#placed)
      if (offset < end && offset + sizeBytes > start)
        capability.onRead?.(offset - start, sizeBytes);
    if (this.#isOurs(offset, sizeBytes)) return this.#merge(offset, sizeBytes, 0);
    const own = this.#options.device.read(VFIO.configRegion, offset, sizeBytes);
    return typeof own === 'number'
      ? this.#merge(offset, sizeBytes, own)
      : own.then((value) => this.#merge(offset, sizeBytes, value));
  }

  /** What is ours, and where that is not, what the device says. */
  #merge(offset: number, sizeBytes: number, own: number): number {
    let value = 0;
    for (let i = sizeBytes - 1; i >= 0; i--) {
      const ours = this.#ours[offset + i] ?? 0;
      const byte = ((this.#bytes[offset + i] ?? 0) & ours) | ((own >>> (8 * i)) & 0xff & ~ours);
      value = value * 0x100 + byte;
    }
    return value;
  }

  /** Done when the device has done what follows from it. */
  write(offset: number, sizeBytes: number, value: number): Later<void> {
    const ours = withinDword(offset, sizeBytes) ? this.#write(offset, sizeBytes, value) : undefined;
    return allOf([ours, this.#options.device.settled()]);
  }

  #write(offset: number, sizeBytes: number, value: number): Later<void> {
    if (isOfHeader(offset)) {
      void this.header.write(offset, sizeBytes, value);
      if (offset < STATUS) this.#commanded();
      return;
    }
    for (let i = 0; i < sizeBytes; i++) {
      const mask = this.#writable[offset + i] ?? 0;
      const byte = (value >>> (8 * i)) & mask;
      this.#bytes[offset + i] = ((this.#bytes[offset + i] ?? 0) & ~mask) | byte;
    }
    if (this.#isVendors(offset, sizeBytes)) this.#writeDevice(offset, sizeBytes, value);
    if (this.#asksReset(offset, sizeBytes, value)) this.#options.onReset();
    return allOf(
      this.#placed
        .filter(({ start, end }) => offset < end && offset + sizeBytes > start)
        .map(({ capability, start }) => capability.onWrite?.(offset - start, sizeBytes)),
    );
  }

  /** The device reads and writes guest memory no more, whatever the guest has said. */
  stopMastering(): void {
    this.#setMaster(false);
  }

  #readHeader(offset: number, sizeBytes: number): number {
    const dword = this.header.read(offset & ~3, 4);
    const isStatus = (offset & ~3) === COMMAND && this.#chain.kept.length > 0;
    const whole = isStatus ? dword | (STATUS_CAPABILITIES << 16) : dword;
    return ((whole >>> (8 * (offset & 3))) & allOnes(sizeBytes)) >>> 0;
  }

  #commanded(): void {
    const command = this.header.read(COMMAND, 2);
    const isMaster = (command & COMMAND_BUS_MASTER) !== 0;
    if (isMaster !== this.#isMaster) this.#setMaster(isMaster);
    this.#options.onLine((command & COMMAND_NO_INTX) === 0);
  }

  #setMaster(isMaster: boolean): void {
    this.#isMaster = isMaster;
    this.#writeDevice(COMMAND, 2, COMMAND_MEMORY | (isMaster ? COMMAND_BUS_MASTER : 0));
  }

  /** The chain has only what is kept. */
  #relink(): void {
    const { kept, extended } = this.#chain;
    const offsets = kept.map(({ offset }) => offset);
    this.#bytes[CAPABILITIES_POINTER] = offsets[0] ?? 0;
    for (const [i, offset] of offsets.entries()) {
      this.#bytes[offset + 1] = offsets[i + 1] ?? 0;
      this.#ours[offset] = 0xff;
      this.#ours[offset + 1] = 0xff;
    }
    for (const { offset, header } of rewriteExtended(extended)) {
      new DataView(this.#bytes.buffer).setUint32(offset, header, true);
      this.#ours.fill(0xff, offset, offset + 4);
    }
  }

  /** What a device must not be asked for, it seems to do. */
  #emulate(own: Reader): void {
    const pm = this.find(CAPABILITY.powerManagement);
    if (pm !== undefined) {
      this.#own(pm + PM_CAPABILITIES, 2, own.u16(pm + PM_CAPABILITIES) & 0x07ff); // no PME
      this.#own(pm + PM_STATUS, 4, PM_NO_SOFT_RESET, PM_STATES);
    }
    const pcie = this.find(CAPABILITY.pciExpress);
    if (pcie !== undefined)
      this.#own(pcie + PCIE_DEVICE_CONTROL, 2, own.u16(pcie + PCIE_DEVICE_CONTROL), 0x7fff);
    const af = this.find(CAPABILITY.advancedFeatures);
    if (af !== undefined) this.#own(af + AF_CONTROL, 2, 0);
  }

  #own(offset: number, sizeBytes: number, value: number, writable = 0): void {
    for (let i = 0; i < sizeBytes; i++) {
      this.#bytes[offset + i] = (value >>> (8 * i)) & 0xff;
      this.#ours[offset + i] = 0xff;
      this.#writable[offset + i] = (writable >>> (8 * i)) & 0xff;
    }
  }

  #isOurs(offset: number, sizeBytes: number): boolean {
    return this.#ours.subarray(offset, offset + sizeBytes).every((mask) => mask === 0xff);
  }

  #isVendors(offset: number, sizeBytes: number): boolean {
    return this.#chain.kept.some(
      ({ id, offset: start, end }) =>
        id === CAPABILITY.vendor && offset >= start + 2 && offset + sizeBytes <= end,
    );
  }

  /** Whether a write sets one of the bits that reset a function. */
  #asksReset(offset: number, sizeBytes: number, value: number): boolean {
    const sets = (at: number, bit: number) =>
      at >= offset && at < offset + sizeBytes && ((value >>> (8 * (at - offset))) & bit) !== 0;
    const pcie = this.find(CAPABILITY.pciExpress);
    const af = this.find(CAPABILITY.advancedFeatures);
    const byPcie =
      pcie !== undefined &&
      (this.#own32(pcie + PCIE_DEVICE_CAPABILITIES) & PCIE_RESETS) !== 0 &&
      sets(pcie + PCIE_DEVICE_CONTROL + 1, 0x80);
    const byAf =
      af !== undefined &&
      ((this.#bytes[af + AF_CAPABILITIES] ?? 0) & AF_RESETS) !== 0 &&
      sets(af + AF_CONTROL, 1);
    return byPcie || byAf;
  }

  #own32(offset: number): number {
    return new Reader(this.#bytes).u32(offset);
  }

  #writeDevice(offset: number, sizeBytes: number, value: number): void {
    void this.#options.device.write(VFIO.configRegion, offset, sizeBytes, value);
  }
}

/** What the header of ours answers: identity, command and status, BARs. ROM and the like are 0. */
const isOfHeader = (offset: number): boolean =>
  offset < HEADER_TYPE || (offset >= HEADER_TYPE + 4 && offset < CAPABILITIES_POINTER);
