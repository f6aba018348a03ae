/** The DSDT: each device brings its own nodes; the processors' are here. */
import { type Aml, device, eisaId, name, scope } from '../../devices/acpi/aml.ts';
import type { AmlSource } from '../../devices/device.ts';

const PRESENT_AND_WORKING = 0xf;

/** The terms of the table. `vcpus` counts the ones there at boot; their `_UID` is their index. */
export const dsdtTerms = (devices: readonly AmlSource[], vcpus: number): Aml[] => [
  scope('\\_SB', ...devices.flatMap((source) => source.aml()), processors(vcpus)),
];

/** ACPI 6.5 §8.4: the container, and a device for each. */
const processors = (vcpus: number): Aml =>
  device(
    'CPUS',
    name('_HID', 'ACPI0010'),
    name('_CID', eisaId('PNP0A05')),
    ...Array.from({ length: vcpus }, (_, index) =>
      device(
        `C${String(index).padStart(3, '0')}`,
        name('_HID', 'ACPI0007'),
        name('_UID', index),
        name('_STA', PRESENT_AND_WORKING),
      ),
    ),
  );
