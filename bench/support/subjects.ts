/** The programs that benches compare: ours, peers with the same command line, and QEMU. */
import { parseArgs } from 'node:util';

/** What a bench asks of a program, with an absolute path first. */
export interface Subject {
  name: string;
  /** Waits for requests on an API socket, with what is sent and how a good answer starts. */
  api(socket: string): { argv: string[]; request: string; answer: string };
  /** Runs a kernel, with its COM1 on stdout. */
  guest(kernel: string): string[];
}

const MEMORY_MIB = 64;

function cloudHypervisor(name: string, path: string): Subject {
  const vm = ['--memory', `size=${MEMORY_MIB}M`, '--serial', 'tty', '--console', 'off'];
  return {
    name,
    api: (socket) => ({
      argv: [path, '--api-socket', socket],
      request: 'GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n',
      answer: 'HTTP/1.1 200',
    }),
    guest: (kernel) => [path, '--kernel', kernel, ...vm],
  };
}

function qemuMicrovm(path: string): Subject {
  const machine = ['-M', 'microvm,accel=kvm,isa-serial=on', '-m', `${MEMORY_MIB}`];
  const argv = [path, ...machine, '-nodefaults', '-no-user-config', '-display', 'none'];
  return {
    name: 'QEMU microvm',
    api: (socket) => ({
      argv: [...argv, '-S', '-qmp', `unix:${socket},server=on,wait=off`],
      request: '',
      answer: '{"QMP"',
    }),
    guest: (kernel) => [...argv, '-kernel', kernel, '-serial', 'file:/dev/stdout'],
  };
}

/** A program with the command line and the API of ours. */
export interface Peer {
  name: string;
  path: string;
}

export interface BenchArguments {
  peers: Peer[];
  rounds: number;
  /** Where the record goes, beside the table on stdout. */
  json: string | undefined;
}

/** `[--peer NAME=PATH]... [--rounds N] [--json FILE]`; each of the subjects takes every round. */
export function benchArguments(args: string[]): BenchArguments {
  const { values } = parseArgs({
    args,
    options: {
      peer: { type: 'string', multiple: true, default: [] },
      rounds: { type: 'string', default: '10' },
      json: { type: 'string' },
    },
  });
  const peers = values.peer.map((peer) => {
    const [, name, path] = /^([^=]+)=(\/.*)$/.exec(peer) ?? [];
    if (name === undefined || path === undefined)
      throw new Error(`--peer ${peer}: give NAME=PATH with an absolute path`);
    return { name, path };
  });
  return { peers, rounds: Number(values.rounds), json: values.json };
}

export interface BenchOptions extends Omit<BenchArguments, 'peers'> {
  subjects: Subject[];
}

/** See `benchArguments`: ours, QEMU and the peers. */
export function benchOptions(ours: string, args: string[]): BenchOptions {
  const { peers, ...options } = benchArguments(args);
  const qemu = qemuMicrovm('/usr/bin/qemu-system-x86_64');
  const others = peers.map(({ name, path }) => cloudHypervisor(name, path));
  return { ...options, subjects: [cloudHypervisor('ours', ours), qemu, ...others] };
}
