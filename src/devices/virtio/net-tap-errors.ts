/** Why a tap cannot be had: in the words that clients know, then field, value and remedy. */
import { type ErrorKind, osError, VmmError } from '../../errors.ts';

const PERMISSION = 'give the VMM the capability cap_net_admin';

/** @param field is how the config calls what is wrong, and its value: `net[0].tap is lan0`. */
export function openFailure(cause: unknown, field: string, queuePairs: number): VmmError {
  const code = codeOf(cause);
  const system = osError(cause, field + openRemedy(code, queuePairs));
  return cannotOpen(
    new Error('Unable to configure tap interface', { cause: system }),
    code === 'EBUSY' ? 'conflict' : 'invalid-config',
  );
}

function openRemedy(code: string, queuePairs: number): string {
  switch (code) {
    case 'EBUSY':
      return ', which another device or VM uses: name another, or end that one';
    case 'EPERM':
      return `, which the VMM may not open or make: ${PERMISSION}, or name a tap that its user owns`;
    case 'EACCES':
      return ': give the VMM the right to open /dev/net/tun';
    case 'ENOENT':
    case 'ENODEV':
    case 'ENXIO':
      return ', and there is no /dev/net/tun: load the kernel module tun';
    case 'EINVAL':
      return queuePairs > 1
        ? ', which is no tap for several queue pairs: make it with multi_queue, or set num_queues to 2'
        : ', an interface that is no tap: name one that is';
    default:
      return ': name another';
  }
}

export const nameFailure = (text: string, remedy: string): VmmError =>
  cannotOpen(new Error(text, { cause: new Error(remedy) }));

/** The kernel refused a setting of a tap that is open. */
export function settingFailure(cause: unknown, field: string, name: string): VmmError {
  const remedy =
    codeOf(cause) === 'EPERM'
      ? `${PERMISSION}, or set the tap up beforehand`
      : 'give one that the tap can have, or leave it out';
  const system = osError(cause, `${field}: ${remedy}`);
  return cannotHave(new Error(`Setting up tap ${name} failed`, { cause: system }));
}

export function adoptFailure(cause: unknown, field: string): VmmError {
  const remedy =
    codeOf(cause) === 'EBADF'
      ? 'which is not open: have whoever starts the VMM leave it open'
      : 'which is no tap: give one opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR';
  return cannotMake(
    new Error('Using existing tap', { cause: osError(cause, `${field}, ${remedy}`) }),
  );
}

/** The files are taps, and yet not what one card is made of. */
export const filesFailure = (remedy: string, kind?: ErrorKind): VmmError =>
  cannotMake(new Error('Using existing tap', { cause: new Error(remedy) }), kind);

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';

const cannotMake = (cause: Error, kind: ErrorKind = 'invalid-config') =>
  new VmmError(
    kind,
    'Error from device manager',
    new Error('Cannot create virtio-net device', { cause }),
  );
const cannotHave = (cause: Error, kind?: ErrorKind) =>
  cannotMake(new Error('Failed to open taps', { cause }), kind);
const cannotOpen = (cause: Error, kind?: ErrorKind) =>
  cannotHave(new Error('Open tap device failed', { cause }), kind);
