/**
 * COM1 as firmware tells of it. The chip itself is native and answers on vCPU threads: it decides
 * nothing but what a 16550 does.
 */
import type { Static } from '@sinclair/typebox';
import { bool, consoleMode, object, option, seedOnly, text } from '../../schema.ts';
import { type Aml, device, eisaId, ioPorts, irq, name, resources } from '../acpi/aml.ts';
import type { AmlSource } from '../device.ts';

export const SerialConfig = object(
  {
    file: option(text({ cli: { sets: { mode: 'File' } } })),
    mode: consoleMode,
    socket: option(text({ cli: { sets: { mode: 'Socket' } } })),
    iommu: option(bool(false, seedOnly)),
  },
  { default: { mode: 'Null' } },
);
export type SerialConfig = Static<typeof SerialConfig>;

const UART_PORTS = 8;

export interface SerialOptions {
  port: number;
  gsi: number;
}

export class Serial implements AmlSource {
  readonly #options: SerialOptions;

  constructor(options: SerialOptions) {
    this.#options = options;
  }

  aml(): Aml[] {
    const { port, gsi } = this.#options;
    return [
      device(
        'COM1',
        name('_HID', eisaId('PNP0501')),
        name('_UID', 0),
        name('_DDN', 'COM1'),
        name('_CRS', resources(irq(gsi), ioPorts(port, UART_PORTS))),
      ),
    ];
  }
}
