/** What network cards and host-guest sockets must be. */
import { MTU_MIN } from '../../../schema.ts';
import type { VmConfig } from '../../config.ts';
import { each, isPowerOfTwo, type Rule } from './rule.ts';

/** Standard input, output and error. */
const FD_STANDARD_MAX = 2;

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

/** The last would have no partner, and the control queue no place that drivers look at. */
const queuesInPairs = each('net', ({ num_queues }, at) =>
  num_queues % 2 === 0
    ? undefined
    : {
        text: `Number of queues (${num_queues}) to virtio_net must be even`,
        remedy: `${at}.num_queues is ${num_queues}: give 2 for each pair`,
      },
);

const fds = each('net', ({ fds, num_queues }, at) => {
  if (fds === undefined) return undefined;
  const standard = fds.find((fd) => fd <= FD_STANDARD_MAX);
  if (standard !== undefined)
    return {
      text: `File descriptor ${standard} is a standard stream`,
      remedy: `${at}.fds names ${standard}: give files of taps, from ${FD_STANDARD_MAX + 1} on`,
    };
  if (new Set(fds).size < fds.length)
    return {
      text: 'A file descriptor is given twice',
      remedy: `${at}.fds is ${fds.join()}: give one file for each queue pair`,
    };
  if (num_queues === 2 * fds.length) return undefined;
  return {
    text: `Number of queues (${num_queues}) to virtio_net does not match the number of FDs (${2 * fds.length})`,
    remedy: `${at}.num_queues is ${num_queues} and fds is ${fds.join() || 'empty'}: give a file for each 2`,
  };
});

/** Two names of one tap are found when it is opened. */
const tapsDiffer: Rule = ({ net = [] }) => {
  for (const [i, { tap = '', fds }] of net.entries()) {
    if (tap === '' || tap.includes('%') || fds) continue;
    const other = net.findIndex((card) => card.tap === tap && !card.fds);
    if (other >= i) continue;
    return {
      text: `Tap ${tap} is used twice`,
      remedy: `net[${other}].tap and net[${i}].tap is ${tap}: give each card a tap of its own`,
      kind: 'conflict',
    };
  }
  return undefined;
};

const filesDiffer: Rule = ({ net = [] }) => {
  for (const [i, { fds = [] }] of net.entries()) {
    const other = net.findIndex((card) => card.fds?.some((fd) => fds.includes(fd)));
    if (other === -1 || other === i) continue;
    const shared = fds.find((fd) => net[other]?.fds?.includes(fd));
    return {
      text: `File descriptor ${shared} is used twice`,
      remedy: `net[${other}].fds and net[${i}].fds name ${shared}: give each card files of its own`,
      kind: 'conflict',
    };
  }
  return undefined;
};

/** IEEE 802: the lowest bit of the first byte says that it is many stations' address. */
const macs = each('net', (card, at) => {
  for (const field of ['mac', 'host_mac'] as const) {
    const { [field]: mac = '02' } = card;
    const isMany = (Number.parseInt(mac, 16) & 1) === 1;
    if (!isMany && mac !== '00:00:00:00:00:00') continue;
    return {
      text: `${mac} is no address of one station`,
      remedy: `${at}.${field} is ${mac}: give one whose first byte is even, such as 02:…`,
    };
  }
  return undefined;
});

const maskIsContiguous = each('net', ({ mask = '255.255.255.255' }, at) => {
  const bits = mask.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
  return isPowerOfTwo(2 ** 32 - bits)
    ? undefined
    : {
        text: `Mask ${mask} is not ones followed by zeros`,
        remedy: `${at}.mask is ${mask}: give one such as 255.255.255.0`,
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

/** The dialect of 2020 has a list of them. */
const oneVsock: Rule = ({ vsock = [] }) =>
  vsock[1] && {
    text: 'Too many virtio-vsock devices',
    remedy: `vsock[1].cid is ${vsock[1].cid}: a VM has one such device; drop the others`,
  };

/** sun_path of unix(7), less the zero at its end. */
const SOCKET_PATH_BYTES_MAX = 107;

const socketPath = each('vsock', ({ socket }) => {
  const bytes = Buffer.byteLength(socket);
  if (bytes > 0 && bytes <= SOCKET_PATH_BYTES_MAX) return undefined;
  return {
    text: `Length of the vsock socket's path (${bytes}) is not within 1 to ${SOCKET_PATH_BYTES_MAX}`,
    remedy: `vsock.socket is ${socket}: name a path of at most ${SOCKET_PATH_BYTES_MAX} bytes`,
  };
});

/** Every path at which the VM is to find, or to make, a socket: where it stands, and what it is. */
function sockets(config: VmConfig): (readonly [at: string, path: string])[] {
  const { serial, console, disks = [], net = [], fs = [] } = config;
  const { generic_vhost_user = [], user_devices = [] } = config;
  const lists = { disks, net, fs, generic_vhost_user, user_devices };
  return [
    ...Object.entries({ serial, console }).flatMap(([at, { mode, socket = '' }]) =>
      mode === 'Socket' ? [[`${at}.socket`, socket] as const] : [],
    ),
    ...(config.vsock ?? []).map(({ socket }) => ['vsock.socket', socket] as const),
    ...Object.entries(lists).flatMap(([field, devices]) =>
      devices.flatMap((device, i) => {
        const key = 'vhost_user' in device ? 'vhost_socket' : 'socket';
        const { vhost_user = true, [key]: path } = device as BackendConfig;
        return vhost_user && path !== undefined ? [[`${field}[${i}].${key}`, path] as const] : [];
      }),
    ),
  ];
}

interface BackendConfig {
  readonly vhost_user?: boolean;
  readonly vhost_socket?: string;
  readonly socket?: string;
}

/** Whoever serves a socket does so for one device. */
const socketsDiffer: Rule = (config) => {
  const all = sockets(config);
  const second = all.find(([, path], i) => all.findIndex(([, other]) => other === path) < i);
  if (second === undefined) return undefined;
  const [at, path] = second;
  const first = all.find(([, other]) => other === path)?.[0];
  return {
    text: `Duplicated socket path: ${path}`,
    remedy: `${first} and ${at} is ${path}: name a path for each`,
    kind: 'conflict',
  };
};

export const NETWORK_RULES: readonly Rule[] = [
  queueCount,
  queuesInPairs,
  fds,
  tapsDiffer,
  filesDiffer,
  macs,
  maskIsContiguous,
  mtu,
  offloads,
  addressAndMask,
  backendSocket,
  cid,
  oneVsock,
  socketPath,
  socketsDiffer,
];
