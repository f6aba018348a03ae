/** Programs whose Linux guest gets a disk and a vCPU: ours by its API, QEMU by QMP. */
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseResponse } from '../../test/e2e/support/api-client.ts';
import type { Guest } from '../../test/e2e/support/guest.ts';
import { qemu, type Vmm } from '../../test/e2e/support/vmm.ts';

/** Each resolves with the answer; what was asked for comes later. */
export interface Plugs {
  addDisk(): Promise<void>;
  addCpu(): Promise<void>;
  /** Both resolve when the host has forgotten it, so that it can come again. */
  removeDisk(): Promise<void>;
  removeCpu(): Promise<void>;
  /** Asks how the VM is. */
  info(): Promise<void>;
  close(): void;
}

const DISK = 'hot';
const CPU = 'hotcpu';
const QMP_SOCKET = '/tmp/bench-plug-qmp.sock';
const POLL_MS = 100;

/** What QEMU needs for it. A port of PCI Express takes one device. */
export const plugArguments = (vmm: Vmm, image: string): string[] =>
  vmm === qemu
    ? [
        ...['-qmp', `unix:${QMP_SOCKET},server=on,wait=off`],
        ...['-device', 'pcie-root-port,id=port0,chassis=1,slot=1'],
        ...['-blockdev', `driver=raw,node-name=image,file.driver=file,file.filename=${image}`],
      ]
    : [];

export const openPlugs = (vmm: Vmm, guest: Guest, image: string): Promise<Plugs> =>
  vmm === qemu ? openQmp(guest) : byApi(guest, image);

async function byApi(guest: Guest, path: string): Promise<Plugs> {
  const infos = await guest.host.connect(`${guest.directory}/api.sock`);
  const put = async (verb: string, body: object, allowed = [200, 204]): Promise<number> => {
    const { status, text } = await guest.api.put(verb, body);
    if (!allowed.includes(status)) throw new Error(`${verb}: ${status} ${text}`);
    return status;
  };
  const tree = async () =>
    ((await guest.api.get('vm.info')).json as { device_tree: object }).device_tree;
  return {
    addDisk: async () => void (await put('vm.add-disk', { id: DISK, path, image_type: 'Raw' })),
    addCpu: async () => void (await put('vm.resize', { desired_vcpus: 2 })),
    removeDisk: async () => {
      await put('vm.remove-device', { id: DISK });
      while (DISK in (await tree())) await sleep(POLL_MS);
    },
    removeCpu: async () => {
      await put('vm.resize', { desired_vcpus: 1 });
      // Busy until the guest has given it up; then there is nothing to do.
      while ((await put('vm.resize', { desired_vcpus: 1 }, [204, 429])) === 429)
        await sleep(POLL_MS);
    },
    info: () => askInfo(infos),
    close: () => void infos.destroy(),
  };
}

/** On a connection that stays, as clients that ask often have one. */
async function askInfo(stream: Duplex): Promise<void> {
  let received = Buffer.alloc(0);
  const answered = new Promise<void>((resolve) => {
    const hear = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (!parseResponse(received)) return;
      stream.off('data', hear);
      resolve();
    };
    stream.on('data', hear);
  });
  stream.write('GET /api/v1/vm.info HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await answered;
}

interface Message {
  QMP?: object;
  return?: unknown;
  error?: { desc: string };
  event?: string;
  data?: { device?: string };
}

/** Commands one at a time; events are kept. */
class Qmp {
  readonly gone = new Set<string>();
  readonly #stream: Duplex;
  readonly #waiting: ((message: Message) => void)[] = [];
  #text = '';

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => this.#hear(String(chunk)));
  }

  async ask<T>(execute: string, parameters: object = {}): Promise<T> {
    const answer = new Promise<Message>((resolve) => {
      this.#waiting.push(resolve);
    });
    this.#stream.write(`${JSON.stringify({ execute, arguments: parameters })}\n`);
    const { error, return: value } = await answer;
    if (error) throw new Error(`${execute}: ${error.desc}`);
    return value as T;
  }

  close(): void {
    this.#stream.destroy();
  }

  #hear(text: string): void {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      const message = JSON.parse(line) as Message;
      if (message.event === 'DEVICE_DELETED') this.gone.add(message.data?.device ?? '');
      else if ('return' in message || message.error) this.#waiting.shift()?.(message);
    }
  }
}

interface CpuSlot {
  type: string;
  props: object;
  'qom-path'?: string;
}

async function openQmp(guest: Guest): Promise<Plugs> {
  const qmp = new Qmp(await guest.host.connect(QMP_SOCKET));
  await qmp.ask('qmp_capabilities');
  const slots = await qmp.ask<CpuSlot[]>('query-hotpluggable-cpus');
  const free = slots.find((slot) => !slot['qom-path']);
  if (!free) throw new Error('QEMU has no place for another vCPU');
  const remove = async (id: string): Promise<void> => {
    await qmp.ask('device_del', { id });
    while (!qmp.gone.delete(id)) await sleep(POLL_MS);
  };
  const disk = { driver: 'virtio-blk-pci', id: DISK, bus: 'port0', drive: 'image' };
  return {
    addDisk: () => qmp.ask('device_add', disk),
    addCpu: () => qmp.ask('device_add', { driver: free.type, id: CPU, ...free.props }),
    removeDisk: () => remove(DISK),
    removeCpu: () => remove(CPU),
    info: () => qmp.ask('query-status'),
    close: () => qmp.close(),
  };
}
