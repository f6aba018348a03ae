/** What disks, file systems and persistent memory must be. */
import { MIB } from '../../../bytes.ts';
import { each, isPowerOfTwo, type Rule } from './rule.ts';

const QUEUE_SIZE_MAX = 32_768;

/** VIRTIO 1.2 §5.2.6.1, VIRTIO_BLK_T_GET_ID. */
const SERIAL_BYTES_MAX = 20;

/** VIRTIO 1.2 §5.11.4. */
const TAG_BYTES_MAX = 36;

const PMEM_ALIGN_BYTES = 2 * MIB;

const queueSizes: Rule = (config) => {
  for (const field of ['disks', 'net', 'fs'] as const)
    for (const [i, { queue_size }] of (config[field] ?? []).entries())
      if (!isPowerOfTwo(queue_size) || queue_size > QUEUE_SIZE_MAX)
        return {
          text: `Queue size must be a power of 2 no greater than ${QUEUE_SIZE_MAX}: ${queue_size}`,
          remedy: `${field}[${i}].queue_size is ${queue_size}: give a power of two`,
        };
  return undefined;
};

const diskQueueSize = each('disks', ({ queue_size }, at) =>
  queue_size > 2
    ? undefined
    : {
        text: `Block queue size must be greater than 2: ${queue_size}`,
        remedy: `${at}.queue_size is ${queue_size}: give at least 4`,
      },
);

const diskHasQueue = each('disks', ({ num_queues }, at) =>
  num_queues > 0
    ? undefined
    : { text: 'Disk without a queue', remedy: `${at}.num_queues is 0: give at least 1` },
);

const diskQueues = each('disks', ({ num_queues }, at, { cpus: { boot_vcpus } }) =>
  num_queues <= boot_vcpus
    ? undefined
    : {
        text: `Queue count (${num_queues}) must not exceed boot vCPUs (${boot_vcpus})`,
        remedy: `${at}.num_queues is ${num_queues}: give at most cpus.boot_vcpus`,
      },
);

const serial = each('disks', ({ serial = '' }, at) => {
  const bytes = Buffer.byteLength(serial);
  if (bytes <= SERIAL_BYTES_MAX) return undefined;
  return {
    text: `Block device serial length (${bytes}) exceeds maximum allowed length (${SERIAL_BYTES_MAX})`,
    remedy: `${at}.serial is ${bytes} bytes long: give at most ${SERIAL_BYTES_MAX}`,
  };
});

const diskPath = each('disks', ({ path = '', vhost_user }, at) =>
  path !== '' || vhost_user
    ? undefined
    : {
        text: 'No disk path was specified when one was expected',
        remedy: `${at}.path is missing: name an image file or a block device`,
      },
);

/** What has two names is found when it is locked. */
const diskPathsDiffer: Rule = ({ disks = [] }) => {
  for (const [i, { path, readonly }] of disks.entries()) {
    const other = disks.findIndex((disk) => (disk.path ?? '') !== '' && disk.path === path);
    if (other === -1 || other >= i || (readonly && disks[other]?.readonly)) continue;
    return {
      text: 'The file is already locked',
      remedy:
        `disks[${other}].path and disks[${i}].path is ${path}: ` +
        'name one image each, or set readonly to true for both',
      kind: 'conflict',
    };
  }
  return undefined;
};

const queueAffinity: Rule = ({ disks = [] }, host) => {
  for (const [i, { queue_affinity = [] }] of disks.entries())
    for (const [j, { host_cpus }] of queue_affinity.entries()) {
      const missing = host_cpus.find((cpu) => !host.cpus().has(cpu));
      if (missing === undefined) continue;
      return {
        text: `Host has no CPU ${missing}`,
        remedy:
          `disks[${i}].queue_affinity[${j}].host_cpus names ${missing}: ` +
          'name CPUs that are online here',
      };
    }
  return undefined;
};

const pathOrSocket = each('disks', ({ path, vhost_socket }, at) =>
  !path || vhost_socket === undefined // the document of 2020 requires a path, if only ""
    ? undefined
    : {
        text: 'Disk path and vhost socket both provided',
        remedy: `${at} has path ${path} and vhost_socket ${vhost_socket}: drop one of them`,
      },
);

const vhostUserDisk = each('disks', (disk, at) => {
  if (!disk.vhost_user) return undefined;
  if (disk.vhost_socket === undefined)
    return {
      text: 'No socket provided when using vhost-user',
      remedy: `${at}.vhost_user is true: name the backend's socket in ${at}.vhost_socket`,
    };
  const limited = disk.rate_limiter_config ?? disk.rate_limit_group;
  if (!disk.iommu && limited === undefined) return undefined;
  return {
    text: 'Backend of a vhost-user disk can be neither limited nor put behind the IOMMU',
    remedy: `${at}.vhost_user is true: drop iommu, rate_limiter_config and rate_limit_group`,
  };
});

const limiter = each('disks', (disk, at, { rate_limit_groups = [] }) => {
  const { rate_limit_group: group, rate_limiter_config } = disk;
  if (group === undefined) return undefined;
  if (rate_limiter_config !== undefined)
    return {
      text: 'Rate limiter group and rate limiter both provided',
      remedy: `${at} has rate_limit_group and rate_limiter_config: drop one of them`,
    };
  if (rate_limit_groups.some(({ id }) => id === group)) return undefined;
  return {
    text: 'Invalid rate-limiter group',
    remedy: `${at}.rate_limit_group is ${group}: name one of rate_limit_groups`,
  };
});

const limitGroup: Rule = ({ rate_limit_groups = [] }) => {
  for (const [i, { id, rate_limiter_config: limits }] of rate_limit_groups.entries()) {
    const remedy =
      id === ''
        ? `rate_limit_groups[${i}].id is empty: give each group a name`
        : `rate_limit_groups[${i}] limits nothing: give it bandwidth or ops`;
    if (id === '' || !(limits.bandwidth ?? limits.ops))
      return { text: 'Invalid rate-limiter group', remedy };
  }
  return undefined;
};

const fsTag = each('fs', ({ tag }, at) => {
  const bytes = Buffer.byteLength(tag);
  if (bytes > 0 && bytes <= TAG_BYTES_MAX) return undefined;
  return {
    text: `Length of virtio-fs tag (${bytes}) is not within 1 to ${TAG_BYTES_MAX}`,
    remedy: `${at}.tag is ${bytes} bytes long: give 1 to ${TAG_BYTES_MAX}`,
  };
});

/** A guest mounts by the tag. */
const fsTagsDiffer = each('fs', ({ tag }, at, { fs = [] }) => {
  const first = fs.findIndex((other) => other.tag === tag);
  if (`fs[${first}]` === at) return undefined;
  return {
    text: `Duplicated virtio-fs tag: ${tag}`,
    remedy: `fs[${first}].tag and ${at}.tag is ${tag}: name a tag for each`,
    kind: 'conflict',
  };
});

const pmemSize = each('pmem', ({ size }, at) =>
  size === undefined || size % PMEM_ALIGN_BYTES === 0
    ? undefined
    : {
        text: 'Trying to use a size that is not multiple of 2MiB',
        remedy: `${at}.size is ${size}: give a multiple of ${PMEM_ALIGN_BYTES}`,
      },
);

export const STORAGE_RULES: readonly Rule[] = [
  queueSizes,
  diskQueueSize,
  diskHasQueue,
  diskQueues,
  queueAffinity,
  serial,
  diskPath,
  diskPathsDiffer,
  pathOrSocket,
  vhostUserDisk,
  limiter,
  limitGroup,
  fsTag,
  fsTagsDiffer,
  pmemSize,
];
