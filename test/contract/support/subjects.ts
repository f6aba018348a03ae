/** Every virtio device that there is, and how to have it do something. */
import { Console } from '../../../src/devices/virtio/console.ts';
import type { VirtioDevice } from '../../../src/devices/virtio/device.ts';
import { Rng } from '../../../src/devices/virtio/rng.ts';
import { Echo } from '../../unit/support/echo.ts';
import { FakeCharHost } from '../../unit/support/fake-char-host.ts';
import type { Request } from './rig.ts';

export interface Subject {
  name: string;
  create: () => VirtioDevice;
  /** One that it answers without further ado. */
  request: Request;
}

export const SUBJECTS: readonly Subject[] = [
  {
    name: 'rng',
    create: () => new Rng({ src: '/dev/urandom' }, { onWarning: () => {} }),
    request: { queue: 0, readableBytes: 0, writableBytes: 300 },
  },
  {
    name: 'console',
    create: () => new Console(new FakeCharHost()),
    request: { queue: 1, readableBytes: 100, writableBytes: 0 },
  },
  {
    name: 'toy',
    create: () => new Echo(),
    request: { queue: 0, readableBytes: 100, writableBytes: 100 },
  },
];
