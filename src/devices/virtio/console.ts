/**
 * virtio-console: a terminal for the guest. VIRTIO 1.2 §5.3.
 *
 * Data plane: this file. It carries what a person types and reads.
 */
import type { Static } from '@sinclair/typebox';
import { choice, iommuFields, object, option, text } from '../../schema.ts';

export const ConsoleConfig = object(
  {
    file: option(text({ cli: { sets: { mode: 'File' } } })),
    mode: choice(['Off', 'Pty', 'Tty', 'File', 'Socket', 'Null'], {
      cli: { flags: { off: 'Off', null: 'Null', pty: 'Pty', tty: 'Tty' } },
    }),
    socket: option(text({ cli: { hidden: true } })),
    ...iommuFields,
  },
  { default: { mode: 'Tty' } },
);
export type ConsoleConfig = Static<typeof ConsoleConfig>;
