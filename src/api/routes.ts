/** The endpoints of the API: method, path, body, verb. */
import { VmmError } from '../errors.ts';
import { BUILD_VERSION, COMPATIBLE_VERSION } from '../version.ts';
import type { RemoveDeviceConfig, ResizeDiskConfig } from '../vmm/config/plugging.ts';
import type { ResizeConfig, ResizeZoneConfig } from '../vmm/config/resize.ts';
import type { ListField } from '../vmm/config.ts';
import type { Vmm } from '../vmm/vmm.ts';
import { type Dialect, deviceReader, normalise, reader, render } from './dialects.ts';

/** What the API needs of a VMM. Failures are VmmErrors, outermost what was to be done. */
export type VmmApi = Pick<
  Vmm<Dialect>,
  | 'info'
  | 'counters'
  | 'create'
  | 'boot'
  | 'shutdown'
  | 'reboot'
  | 'pause'
  | 'resume'
  | 'powerButton'
  | 'nmi'
  | 'delete'
  | 'resize'
  | 'resizeZone'
  | 'resizeDisk'
  | 'addDevice'
  | 'removeDevice'
  | 'exit'
>;

/**
 * Undefined is answered with an empty reply. `fds` came with the request: those that are left there
 * are closed after it.
 */
type Verb<Body> = (vmm: VmmApi, body: Body, fds: number[]) => Promise<unknown>;

export interface Route {
  method: 'GET' | 'PUT';
  path: string;
  /** Makes what `run` takes of the body's JSON; without it the endpoint takes no body. */
  read?: (json: unknown) => unknown;
  run: Verb<never>;
  /** Of a reply without a body. */
  emptyStatus: 200 | 204;
  ignoresBody: boolean;
}

const ROOT = '/api/v1/';

const get = (name: string, run: Verb<never>): Route => ({
  method: 'GET',
  path: ROOT + name,
  run,
  emptyStatus: 204,
  ignoresBody: true,
});

const put = (name: string, run: Verb<never>): Route => ({
  ...get(name, run),
  method: 'PUT',
  ignoresBody: false,
});

const putJson = <Body>(name: string, read: (json: unknown) => Body, run: Verb<Body>): Route => ({
  ...put(name, run),
  read,
});

/** Known and not built: whoever asks for it must not think that it was done. */
const unbuilt = (name: string, failed: string): Route =>
  putJson(
    name,
    (json) => json,
    async () => {
      throw new VmmError('invalid-config', failed, new Error(`Not supported yet: ${name}`));
    },
  );

type DeviceReading = ReturnType<ReturnType<typeof deviceReader>>;

const add = (
  what: string,
  field: ListField,
  run: Verb<DeviceReading> = (vmm, read) => vmm.addDevice(field, read),
): Route => putJson(`vm.add-${what}`, deviceReader(field), run);

const ping = () => ({
  build_version: BUILD_VERSION,
  version: COMPATIBLE_VERSION.slice(1),
  pid: process.pid,
  features: ['kvm'],
});

async function info(vmm: VmmApi): Promise<object> {
  const { dialect, ...facts } = await vmm.info();
  return render(facts, dialect);
}

export const ROUTES: readonly Route[] = [
  get('vmm.ping', async () => ping()),
  get('vm.info', info),
  get('vm.counters', (vmm) => vmm.counters()),
  // The documents say 204; 200 without a body is what every version has answered.
  { ...put('vmm.shutdown', (vmm) => vmm.exit(0)), emptyStatus: 200, ignoresBody: true },
  putJson('vm.create', normalise, (vmm, { config, dialect }) => vmm.create(config, dialect)),
  put('vm.boot', (vmm) => vmm.boot()),
  put('vm.shutdown', (vmm) => vmm.shutdown()),
  put('vm.reboot', (vmm) => vmm.reboot()),
  put('vm.pause', (vmm) => vmm.pause()),
  put('vm.resume', (vmm) => vmm.resume()),
  put('vm.power-button', (vmm) => vmm.powerButton()),
  put('vm.nmi', (vmm) => vmm.nmi()),
  put('vmm.nmi', (vmm) => vmm.nmi()), // where the Rust crate `cloud-hypervisor-client` looks for it
  putJson('vm.resize', reader<ResizeConfig>('resize'), (vmm, body) => vmm.resize(body)),
  putJson('vm.resize-zone', reader<ResizeZoneConfig>('resizeZone'), (vmm, body) =>
    vmm.resizeZone(body),
  ),
  putJson('vm.resize-disk', reader<ResizeDiskConfig>('resizeDisk'), (vmm, body) =>
    vmm.resizeDisk(body),
  ),
  add('disk', 'disks'),
  add('net', 'net', (vmm, read, fds) => vmm.addDevice('net', read, fds)),
  add('pmem', 'pmem'),
  add('fs', 'fs'),
  add('vsock', 'vsock'),
  add('generic-vhost-user', 'generic_vhost_user'),
  add('device', 'devices'),
  add('user-device', 'user_devices'),
  add('vdpa', 'vdpa'),
  putJson('vm.remove-device', reader<RemoveDeviceConfig>('removeDevice'), (vmm, { id }) =>
    vmm.removeDevice(id),
  ),
  put('vm.delete', (vmm) => vmm.delete()),
  unbuilt('vm.snapshot', 'The VM could not be snapshotted'),
  unbuilt('vm.restore', 'The VM could not be restored'),
  unbuilt('vm.coredump', 'The VM could not be coredumped'),
  unbuilt('vm.send-migration', 'Error dispatching the migration worker'),
  unbuilt('vm.receive-migration', 'Error receiving migration'),
];
