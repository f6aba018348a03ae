/** The DSDT: each device brings its own nodes. */
import { type Aml, scope } from '../../devices/acpi/aml.ts';
import type { AmlSource } from '../../devices/device.ts';

/** The terms of the table. */
export const dsdtTerms = (devices: readonly AmlSource[]): Aml[] => [
  scope('\\_SB', ...devices.flatMap((source) => source.aml())),
];
