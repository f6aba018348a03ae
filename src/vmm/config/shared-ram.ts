/** Which devices live in processes of their own, that read and write guest RAM from there. */
import type { VmConfig } from '../config.ts';

/** As the config calls them, one of each kind: `disks[0]`. */
export function ramSharers(config: VmConfig): string[] {
  const { disks = [], net = [] } = config;
  const disk = disks.findIndex(({ vhost_user }) => vhost_user);
  const card = net.findIndex(({ vhost_user }) => vhost_user);
  return [
    disk === -1 ? [] : `disks[${disk}]`,
    card === -1 ? [] : `net[${card}]`,
    config.fs?.length ? 'fs[0]' : [],
    config.generic_vhost_user?.length ? 'generic_vhost_user[0]' : [],
    config.user_devices?.length ? 'user_devices[0]' : [],
  ].flat();
}

/**
 * The config with `memory.shared` decided: RAM is shared where a device needs that, unless the
 * config says no. Huge pages count as shared, a file is so by itself.
 */
export function withSharedRam(config: VmConfig): VmConfig {
  const { memory } = config;
  const isNeeded = memory.file === undefined && ramSharers(config).length > 0;
  const shared = (memory.shared ?? isNeeded) || (isNeeded && memory.hugepages);
  return { ...config, memory: { ...memory, shared } };
}
