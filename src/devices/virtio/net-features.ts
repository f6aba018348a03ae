/** The features of a network card, what hangs on which, and what they ask of a tap. */

/** VIRTIO 1.2 §5.1.3. */
export const NET = {
  CSUM: 1n << 0n,
  GUEST_CSUM: 1n << 1n,
  CTRL_GUEST_OFFLOADS: 1n << 2n,
  MTU: 1n << 3n,
  MAC: 1n << 5n,
  GUEST_TSO4: 1n << 7n,
  GUEST_TSO6: 1n << 8n,
  GUEST_ECN: 1n << 9n,
  GUEST_UFO: 1n << 10n,
  HOST_TSO4: 1n << 11n,
  HOST_TSO6: 1n << 12n,
  HOST_ECN: 1n << 13n,
  HOST_UFO: 1n << 14n,
  MRG_RXBUF: 1n << 15n,
  STATUS: 1n << 16n,
  CTRL_VQ: 1n << 17n,
  GUEST_ANNOUNCE: 1n << 21n,
  MQ: 1n << 22n,
  GUEST_USO4: 1n << 54n,
  GUEST_USO6: 1n << 55n,
  HOST_USO: 1n << 56n,
} as const;

const TSO =
  NET.GUEST_TSO4 | NET.GUEST_TSO6 | NET.GUEST_ECN | (NET.HOST_TSO4 | NET.HOST_TSO6 | NET.HOST_ECN);
const UFO = NET.GUEST_UFO | NET.HOST_UFO;
const USO = NET.GUEST_USO4 | NET.GUEST_USO6 | NET.HOST_USO;

/** Frames that the host leaves larger than the MTU. */
const GUEST_LARGE =
  NET.GUEST_TSO4 | NET.GUEST_TSO6 | NET.GUEST_UFO | NET.GUEST_USO4 | NET.GUEST_USO6;

/** What CTRL_GUEST_OFFLOADS switches. */
const GUEST_OFFLOADS = NET.GUEST_CSUM | NET.GUEST_ECN | GUEST_LARGE;

export interface OffloadConfig {
  offload_csum: boolean;
  offload_tso: boolean;
  offload_ufo: boolean;
}

/**
 * What a card offers of its own. All that §5.1.3.1 wants for a feature is offered with it.
 * @param uso whether the host cuts UDP frames.
 */
export function offeredFeatures(config: OffloadConfig, uso: boolean): bigint {
  const { offload_csum: csum, offload_tso: tso, offload_ufo: udp } = config;
  return (
    NET.MAC |
    NET.STATUS |
    NET.MRG_RXBUF |
    (NET.CTRL_VQ | NET.MQ | NET.GUEST_ANNOUNCE) |
    (csum ? NET.CSUM | NET.GUEST_CSUM | NET.CTRL_GUEST_OFFLOADS : 0n) |
    (csum && tso ? TSO : 0n) |
    (csum && udp ? UFO : 0n) |
    (csum && udp && uso ? USO : 0n)
  );
}

export const takesLargeFrames = (features: bigint): boolean => (features & GUEST_LARGE) !== 0n;

/** Whether a driver may switch these offloads on, having accepted `features`. §5.1.6.5.6. */
export const areNegotiated = (offloads: bigint, features: bigint): boolean =>
  (offloads & ~(features & GUEST_OFFLOADS)) === 0n;

/** Bits of TUNSETOFFLOAD, linux/if_tun.h. */
const TUN = { CSUM: 1, TSO4: 2, TSO6: 4, TSO_ECN: 8, UFO: 0x10, USO: 0x60 } as const;

/**
 * What a tap may leave to a guest that takes these. Linux refuses a set in which one lacks what it
 * hangs on, as ECN without TSO or USO for one IP version alone, so those that do are left out.
 */
export function tapOffloads(features: bigint): number {
  const has = (bits: bigint) => (features & bits) === bits;
  if (!has(NET.GUEST_CSUM)) return 0;
  const tso = (has(NET.GUEST_TSO4) ? TUN.TSO4 : 0) | (has(NET.GUEST_TSO6) ? TUN.TSO6 : 0);
  return (
    TUN.CSUM |
    tso |
    (tso !== 0 && has(NET.GUEST_ECN) ? TUN.TSO_ECN : 0) |
    (has(NET.GUEST_UFO) ? TUN.UFO : 0) |
    (has(NET.GUEST_USO4 | NET.GUEST_USO6) ? TUN.USO : 0)
  );
}
