/**
 * What existing clients need at the least, from `a` to `v`: a test each, here or where it has long
 * been one. Each is done as a client does it, over the product's socket.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { createApi } from '../../src/api/server.ts';
import type { Schema } from '../../src/schema.ts';
import { SCHEMAS } from '../../src/vmm/schema-tables.ts';
import { Vmm } from '../../src/vmm/vmm.ts';
import { guestConfig, kernelOf, QUIET } from './support/guests.ts';
import { streaming } from './support/serial-guests.ts';
import { TestTerminal } from './support/terminal.ts';
import { LAUNCHER, parseAnswer, requestText, VmmProcess } from './support/vmm-process.ts';

const ELSEWHERE: Readonly<Record<string, readonly (readonly [file: string, name: string])[]>> = {
  'f: requests in pieces': [
    ['wires.test.ts', 'four writes with gaps, no Content-Type'],
    ['wires.test.ts', 'a request in writes of a byte each'],
  ],
  'g: descriptors': [
    ['wires.test.ts', '%i with the first of two segments, and none is kept'],
    ['wires.test.ts', '%i with the whole request, and none is kept'],
    ['leaks.test.ts', 'after 100 clients that sent descriptors nobody asked for, none is left'],
  ],
  'h: PUT without a body': [
    ['wires.test.ts', 'a PUT without a body or Content-Length, on the connection of the last one'],
    ['wires.test.ts', 'an empty upload of unknown size: chunked, after 100 Continue'],
    ['wires.test.ts', 'its header order, a body that ends with a line end, keep-alive'],
  ],
  'i: any host': [['wires.test.ts', "const HOSTS = ['Host: localhost', 'Host:x', 'HOST: unix'"]],
  'o: a config of 2020 is answered so': [['dialects.test.ts', 'info after $name']],
  'p: sizes after vm.resize': [
    ['resize-cpus.test.ts', 'a reboot keeps what was added'],
    [
      'resize-memory.test.ts',
      'RAM grows by sections, running or paused, and a reboot keeps what it has',
    ],
  ],
  'q: signals': [
    ['process.test.ts', '%s ends it with 0 within a second; the socket goes, the lock stays'],
  ],
  'r: a stale socket': [['launcher.test.ts', 'a socket that a killed process left is replaced']],
  's: tty without a terminal': [['serial.test.ts', 'tty costs no time where stdin is %s']],
  't: events that nobody reads': [
    ['events.test.ts', 'a FIFO stalls neither the start nor, once it is full, anything else'],
    ['../unit/vmm/events.test.ts', 'a FIFO is opened at once, and who comes later reads all'],
  ],
  'v: vsock before the guest is up': [
    [
      'bad-vsock.test.ts',
      'clients that come before the guest has a driver are turned away at once',
    ],
    ['../native/vsock_engine_test.cc', 'of clients that left early the guest has no open requests'],
  ],
};

test.each(Object.entries(ELSEWHERE))('%s has its tests elsewhere', (_row, tests) => {
  for (const [file, name] of tests)
    expect(readFileSync(join(import.meta.dirname, file), 'utf8'), file).toContain(name);
});

test('a: --version is one line of two words, with three numbers', () => {
  const { status, stdout, stderr } = spawnSync(LAUNCHER, ['--version'], { encoding: 'utf8' });

  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(/^cloud-hypervisor v\d+\.\d+\.\d+\n$/);
});

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Of several tries, for the machine does other things, too. */
async function fastest(tries: number, once: () => Promise<number>): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < tries; i++) best = Math.min(best, await once());
  return best;
}

/** On all of its threads, in ms: of utime and stime, in proc(5). */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')')).split(' ');
  return 10 * (Number(fields[12]) + Number(fields[13]));
}

// On a machine that does nothing else it takes that long, which bench/startup.ts measures.
test('b: the first good ping, by a client that asks every 10 ms, costs less than 300 ms', async () => {
  const ms = await fastest(3, async () => {
    await using vmm = VmmProcess.launch({});
    for (;;) {
      const { status } = await vmm.get('vmm.ping').catch(() => ({ status: 0 }));
      if (status === 200) return cpuMs(vmm.pid);
      await sleep(10);
    }
  });

  expect(ms).toBeLessThan(300);
});

/** One that stays, and takes a request when the one before it is answered. */
class Client implements Disposable {
  readonly #socket: Socket;
  #text = '';
  #heard = () => {};

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('data', (bytes) => {
      this.#text += bytes.toString('latin1');
      this.#heard();
    });
  }

  async ask(method: 'GET' | 'PUT', name: string, body?: unknown) {
    this.#text = '';
    const heard = new Promise<void>((resolve) => {
      this.#heard = () => this.#isWhole() && resolve();
    });
    this.#socket.write(requestText(method, `/api/v1/${name}`, body));
    await heard;
    return parseAnswer(this.#text);
  }

  #isWhole(): boolean {
    const [head = '', body] = this.#text.split('\r\n\r\n');
    const length = Number(/Content-Length: (\d+)/.exec(head)?.[1] ?? 0);
    return body !== undefined && body.length >= length;
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

const MIB = 1 << 20;
const RAM_STEP = 128 * MIB;
const HOST_RAM = Math.floor(totalmem() / RAM_STEP) * RAM_STEP;

const KATA = { boot_vcpus: 1, max_vcpus: 1 };
/** With room for as much RAM as the host has. */
const roomy = (folder: string) => ({
  ...guestConfig(folder),
  cpus: KATA,
  memory: { size: 128 * MIB, hotplug_size: HOST_RAM },
});

test('c: create, two infos and boot take no second, with as much room for RAM as there is', async () => {
  const ms = await fastest(3, async () => {
    await using vmm = await VmmProcess.start();
    using client = new Client(vmm.socket);
    const started = performance.now();
    expect(await client.ask('PUT', 'vm.create', roomy(vmm.folder))).toMatchObject({ status: 204 });
    expect((await client.ask('GET', 'vm.info')).body).toMatchObject({ state: 'Created' });
    expect(await client.ask('PUT', 'vm.boot')).toMatchObject({ status: 204 });
    expect((await client.ask('GET', 'vm.info')).body).toMatchObject({ state: 'Running' });
    return performance.now() - started;
  });

  expect(ms).toBeLessThan(1000);
});

test('d: 10,000 requests on one connection are answered', { timeout: 60_000 }, async () => {
  await using vmm = await VmmProcess.start();
  using client = new Client(vmm.socket);

  for (let i = 0; i < 10_000; i++) expect((await client.ask('GET', 'vmm.ping')).status).toBe(200);
});

const TEN_MINUTES_MS = 600_000;

test('d: a connection that idles for ten minutes is served after them', async () => {
  const path = join(mkdtempSync(join(tmpdir(), 'idle-')), 'socket');
  const nothing = () => {};
  const told = { onExit: nothing, onBooted: nothing, onWarning: nothing, onEvent: nothing };
  const server = await createApi(new Vmm({ noShutdown: true, ...told }));
  vi.useFakeTimers({ toFake: ['setTimeout', 'setInterval', 'Date', 'performance'] });
  server.listen({ path });
  using client = new Client(path);
  expect((await client.ask('GET', 'vmm.ping')).status).toBe(200);

  await vi.advanceTimersByTimeAsync(TEN_MINUTES_MS);

  expect((await client.ask('GET', 'vmm.ping')).status).toBe(200);
  vi.useRealTimers();
  client[Symbol.dispose]();
  await server.close();
  rmSync(join(path, '..'), { recursive: true });
});

test('e: twelve connections at once are each answered, as often as they ask', async () => {
  await using vmm = await VmmProcess.start();
  const clients = Array.from({ length: 12 }, () => new Client(vmm.socket));

  for (let round = 0; round < 3; round++) {
    const answers = await Promise.all(clients.map((client) => client.ask('GET', 'vmm.ping')));
    expect(answers.map(({ status }) => status)).toEqual(Array(12).fill(200));
  }
  for (const client of clients) client[Symbol.dispose]();
});

test('j: an id and a path beyond ASCII come back as they were, in bytes below 0x80', async () => {
  await using vmm = await VmmProcess.start();
  const disk = { id: 'plåt-\u{1f4be}', path: join(vmm.folder, 'säge.img') };
  writeFileSync(disk.path, Buffer.alloc(4096));
  await vmm.put('vm.create', { ...guestConfig(vmm.folder), disks: [disk] });
  await vmm.put('vm.boot');

  const { text, body } = await vmm.get('vm.info');

  expect([...text].every((char) => char.charCodeAt(0) < 0x80)).toBe(true);
  expect(body).toMatchObject({ config: { disks: [disk] } });
});

describe('k: a failure is a JSON list of texts, and says that it is JSON', () => {
  test.each<[string, string, unknown, number, string]>([
    ['GET', 'vm.info', undefined, 404, 'VM is not created'],
    ['PUT', 'vm.boot', undefined, 404, 'VmNotCreated'],
    ['PUT', 'vm.create', '{', 400, 'Failed to deserialize JSON'],
    ['PUT', 'vm.create', { memory: { size: 1 } }, 400, 'memory.size'],
    ['PUT', 'vm.create', undefined, 400, 'Bad Request'],
    ['PUT', 'vm.nowhere', {}, 404, 'Not Found'],
    ['GET', 'vm.boot', undefined, 405, 'Method Not Allowed'],
    ['PUT', 'vm.add-disk', { path: '/nowhere' }, 404, 'VM is not created'],
    ['PUT', 'vm.remove-device', { id: 'x' }, 404, 'VmNotCreated'],
    ['PUT', 'vm.resize', { desired_vcpus: 2 }, 404, 'VmNotCreated'],
    ['PUT', 'vm.snapshot', { destination_url: 'file:///x' }, 400, 'Not supported yet: vm.snapshot'],
  ])('%s %s %j: %i', async (method, name, body, status, text) => {
    await using vmm = await VmmProcess.start();

    const answer = await vmm.raw(requestText(method, `/api/v1/${name}`, body));

    expect(answer.status).toBe(status);
    expect(answer.head).toContain('\r\nContent-Type: application/json');
    const texts = answer.body as string[];
    expect(texts.every((each) => typeof each === 'string')).toBe(true);
    expect(texts.join('\n')).toContain(text);
  });

  test('a vCPU that the guest has yet to give up', async () => {
    await using vmm = await VmmProcess.start();
    const config = { ...guestConfig(vmm.folder), cpus: { boot_vcpus: 2, max_vcpus: 2 } };
    await vmm.put('vm.create', config);
    await vmm.put('vm.boot');
    await vmm.put('vm.resize', { desired_vcpus: 1 });

    const answer = await vmm.put('vm.resize', { desired_vcpus: 2 });

    expect(answer).toMatchObject({ status: 429, body: ['Too Many Requests'] });
  });
});

test('l: vm.info is answered within 100 ms while disks are added and RAM grows', async () => {
  await using vmm = await VmmProcess.start();
  await vmm.put('vm.create', roomy(vmm.folder));
  await vmm.put('vm.boot');
  using client = new Client(vmm.socket);
  using asking = new Client(vmm.socket);
  let busy = true;
  const waits: number[] = [];
  const ask = async () => {
    while (busy) {
      const asked = performance.now();
      expect((await asking.ask('GET', 'vm.info')).body).toMatchObject({ state: 'Running' });
      waits.push(performance.now() - asked);
    }
  };
  const asked = ask();

  for (let i = 1; i <= 8; i++) {
    const path = join(vmm.folder, `${i}.img`);
    writeFileSync(path, Buffer.alloc(4096));
    expect(await client.ask('PUT', 'vm.add-disk', { path })).toMatchObject({ status: 200 });
    const desired_ram = 128 * MIB + i * RAM_STEP;
    expect(await client.ask('PUT', 'vm.resize', { desired_ram })).toMatchObject({ status: 204 });
  }
  busy = false;
  await asked;

  // On a busy machine the asker itself is late now and then.
  const inTime = waits.filter((ms) => ms < 100).length;
  expect(inTime / waits.length).toBeGreaterThan(0.95);
});

/** Null wherever a field may be absent; what has to be there stays. */
function withNulls({ items, properties = items?.properties ?? {} }: Schema, value: object): object {
  return Object.fromEntries(
    Object.entries(properties).map(([name, field]) => {
      const own = (value as Record<string, unknown>)[name];
      if (own === undefined) return [name, null];
      if (Array.isArray(own))
        return [name, own.map((each) => withNulls(field.items ?? field, each))];
      return [name, typeof own === 'object' ? withNulls(field, own as object) : own];
    }),
  );
}

test('m: null is absent, wherever a field may be', async () => {
  await using vmm = await VmmProcess.start();
  const disk = { id: 'd', path: join(vmm.folder, 'disk.img') };
  writeFileSync(disk.path, Buffer.alloc(4096));
  const config = {
    ...{ cpus: KATA, ...guestConfig(vmm.folder), disks: [disk] },
    net: [{ mac: '02:00:00:00:00:01' }],
    vsock: { cid: 3, socket: join(vmm.folder, 'vsock') },
  };
  const today = { ...SCHEMAS.vmCreate, properties: { ...SCHEMAS.vmCreate.properties } };
  for (const old of ['kernel', 'cmdline', 'initramfs'])
    Reflect.deleteProperty(today.properties, old);
  const infoOf = async (body: object) => {
    const { status, text } = await vmm.put('vm.create', body);
    expect(status, text).toBe(204);
    const { body: info } = await vmm.get('vm.info');
    await vmm.put('vm.delete');
    return info;
  };

  expect(await infoOf(withNulls(today, config))).toEqual(await infoOf(config));
});

test('n: limits and a balloon of zero mean none', async () => {
  await using vmm = await VmmProcess.start({ through: ['/usr/bin/unshare', '-n'] });
  const none = { size: 0, refill_time: 0 };
  const rate_limiter_config = { bandwidth: none, ops: none };
  const path = join(vmm.folder, 'disk.img');
  writeFileSync(path, Buffer.alloc(4096));

  const created = await vmm.put('vm.create', {
    ...guestConfig(vmm.folder),
    disks: [{ path, rate_limiter_config }],
    net: [{ rate_limiter_config }],
    balloon: { size: 0 },
  });

  expect(created).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
});

describe('q: the end', () => {
  const KERNELS = {
    SIGTERM: kernelOf(QUIET),
    SIGINT: kernelOf(QUIET),
    SIGHUP: kernelOf(QUIET),
    'vmm.shutdown': kernelOf(QUIET),
    // So long that the terminal is looked at before.
    'a power-off by the guest': streaming(200_000),
  };

  test.each(Object.entries(KERNELS))(
    'by %s: 0 within a second, socket gone, terminal restored, reply sent',
    async (end, kernel) => {
      using terminal = await TestTerminal.open();
      const before = terminal.settings;
      await using vmm = await VmmProcess.start({ stdio: [terminal.fd, terminal.fd, 'ignore'] });
      const config = { ...guestConfig(vmm.folder), serial: { mode: 'Tty' } };
      writeFileSync(config.payload.kernel, kernel);
      await vmm.put('vm.create', config);
      await vmm.put('vm.boot');
      expect(terminal.settings).not.toBe(before);

      const asked = performance.now();
      if (end.startsWith('SIG')) vmm.child.kill(end as NodeJS.Signals);
      if (end === 'vmm.shutdown') expect((await vmm.put(end)).status).toBe(200);

      expect(await vmm.exitCode()).toBe(0);
      if (!end.startsWith('a ')) expect(performance.now() - asked).toBeLessThan(1000);
      expect(existsSync(vmm.socket)).toBe(false);
      expect(terminal.settings).toBe(before);
    },
  );
});

test('t: a reader of events that is slow, or goes away, stops nothing', async () => {
  const vmm = await VmmProcess.start({
    args: (folder) => {
      execFileSync('mkfifo', [join(folder, 'events')]);
      return ['--event-monitor', `path=${join(folder, 'events')}`];
    },
  });
  await using _ = vmm;
  const rounds = async (count: number) => {
    for (let i = 0; i < count; i++)
      for (const verb of ['vm.pause', 'vm.resume'])
        expect(await vmm.put(verb)).toMatchObject({ status: 204 });
  };
  await vmm.put('vm.create', guestConfig(vmm.folder));
  await vmm.put('vm.boot');

  const slow = spawn('/bin/sh', ['-c', 'while head -c 10; do sleep 0.1; done <events >read'], {
    cwd: vmm.folder,
  });
  await expect.poll(() => existsSync(join(vmm.folder, 'read')), { timeout: 10_000 }).toBe(true);
  await rounds(300);
  slow.kill('SIGKILL');
  await rounds(300);

  expect(readFileSync(join(vmm.folder, 'read'), 'utf8')).toMatch(/^\{/);
  expect(await vmm.put('vmm.shutdown')).toMatchObject({ status: 200 });
  expect(await vmm.exitCode()).toBe(0);
});

test('u: the process that was started answers pings, and has the threads of the vCPUs', async () => {
  await using vmm = await VmmProcess.start();
  const config = { ...guestConfig(vmm.folder), cpus: { boot_vcpus: 2, max_vcpus: 2 } };
  await vmm.put('vm.create', config);
  await vmm.put('vm.boot');

  expect((await vmm.get('vmm.ping')).body).toMatchObject({ pid: vmm.pid });
  const tasks = `/proc/${vmm.pid}/task`;
  const names = readdirSync(tasks).map((task) => readFileSync(`${tasks}/${task}/comm`, 'utf8'));
  expect(names.filter((name) => /^vcpu\d+$/.test(name.trim())).sort()).toEqual([
    'vcpu0\n',
    'vcpu1\n',
  ]);
});
