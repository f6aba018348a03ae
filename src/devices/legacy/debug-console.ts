/**
 * The debug console: whatever firmware or guest writes to one port goes to a file or terminal. The
 * port itself is native and answers on vCPU threads; no firmware table tells of it.
 */
import type { Static } from '@sinclair/typebox';
import { consoleMode, object, option, text, uint } from '../../schema.ts';

export const DebugConsoleConfig = object(
  {
    file: option(text({ cli: { sets: { mode: 'File' } } })),
    mode: consoleMode,
    iobase: option(uint(16, { cli: { unit: 'hex' } })),
  },
  { default: { mode: 'Off', iobase: 0xe9 } },
);
export type DebugConsoleConfig = Static<typeof DebugConsoleConfig>;
