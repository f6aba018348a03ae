/** What network cards and host-guest sockets must be. */
import { each, type Rule } from './rule.ts';

/** VIRTIO 1.2 §5.1.4.1. */
const MTU_MIN = 1280;

const queueCount = each('net', ({ num_queues }, at, { cpus: { boot_vcpus } }) => {
  const field = `${at}.num_queues is ${num_queues}`;
  if (num_queues < 2)
    return {
      text: `Number of queues (${num_queues}) to virtio_net should be higher than 2`,
      remedy: `${field}: give 2, one each way, or a multiple of it`,
    };
  if (Math.floor(num_queues / 2) <= boot_vcpus) return undefined;
  return {
    text: `Queue count (${num_queues}) must not exceed boot vCPUs (${boot_vcpus})`,
    remedy: `${field}: give at most two for each of cpus.boot_vcpus`,
  };
});

const mtu = each('net', ({ mtu = MTU_MIN }, at) =>
  mtu >= MTU_MIN
    ? undefined
    : {
        text: `Provided MTU ${mtu} is lower than ${MTU_MIN} (expected by VIRTIO specification)`,
        remedy: `${at}.mtu is ${mtu}: give at least ${MTU_MIN}`,
      },
);

const offloads = each('net', ({ offload_csum, offload_tso, offload_ufo }, at) =>
  offload_csum || (!offload_tso && !offload_ufo)
    ? undefined
    : {
        text: '"offload_tso" and "offload_ufo" depend on "offload_csum"',
        remedy: `${at}.offload_csum is false: set offload_tso and offload_ufo to false too`,
      },
);

const addressAndMask = each('net', ({ ip, mask }, at) => {
  if ((ip === undefined) === (mask === undefined)) return undefined;
  return ip === undefined
    ? { text: 'Mask provided without an IP', remedy: `${at}.mask is ${mask}: give ip too` }
    : { text: 'IP provided without a mask', remedy: `${at}.ip is ${ip}: give mask too` };
});

const backendSocket = each('net', ({ vhost_user, vhost_socket }, at) =>
  !vhost_user || vhost_socket !== undefined
    ? undefined
    : {
        text: 'No socket provided when using vhost-user',
        remedy: `${at}.vhost_user is true: name the backend's socket in ${at}.vhost_socket`,
      },
);

/** VIRTIO 1.2 §5.10.4: 0, 1 and 2 mean the hypervisor, the host and nobody, all ones anybody. */
const SPECIAL_CIDS = [0, 1, 2, 0xffff_ffff];

const cid = each('vsock', ({ cid }, at) =>
  SPECIAL_CIDS.includes(cid)
    ? {
        text: `${cid} is a special VSOCK CID`,
        remedy: `${at.replace('[0]', '')}.cid is ${cid}: give 3 or more`,
      }
    : undefined,
);

export const NETWORK_RULES: readonly Rule[] = [
  queueCount,
  mtu,
  offloads,
  addressAndMask,
  backendSocket,
  cid,
];
