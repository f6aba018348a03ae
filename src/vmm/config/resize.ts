/** What a VM is resized to; what is absent stays as it is. */
import type { Static } from '@sinclair/typebox';
import { object, option, size, uint } from '../../schema.ts';

export const ResizeConfig = object({
  desired_vcpus: option(uint(32)),
  desired_ram: option(size()),
  desired_balloon: option(size()),
});
export type ResizeConfig = Static<typeof ResizeConfig>;
