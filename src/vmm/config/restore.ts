/** What a restore is asked for. */
import type { Static } from '@sinclair/typebox';
import { bool, choice, list, object, option, text, uint } from '../../schema.ts';

export const RestoreConfig = object({
  source_url: text(),
  prefault: bool(false),
  memory_restore_mode: choice(['Copy', 'OnDemand'], {
    default: 'Copy',
    cli: { words: { copy: 'Copy', ondemand: 'OnDemand' } },
  }),
  net_fds: option(
    list(
      object({
        id: text(),
        num_fds: option(uint(32, { cli: { hidden: true } })),
        fds: option(list(uint(32), { wire: { fd: true } })),
      }),
    ),
  ),
  resume: bool(false),
});
export type RestoreConfig = Static<typeof RestoreConfig>;
