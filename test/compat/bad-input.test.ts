/**
 * What clients and their files get wrong: each mistake has its status and a text that names what
 * was wrong, and afterwards the process answers, and a good VM boots.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { bzImage, elfKernel } from '../support/kernels.ts';
import { guestConfig, kernelOf, QUIET } from './support/guests.ts';
import { type Answer, requestText, VmmProcess } from './support/vmm-process.ts';

const KIB = 1024;
const EIB = 2 ** 60;

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Whatever a test did to it. */
afterEach(async () => {
  expect(await vmm.get('vmm.ping')).toMatchObject({ status: 200, body: { pid: vmm.pid } });
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.create', guestConfig(vmm.folder))).toMatchObject({ status: 204 });
  expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  const printed = () => readFileSync(join(vmm.folder, 'serial'), 'utf8');
  await expect.poll(printed, { timeout: 5000, interval: 2 }).toBe('X');
  expect(await vmm.put('vm.delete')).toMatchObject({ status: 204 });
});

const texts = ({ body }: Answer) => body as string[];
const lastText = (answer: Answer) => texts(answer).at(-1);

describe('persistent memory', () => {
  const file = () => join(vmm.folder, 'pmem.img');
  const create = (pmem: object) =>
    vmm.put('vm.create', { ...guestConfig(vmm.folder), pmem: [{ file: file(), ...pmem }] });

  test('of a file that is missing: 400, as known', async () => {
    const answer = await create({});

    expect(answer.status).toBe(400);
    expect(texts(answer)).toEqual([
      ...['Error from API', 'The VM could not be created', 'Error from device manager'],
      ...['Cannot open persistent memory file', 'No such file or directory (os error 2)'],
      `pmem[0].file is ${file()}: name a file that may be read`,
    ]);
  });

  test.each([
    ['of an odd size', { size: 4096 }, 'pmem[0].size is 4096: give a multiple of 2097152'],
    ['of no file', { file: '' }, 'pmem[0].file is : name a file that may be read'],
  ])('%s: 400', async (_name, pmem, text) => {
    const answer = await create(pmem);

    expect([answer.status, lastText(answer)]).toEqual([400, text]);
  });

  test('of a file that is gone at the boot: 400, and the VM boots when it is back', async () => {
    writeFileSync(file(), Buffer.alloc(2 * KIB * KIB));
    expect(await create({})).toMatchObject({ status: 204 });
    rmSync(file());

    expect(await vmm.put('vm.boot')).toMatchObject({ status: 400 });
    writeFileSync(file(), Buffer.alloc(2 * KIB * KIB));
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });
});

describe('a kernel file', () => {
  const path = () => join(vmm.folder, 'bad-kernel');
  const create = () => vmm.put('vm.create', { payload: { kernel: path() } });
  const file = (bytes: Uint8Array) => () => writeFileSync(path(), bytes);

  test.each<[string, () => void, string]>([
    ['that is missing', () => {}, 'ENOENT'],
    ['that is empty', file(new Uint8Array(0)), 'is empty'],
    ['that is text', file(Buffer.from('hello\n'.repeat(200))), 'is not a kernel'],
    ['for another machine', file(elfKernel({ machine: 183 })), 'ELF machine 183, x86-64 is 62'],
    ['of 32 bits', file(elfKernel({ class: 1 })), 'is a 32-bit ELF image'],
    ['that is big-endian', file(elfKernel({ data: 2 })), 'is a big-endian ELF image'],
    ['that is a relocatable object', file(elfKernel({ type: 1 })), 'is an ELF image of type 1'],
    ['with no segment', file(elfKernel({ segments: [] })), 'has no segment to load'],
    ['that is a directory', () => mkdirSync(path()), 'is a directory'],
    ['that is a FIFO', () => execFileSync('mkfifo', [path()]), 'is not a regular file'],
    ['that is a device', () => execFileSync('ln', ['-s', '/dev/zero', path()]), 'is not a regular'],
  ])('%s: 400', async (_name, make, text) => {
    execFileSync('rm', ['-rf', path()]);
    make();

    const answer = await create();

    expect(answer.status).toBe(400);
    expect(lastText(answer)).toContain(path());
    expect(lastText(answer)).toContain(text);
  });

  test.each([
    ['ELF image', kernelOf(QUIET)],
    ['bzImage', bzImage()],
  ])('that is an %s, cut anywhere: 400', async (_name, whole) => {
    execFileSync('rm', ['-rf', path()]);
    const step = whole.length > KIB ? 7 : 1;

    for (let length = 0; length < whole.length; length += step) {
      writeFileSync(path(), whole.subarray(0, length));
      const answer = await create();
      expect(answer.status, `${length} of ${whole.length} bytes`).toBe(400);
      expect(lastText(answer), `${length} bytes`).toContain(path());
    }
  });

  test('that is gone when the VM is booted: 400, and the VM boots once it is back', async () => {
    execFileSync('rm', ['-rf', path()]);
    writeFileSync(path(), kernelOf(QUIET));
    expect(await create()).toMatchObject({ status: 204 });
    execFileSync('rm', [path()]);

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(400);
    expect(texts(answer).slice(0, 3)).toEqual([
      'Error from API',
      'The VM could not boot',
      `Cannot open kernel file ${path()}`,
    ]);
    expect(await vmm.state()).toBe('Created');
    writeFileSync(path(), kernelOf(QUIET));
    expect(await vmm.put('vm.boot')).toMatchObject({ status: 204 });
  });

  test('that is not given: taken, and 400 at the boot', async () => {
    expect(await vmm.put('vm.create', {})).toMatchObject({ status: 204 });

    const answer = await vmm.put('vm.boot');

    expect(answer.status).toBe(400);
    expect(texts(answer)).toContain('No bootitem provided: neither firmware nor kernel');
    expect(lastText(answer)).toContain('payload.kernel is missing');
  });

  test('that does not fit into the RAM: 400', async () => {
    execFileSync('rm', ['-rf', path()]);
    writeFileSync(path(), elfKernel({ segments: [{ gpa: 1 << 20, sizeBytes: 1 << 30 }] }));

    const answer = await create();

    expect(answer.status).toBe(400);
    expect(lastText(answer)).toContain(path());
  });
});

describe('a value', () => {
  const topology = (threads_per_core: number, cores_per_die: number) => ({
    boot_vcpus: 2,
    max_vcpus: 2,
    topology: { threads_per_core, cores_per_die, dies_per_package: 1, packages: 1 },
  });
  const affinity = [{ vcpu: 0, host_cpus: [5000] }];

  test.each<[string, object, string]>([
    ['no memory', { memory: { size: 0 } }, 'memory.size is 0: give the guest some RAM'],
    ['1 byte of memory', { memory: { size: 1 } }, 'memory.size is 1: give a multiple of 4096'],
    [
      '512 KiB of memory',
      { memory: { size: 512 * KIB } },
      'memory.size is 524288: give at least 2097152',
    ],
    [
      'unaligned memory',
      { memory: { size: (64 << 20) + 1 } },
      'memory.size is 67108865: give a multiple',
    ],
    ['1 EiB of memory', { memory: { size: EIB } }, 'memory.size is 1152921504606847000, not an'],
    [
      'more than the host has',
      { memory: { size: 2 ** 52 } },
      'memory.size is 4503599627370496: give at most',
    ],
    [
      'no vCPUs',
      { cpus: { boot_vcpus: 0, max_vcpus: 0 } },
      'cpus.boot_vcpus is 0: give at least 1',
    ],
    [
      '100000 vCPUs',
      { cpus: { boot_vcpus: 100_000, max_vcpus: 100_000 } },
      'cpus.max_vcpus is 100000: give at most 254',
    ],
    [
      'max below boot',
      { cpus: { boot_vcpus: 4, max_vcpus: 2 } },
      'cpus.max_vcpus is 2: give at least 4',
    ],
    [
      'a zero in a topology',
      { cpus: topology(0, 2) },
      'cpus.topology.threads_per_core is 0: give at least 1',
    ],
    ['a topology of 4 for 2 vCPUs', { cpus: topology(2, 2) }, 'cpus.topology multiplies to 4'],
    [
      'affinity to a CPU that is not there',
      { cpus: { boot_vcpus: 1, max_vcpus: 1, affinity } },
      'cpus.affinity[0].host_cpus names 5000',
    ],
    [
      'affinity of a vCPU that is not there',
      { cpus: { boot_vcpus: 1, max_vcpus: 1, affinity: [{ vcpu: 7, host_cpus: [0] }] } },
      'cpus.affinity[0].vcpu is 7',
    ],
  ])('of %s: 400', async (_name, part, text) => {
    const answer = await vmm.put('vm.create', { ...guestConfig(vmm.folder), ...part });

    expect(answer.status).toBe(400);
    expect(lastText(answer)).toContain(text);
  });

  const sized = (size: string) => `{"payload":{"kernel":"/k"},"memory":{"size":${size}}}`;

  test.each([
    ['2^53', '9007199254740992', 'memory.size is 9007199254740992'],
    ['2^64', '18446744073709551616', 'memory.size is 18446744073709552000'],
    ['1e999', '1e999', 'memory.size is'],
    ['-1', '-1', 'memory.size is -1'],
    ['-0.0001', '-0.0001', 'memory.size is -0.0001'],
    ['0.5', '0.5', 'memory.size is 0.5'],
    ['"1"', '"1"', 'memory.size is "1"'],
    ['null', 'null', 'memory.size is null'],
    ['true', 'true', 'memory.size is true'],
    ['[]', '[]', 'memory.size is a list'],
    ['{}', '{}', 'memory.size is an object'],
  ])('of %s where a size is meant: 400', async (_name, size, text) => {
    const answer = await vmm.put('vm.create', sized(size));

    expect(answer.status).toBe(400);
    expect(texts(answer)[0]).toBe('Failed to deserialize JSON');
    expect(lastText(answer)).toContain(text);
  });
});

describe('JSON', () => {
  test.each([
    ['cut short', '{"payload":', 'Unexpected end'],
    ['that is none', 'hello', 'hello'],
    ['with more after it', '{} x', 'position 3'],
    ['200 levels deep', `{"x":${'['.repeat(200)}${']'.repeat(200)}}`, 'recursion limit exceeded'],
    ['a million levels deep', '['.repeat(1_000_000), 'recursion limit exceeded'],
    ['that is a list', '[]', 'The body is a list'],
    ['that is null', 'null', 'The body is null'],
  ])('%s: 400', async (_name, body, text) => {
    const answer = await vmm.put('vm.create', body);

    expect(answer.status).toBe(400);
    expect(texts(answer)[0]).toBe('Failed to deserialize JSON');
    expect(lastText(answer)).toContain(text);
  });

  test('of 10 MiB: 400, with the limit, though the client sends all of it first', async () => {
    const answer = await vmm.put('vm.create', `{"x":"${'x'.repeat(10 * KIB * KIB)}"}`);

    expect(answer.status).toBe(400);
    expect(answer.body).toEqual({
      error: expect.stringMatching(/^Request payload with size 10485768 .* limit of 4194304/),
    });
  });

  test('of 4 MB with 300000 unknown fields: taken, and they are ignored', async () => {
    const { payload } = guestConfig(vmm.folder);
    const fields = Array.from({ length: 300_000 }, (_, i) => `"f${i}":1`).join();

    const answer = await vmm.put('vm.create', `{"payload":${JSON.stringify(payload)},${fields}}`);

    expect(answer.status).toBe(204);
  });

  test('with __proto__ and constructor: keys like others, which mean nothing', async () => {
    const { payload } = guestConfig(vmm.folder);
    const hostile = '{"payload":{"kernel":"/other"},"memory":{"size":1},"iommu":true}';

    const answer = await vmm.put(
      'vm.create',
      `{"payload":${JSON.stringify(payload)},"__proto__":${hostile},"constructor":${hostile}}`,
    );

    expect(answer.status).toBe(204);
    const { body } = await vmm.get('vm.info');
    expect(body).toMatchObject({
      config: { payload, memory: { size: 512 * KIB * KIB }, iommu: false },
    });
  });
});

describe('in a wrong state', () => {
  test('two creates: the second is 405, and the first stands', async () => {
    const config = guestConfig(vmm.folder);
    await vmm.put('vm.create', config);

    const answer = await vmm.put('vm.create', { ...config, memory: { size: 32 << 20 } });

    expect(answer.status).toBe(405);
    expect(lastText(answer)).toBe('VM is already created');
    expect(await vmm.get('vm.info')).toMatchObject({ body: { config } });
  });

  test('two boots, one after the other and both at once: one is 405', async () => {
    await vmm.put('vm.create', guestConfig(vmm.folder));

    const both = await Promise.all([vmm.put('vm.boot'), vmm.put('vm.boot')]);
    const third = await vmm.put('vm.boot');

    expect(both.map(({ status }) => status).sort()).toEqual([204, 405]);
    expect(third).toMatchObject({ status: 405 });
    expect(lastText(third)).toBe('VM is already created');
  });

  test('calls during a boot are answered, before it has ended where they can be', async () => {
    const memory = { size: 512 * KIB * KIB, prefault: true };
    await vmm.put('vm.create', { ...guestConfig(vmm.folder), memory });

    const ended: string[] = [];
    const note = (what: string) => (answer: Answer) => {
      ended.push(what);
      return answer;
    };
    const [boot, ping, info, pause] = await Promise.all([
      vmm.put('vm.boot').then(note('boot')),
      wait(5).then(() => vmm.get('vmm.ping').then(note('ping'))),
      wait(5).then(() => vmm.get('vm.info').then(note('info'))),
      wait(5).then(() => vmm.put('vm.pause').then(note('pause'))),
    ]);

    expect([boot, ping, info, pause].map(({ status }) => status)).toEqual([204, 200, 200, 204]);
    expect((info.body as { state: string }).state).toBe('Created');
    // Two connections: which of the last two answers is read first is chance.
    expect(ended.slice(2).sort()).toEqual(['boot', 'pause']);
  });
});

describe('a request', () => {
  const PING = 'GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n';
  const statuses = ({ text }: Answer) => text.match(/HTTP\/1\.1 \d{3}/g)?.map((s) => s.slice(-3));

  test('in writes of one byte: served', async () => {
    const request = requestText('PUT', '/api/v1/vm.create', guestConfig(vmm.folder));

    const answer = await vmm.raw([...request]);

    expect(answer.status).toBe(204);
  });

  test('and another in one write: both served, in order', async () => {
    const create = requestText('PUT', '/api/v1/vm.create', guestConfig(vmm.folder));

    const answer = await vmm.raw(`${create}${PING}`);

    expect(statuses(answer)).toEqual(['204', '200']);
  });

  test.each([
    ['without Host', 'GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n'],
    ['of HTTP/1.0', 'GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n'],
    ['with line ends of one byte', 'GET /api/v1/vmm.ping HTTP/1.1\n\n'],
  ])('%s: served', async (_name, request) => {
    expect(await vmm.raw(request)).toMatchObject({ status: 200 });
  });

  const put = (header: string, body = '') =>
    `PUT /api/v1/vm.create HTTP/1.1\r\n${header}\r\n\r\n${body}`;

  test.each([
    ['a negative Content-Length', put('Content-Length: -1'), 'Key:Content-Length; Value: -1'],
    ['a Content-Length of words', put('Content-Length: many'), 'Key:Content-Length; Value: many'],
    [
      'two lengths that differ',
      put('Content-Length: 2\r\nContent-Length: 3', '{}'),
      'Key:Content-Length; Value: 3',
    ],
    [
      'a length beyond all limits',
      put('Content-Length: 99999999999999999999'),
      'Key:Content-Length; Value: 99999999999999999999',
    ],
    ['a length beyond ours', put('Content-Length: 5000000000'), 'size 5000000000'],
    [
      'a length and chunks',
      put('Content-Length: 2\r\nTransfer-Encoding: chunked', '{}'),
      'Both Content-Length and Transfer-Encoding',
    ],
    ['HTTP/2.0', 'GET /api/v1/vmm.ping HTTP/2.0\r\n\r\n', 'Invalid HTTP Version'],
  ])('with %s: 400', async (_name, request, text) => {
    const answer = await vmm.raw(request);

    expect(answer.status).toBe(400);
    expect((answer.body as { error: string }).error).toContain(text);
  });

  test('shorter than its Content-Length, when the client ends: no answer, nothing done', async () => {
    const answer = await vmm.raw(put('Content-Length: 100', '{"payload":{}}'));

    expect(answer.text).toBe('');
    expect(await vmm.state()).toBe('None');
  });

  test('longer than its Content-Length: served, and the rest is 400', async () => {
    const answer = await vmm.raw(put('Content-Length: 2', '{}garbage\r\n\r\n'));

    expect(statuses(answer)).toEqual(['204', '400']);
  });

  test('of TLS: 400', async () => {
    const hello = Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 0x0d, 0x0a, 0x0d, 0x0a]);

    expect(await vmm.raw(hello)).toMatchObject({ status: 400 });
  });
});

describe('a client that goes away', () => {
  /** Connects, sends, and is gone after so many milliseconds, without reading. */
  async function vanish(request: string, afterMs: number): Promise<void> {
    const socket = connect(vmm.socket);
    socket.pause();
    socket.on('error', () => {});
    socket.write(request);
    await wait(afterMs);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.destroy();
    await closed;
  }

  test('in the middle of a request: nothing is done', async () => {
    const request = requestText('PUT', '/api/v1/vm.create', guestConfig(vmm.folder));
    for (const length of [1, 30, request.length - 1]) await vanish(request.slice(0, length), 5);

    expect(await vmm.state()).toBe('None');
  });

  test('in the middle of a reply that it does not read: others are served', async () => {
    await vmm.put('vm.create', guestConfig(vmm.folder));
    const info = 'GET /api/v1/vm.info HTTP/1.1\r\n\r\n';

    await Promise.all(Array.from({ length: 5 }, () => vanish(info.repeat(5000), 50)));

    expect(await vmm.state()).toBe('Created');
  });

  test('while its boot runs: the VM boots all the same', async () => {
    await vmm.put('vm.create', guestConfig(vmm.folder));

    await vanish(requestText('PUT', '/api/v1/vm.boot'), 1);

    await expect.poll(() => vmm.state(), { timeout: 5000 }).toBe('Running');
  });
});
