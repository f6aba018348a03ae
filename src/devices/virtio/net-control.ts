/**
 * virtio-net's control queue: what a driver asks of its card beside frames. VIRTIO 1.2 §5.1.6.5.
 * The guest chose every byte; whatever is not exactly a command is answered with an error.
 */
import type { Chain, Virtqueue } from '../../native.ts';
import { NET } from './net-features.ts';

/** What a command has the card do. False if it cannot. */
export interface NetCommands {
  /** Frames go to the first `count` queue pairs; any number. */
  setPairs(count: number): boolean;
  /** As feature bits: any of 64. */
  setGuestOffloads(offloads: bigint): boolean;
  acknowledgeAnnouncement(): void;
}

interface Command {
  dataBytes: number;
  /** What must have been negotiated; nothing if absent. */
  feature?: bigint;
  run(data: DataView): boolean;
}

/** The class and the command, a byte each, in front of the data. */
const HEADER_BYTES = 2;

/** No command that we know has more data. */
const DATA_BYTES_MAX = 8;

const OK = Uint8Array.of(0);
const ERROR = Uint8Array.of(1);

/** How long a turn of the event loop is taken up: a command may cost system calls that wait. */
const TURN_MS_MAX = 2;

const key = (kind: number, command: number): number => (kind << 8) | command;

// Classes. Filters of received frames are acknowledged, and everything is received all the same.
const CTRL_RX = 0;
const RX_COMMANDS = [0, 1, 2, 3, 4, 5];
const CTRL_VLAN = 2;
const VLAN_COMMANDS = [0, 1];
const CTRL_ANNOUNCE = 3;
const CTRL_MQ = 4;
const CTRL_GUEST_OFFLOADS = 5;

export class NetControl {
  readonly #queue: Virtqueue;
  readonly #features: bigint;
  readonly #commands: ReadonlyMap<number, Command>;
  readonly #request = new Uint8Array(HEADER_BYTES + DATA_BYTES_MAX);

  /** @param features are those negotiated. */
  constructor(queue: Virtqueue, features: bigint, commands: NetCommands) {
    this.#queue = queue;
    this.#features = features;
    this.#commands = commandTable(commands);
    queue.onKick(this.#serve);
  }

  #serve = (): void => {
    const end = performance.now() + TURN_MS_MAX;
    while (performance.now() < end) {
      const chain = this.#queue.take();
      if (!chain) return;
      chain.complete(chain.write(this.#run(chain) ? OK : ERROR));
    }
    this.#queue.onKick(this.#serve); // which has the rest looked at in the next turn
  };

  #run(chain: Chain): boolean {
    chain.read(this.#request);
    const [kind = 0, name = 0] = this.#request;
    const command = this.#commands.get(key(kind, name));
    if (!command || chain.writableBytes === 0) return false;
    const { dataBytes, feature = 0n } = command;
    if (chain.readableBytes !== HEADER_BYTES + dataBytes) return false;
    if ((this.#features & feature) !== feature) return false;
    return command.run(new DataView(this.#request.buffer, HEADER_BYTES));
  }
}

function commandTable(commands: NetCommands): ReadonlyMap<number, Command> {
  const nothing = () => true;
  return new Map<number, Command>([
    ...RX_COMMANDS.map((name) => [key(CTRL_RX, name), { dataBytes: 1, run: nothing }] as const),
    ...VLAN_COMMANDS.map((name) => [key(CTRL_VLAN, name), { dataBytes: 2, run: nothing }] as const),
    [
      key(CTRL_ANNOUNCE, 0),
      {
        dataBytes: 0,
        feature: NET.GUEST_ANNOUNCE,
        run: () => {
          commands.acknowledgeAnnouncement();
          return true;
        },
      },
    ],
    [
      key(CTRL_MQ, 0),
      {
        dataBytes: 2,
        feature: NET.MQ,
        run: (data) => commands.setPairs(data.getUint16(0, true)),
      },
    ],
    [
      key(CTRL_GUEST_OFFLOADS, 0),
      {
        dataBytes: 8,
        feature: NET.CTRL_GUEST_OFFLOADS,
        run: (data) => commands.setGuestOffloads(data.getBigUint64(0, true)),
      },
    ],
  ]);
}
