/**
 * A PCI device of another process, by vfio-user.
 *
 * Data plane: that process, which has the guest's RAM mapped and signals KVM. Accesses to its
 * registers go there and back as messages, but for what of its BARs can be mapped.
 */
import type { Static } from '@sinclair/typebox';
import { osError, VmmError } from '../../errors.ts';
import { native } from '../../native.ts';
import { object, pciFields, text } from '../../schema.ts';
import type { DeviceContext } from '../device.ts';
import { type FunctionContext, VfioFunction } from '../vfio/function.ts';
import { checkPlace } from '../vhost-user/backend.ts';
import { UserBackend } from './backend.ts';

export const UserDeviceConfig = object({ ...pciFields, socket: text() });
export type UserDeviceConfig = Static<typeof UserDeviceConfig>;

/** Whether a server can be there at all. @throws VmmError 'invalid-config'. */
export const checkUserDevice = ({ socket }: UserDeviceConfig, at: string): void =>
  checkPlace({ socket, field: `${at}.socket` });

/** @throws VmmError 'invalid-config' if nobody listens, 'host' if who does is no fit server. */
export async function openUserDevice(
  { socket }: UserDeviceConfig,
  context: FunctionContext & Pick<DeviceContext, 'memory'>,
): Promise<VfioFunction> {
  const { id, memory, passthrough } = context;
  const warn = (message: string) => context.onWarning(`Device ${id}: ${message}`);
  const fd = connect(socket, id);
  let backend: UserBackend | undefined;
  try {
    backend = await UserBackend.open(fd, {
      ...{ memory, guest: passthrough.guest, onWarning: warn },
      onLost: ({ message }) => warn(`It is gone until the next boot: ${message}`),
    });
    return await VfioFunction.make(backend, context);
  } catch (error) {
    await backend?.close();
    if (error instanceof VmmError) throw error;
    const remedy = `${id}.socket is ${socket}: have a server listen there that serves a PCI device`;
    throw refused(
      'host',
      'The server is of no use',
      `vfio-user: ${(error as Error).message}`,
      remedy,
    );
  }
}

function connect(socket: string, id: string): number {
  try {
    return native.unixStreams.connect(socket);
  } catch (error) {
    const { message } = osError(error);
    const remedy = `${id}.socket is ${socket}: start the server that listens there, or name another path`;
    throw refused('invalid-config', 'Connection to socket failed', message, remedy);
  }
}

const refused = (kind: 'host' | 'invalid-config', ...texts: [string, string, string]): VmmError => {
  const cause = texts.reduceRight<Error | undefined>(
    (inner, text) => new Error(text, { cause: inner }),
    undefined,
  );
  return new VmmError(
    kind,
    'Error from device manager',
    new Error('Cannot create a vfio-user device', { cause }),
  );
};
