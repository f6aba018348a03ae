/**
 * A network card whose frames a backend moves, as DPDK, passt or a switch. VIRTIO 1.2 §5.1.
 *
 * Data plane: that backend, which shares the guest's RAM. The control queue is served here.
 */
import { Writer } from '../../bytes.ts';
import type { Activation } from '../virtio/device.ts';
import { NetControl } from '../virtio/net-control.ts';
import { NET, type OffloadConfig, offeredFeatures } from '../virtio/net-features.ts';
import { checkPlace } from './backend.ts';
import { type Personality, type VhostUserContext, VhostUserDevice } from './device.ts';

/** What of a card's config is of use here. */
export interface VhostUserNetConfig extends OffloadConfig {
  readonly vhost_socket?: string;
  readonly vhost_mode: 'Client' | 'Server';
  readonly num_queues: number;
  readonly queue_size: number;
  readonly mac: string;
  readonly mtu?: number;
}

/** What is between us and the driver alone. */
const OURS = NET.MAC | NET.STATUS | NET.CTRL_VQ | NET.MQ;

/** What a backend would have to be asked for while it runs, and cannot be. */
const NOBODYS = NET.CTRL_GUEST_OFFLOADS | NET.GUEST_ANNOUNCE | NET.MTU | OURS;

// Config space, §5.1.4.
const STATUS = 6;
const MAX_VIRTQUEUE_PAIRS = 8;
const MTU = 10;
const CONFIG_BYTES = 12;
const LINK_UP = 1;

const placeOf = ({ vhost_socket = '', vhost_mode }: VhostUserNetConfig, at: string) => ({
  socket: vhost_socket,
  field: `${at}.vhost_socket`,
  kind: 'vhost-user-net',
  isServer: vhost_mode === 'Server',
});

/** @throws VmmError 'invalid-config' if no backend can be reached there. */
export const checkVhostUserNet = (config: VhostUserNetConfig, at: string): void =>
  checkPlace(placeOf(config, at));

/** @throws VmmError 'invalid-config' or 'host' if there is no backend for the card. */
export function openVhostUserNet(
  config: VhostUserNetConfig,
  context: VhostUserContext,
): Promise<VhostUserDevice> {
  const { num_queues, queue_size, mac, mtu } = config;
  const pairs = num_queues / 2;
  const personality: Personality = {
    ...placeOf(config, context.id),
    virtioId: 1,
    queueSizes: Array<number>(num_queues + 1).fill(queue_size),
    // The protocol counts pairs for this device, and some backends queues.
    queuesNeeded: pairs,
    features: (offeredFeatures(config, true) & ~NOBODYS) | NET.MQ,
    driverFeatures: OURS | (mtu === undefined ? 0n : NET.MTU),
    config: configSpace(mac, mtu ?? 0, pairs),
    isLossy: true,
    mtu,
    showBackend: (space, isThere) => {
      space[STATUS] = isThere ? LINK_UP : 0;
    },
    local: {
      // Without MQ there is one pair, and the control queue follows it. §5.1.2
      shared: (features) => 2 * pairsOf(features, pairs),
      enabled: 2,
      serve: (activation, enable) => serveControl(activation, pairs, enable),
    },
  };
  return VhostUserDevice.open(personality, context);
}

const pairsOf = (features: bigint, pairs: number): number =>
  (features & NET.MQ) === 0n ? 1 : pairs;

function serveControl(
  { features, queues }: Activation,
  pairsMax: number,
  enable: (count: number) => void,
): void {
  const pairs = pairsOf(features, pairsMax);
  const control = queues[2 * pairs];
  if (!control || (features & NET.CTRL_VQ) === 0n) return;
  new NetControl(control, features, {
    setPairs: (count) => {
      if (count < 1 || count > pairs) return false;
      enable(2 * count);
      return true;
    },
    setGuestOffloads: () => false,
    acknowledgeAnnouncement: () => {},
  });
}

const configSpace = (mac: string, mtu: number, pairs: number): Uint8Array =>
  new Writer(CONFIG_BYTES)
    .put(0, Buffer.from(mac.replaceAll(':', ''), 'hex'))
    .u16(STATUS, LINK_UP)
    .u16(MAX_VIRTQUEUE_PAIRS, pairs)
    .u16(MTU, mtu).bytes;
