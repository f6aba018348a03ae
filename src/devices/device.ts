/**
 * What a device is to the machine around it. Interfaces only: a device imports this, its family's
 * `device.ts` and foundations; never another device, never the VMM.
 */
import type { AccessHandler, Claim } from '../native.ts';
import type { Aml } from './acpi/aml.ts';

/** A device at fixed ports or guest physical addresses, answered on the JS thread. */
export interface BusDevice extends AccessHandler {
  readonly claims: readonly Claim[];
}

/** Has nodes of its own in the guest's DSDT. */
export interface AmlSource {
  /** Terms that stand in `\_SB_`. */
  aml(): Aml[];
}
