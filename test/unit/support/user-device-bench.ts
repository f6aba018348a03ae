/** A VM with a device of a scripted server, without a guest. */
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openUserDevice } from '../../../src/devices/vfio-user/device.ts';
import { errorChain } from '../../../src/errors.ts';
import { native } from '../../../src/native.ts';
import type { SharedRegion } from '../../../src/native-vhost.ts';
import { FakeVm, NO_MEMORY } from './fake-host.ts';
import { FakePassthroughHost } from './fake-vfio.ts';
import { type Script, ScriptedServer, type ServerOptions } from './scripted-server.ts';

export const GPA = 0xc400_0000;
export const COMMAND_REGISTER = 4;

/** Real eventfds, for they are sent. */
class Host extends FakePassthroughHost {
  override openEventFd() {
    return new native.EventFd() as never;
  }
}

export class UserDeviceBench implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'vfio-user-'));
  /** Of a megabyte. */
  readonly file = openSync(join(this.folder, 'file'), 'w+');
  server: ScriptedServer | undefined;

  constructor() {
    ftruncateSync(this.file, 0x10_0000);
  }

  get socket(): string {
    return join(this.folder, 'socket');
  }

  /** With a new server. */
  async open(options: Partial<ServerOptions> = {}, regions: SharedRegion[] = []) {
    this.server?.die();
    const server = new ScriptedServer({ path: this.socket, ...options });
    this.server = server;
    return { server, ...(await this.connect(this.socket, regions)) };
  }

  async connect(socket: string, regions: SharedRegion[] = []) {
    const [host, vm] = [new Host(), new FakeVm()];
    const warnings: string[] = [];
    vm.msi = () => ({ route: () => {}, mask: () => {}, close: () => {} }) as never;
    const pci = await openUserDevice(
      { socket, pci_segment: 0 },
      {
        ...{ id: '_vfio_user0', vm, passthrough: host, lineGsi: 20, placeBar: () => GPA },
        memory: { ...NO_MEMORY, regions: () => regions },
        onWarning: (message) => void warnings.push(message),
        onReclaim: () => {},
      },
    );
    await pci.space.write(COMMAND_REGISTER, 2, 6);
    return { pci, host, vm, warnings };
  }

  /** What is wrong, or 'opened'. */
  refusal(script: Script, options: Partial<ServerOptions> = {}): Promise<string> {
    return this.open({ script, ...options }, [this.ram(0)]).then(
      () => 'opened',
      (error) => errorChain(error).join(' | '),
    );
  }

  /** How often this process has the file open. */
  get openCount(): number {
    const links = readdirSync('/proc/self/fd').map((name) => {
      try {
        return readlinkSync(`/proc/self/fd/${name}`);
      } catch {
        return ''; // the directory itself
      }
    });
    return links.filter((link) => link === join(this.folder, 'file')).length;
  }

  ram(gpa: number, readonly = false): SharedRegion {
    return { gpa, sizeBytes: 0x1000, readonly, fd: this.file, fileOffset: 0x2000 };
  }

  [Symbol.dispose](): void {
    this.server?.die();
    closeSync(this.file);
    rmSync(this.folder, { recursive: true });
  }
}
