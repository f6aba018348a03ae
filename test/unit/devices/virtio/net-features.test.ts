import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  areNegotiated,
  NET,
  offeredFeatures,
  tapOffloads,
} from '../../../../src/devices/virtio/net-features.ts';
import { linuxTakes } from '../../../fuzz/net-control.ts';

/** VIRTIO 1.2 §5.1.3.1: a feature, and what it needs, of which one is enough. */
const NEEDS: readonly (readonly [bigint, readonly bigint[]])[] = [
  [NET.GUEST_TSO4, [NET.GUEST_CSUM]],
  [NET.GUEST_TSO6, [NET.GUEST_CSUM]],
  [NET.GUEST_ECN, [NET.GUEST_TSO4, NET.GUEST_TSO6]],
  [NET.GUEST_UFO, [NET.GUEST_CSUM]],
  [NET.GUEST_USO4, [NET.GUEST_CSUM]],
  [NET.GUEST_USO6, [NET.GUEST_CSUM]],
  [NET.HOST_TSO4, [NET.CSUM]],
  [NET.HOST_TSO6, [NET.CSUM]],
  [NET.HOST_ECN, [NET.HOST_TSO4, NET.HOST_TSO6]],
  [NET.HOST_UFO, [NET.CSUM]],
  [NET.HOST_USO, [NET.CSUM]],
  [NET.CTRL_GUEST_OFFLOADS, [NET.CTRL_VQ]],
  [NET.GUEST_ANNOUNCE, [NET.CTRL_VQ]],
  [NET.MQ, [NET.CTRL_VQ]],
];

test('with whatever switched off, all that a feature needs is offered with it', () => {
  const config = fc.record({
    offload_csum: fc.boolean(),
    offload_tso: fc.boolean(),
    offload_ufo: fc.boolean(),
  });
  fc.assert(
    fc.property(config, fc.boolean(), (switches, uso) => {
      const offered = offeredFeatures(switches, uso);
      for (const [feature, needed] of NEEDS)
        if ((offered & feature) !== 0n)
          expect(needed.some((one) => (offered & one) !== 0n)).toBe(true);
    }),
  );
});

/** Any 64 bits, those of a network card often. */
const anyFeatures = fc
  .tuple(fc.subarray(Object.values(NET)), fc.bigInt(0n, 2n ** 64n - 1n), fc.boolean())
  .map(([bits, others, isWild]) => bits.reduce((sum, bit) => sum | bit, isWild ? others : 0n));

test('Linux takes whatever is asked of a tap, and it is no more than the guest takes', () => {
  const bits = [
    NET.GUEST_CSUM,
    NET.GUEST_TSO4,
    NET.GUEST_TSO6,
    NET.GUEST_ECN,
    NET.GUEST_UFO,
  ].concat([NET.GUEST_USO4, NET.GUEST_USO6]);
  fc.assert(
    fc.property(anyFeatures, (features) => {
      const offloads = tapOffloads(features);
      expect(linuxTakes(offloads)).toBe(true);
      for (const [i, bit] of bits.entries())
        if ((offloads & (1 << i)) !== 0) expect(features & bit).toBe(bit);
    }),
  );
});

test.each([
  [NET.GUEST_CSUM, 1],
  [NET.GUEST_CSUM | NET.GUEST_TSO4, 3],
  [NET.GUEST_CSUM | NET.GUEST_TSO6 | NET.GUEST_ECN, 0xd],
  [NET.GUEST_CSUM | NET.GUEST_UFO, 0x11],
  [NET.GUEST_CSUM | NET.GUEST_USO4 | NET.GUEST_USO6, 0x61],
  [NET.GUEST_TSO4 | NET.GUEST_UFO, 0],
  [NET.GUEST_CSUM | NET.GUEST_ECN | NET.GUEST_USO4, 1],
])('a guest that takes %i has the tap leave it %i', (features, offloads) => {
  expect(tapOffloads(features)).toBe(offloads);
});

test('a driver switches what it has negotiated, and nothing else', () => {
  fc.assert(
    fc.property(anyFeatures, anyFeatures, (offloads, features) => {
      const others =
        NET.CSUM | NET.MAC | NET.MRG_RXBUF | NET.CTRL_VQ | NET.MQ | NET.HOST_TSO4 | NET.HOST_USO;
      const isKnown = (offloads & ~features) === 0n && (offloads & others) === 0n;
      if (areNegotiated(offloads, features)) expect(isKnown).toBe(true);
    }),
  );
  const csumAndTso = NET.GUEST_CSUM | NET.GUEST_TSO4;
  expect(areNegotiated(csumAndTso, csumAndTso | NET.MAC)).toBe(true);
  expect(areNegotiated(0n, 0n)).toBe(true);
});
