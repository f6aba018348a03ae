/** What a VM is resized to; what is absent stays as it is. */
import type { Static } from '@sinclair/typebox';
import { VmmError } from '../../errors.ts';
import { object, option, size, text, uint } from '../../schema.ts';
import type { CpusConfig } from './cpus.ts';

export const ResizeConfig = object({
  desired_vcpus: option(uint(32)),
  desired_ram: option(size()),
  desired_balloon: option(size()),
});
export type ResizeConfig = Static<typeof ResizeConfig>;

export const ResizeZoneConfig = object({ id: text(), desired_ram: size() });
export type ResizeZoneConfig = Static<typeof ResizeZoneConfig>;

/** @throws VmmError 'invalid-config' unless there can be as many. */
export function resizeCpus(cpus: CpusConfig, vcpus: number): CpusConfig {
  const { max_vcpus: max } = cpus;
  if (vcpus >= 1 && vcpus <= max) return { ...cpus, boot_vcpus: vcpus };
  const text = vcpus === 0 ? 'Requested zero vCPUs' : 'Requested vCPUs exceed maximum';
  const remedy = `desired_vcpus is ${vcpus}: give 1 to ${max}, which is cpus.max_vcpus`;
  const cause = new Error(text, { cause: new Error(remedy) });
  throw new VmmError('invalid-config', 'Error from CPU manager', cause);
}
