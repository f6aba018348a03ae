/**
 * ch-remote: what the original's was recorded to print, against a server that answers as the
 * original did; the requests that it makes; and a real VMM driven by it.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, copyFileSync, fstatSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { COMMANDS } from '../../src/api/remote-commands.ts';
import { remoteHelpText } from '../../src/api/remote-help.ts';
import { recording } from './recordings.ts';
import { guestConfig } from './support/guests.ts';
import { chainOf, FakeServer, REMOTE, remote } from './support/remote.ts';
import { VmmProcess } from './support/vmm-process.ts';

interface Run {
  name: string;
  argv?: string[];
  exit: number;
  stdout: string;
  stderr: string;
}

const STATUSES: Readonly<Record<string, number>> = { NotFound: 404, InternalServerError: 500 };

/** As the original frames it: no reason behind the status. */
const reply = (status: number, body?: string): string =>
  `HTTP/1.1 ${status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n` +
  (body === undefined
    ? '\r\n'
    : `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);

/** The reply that made the original print what it did. */
function replyOf(run: Run): string {
  const [, , ...texts] = chainOf(run);
  const [, name = ''] = /Server responded with (\w+)/.exec(run.stderr) ?? [];
  if (run.exit !== 0) return reply(STATUSES[name] ?? 500, JSON.stringify(texts));
  return run.stdout === '' ? reply(204) : reply(200, run.stdout.slice(0, -1));
}

const toServer = recording<Run>('cli').filter(
  ({ argv, exit }) => argv?.[0] === 'ch-remote' && argv.includes('/tmp/ch.sock') && exit !== 2,
);

test.each(toServer)('$argv', async (run) => {
  using server = new FakeServer([replyOf(run)]);
  const config = join(server.path, '../vm.json');
  writeFileSync(config, '{}');
  const args = (run.argv ?? []).slice(1).map((word) => word.replace('/tmp/vm.json', config));

  const ours = await remote(args.map((word) => word.replace('/tmp/ch.sock', server.path)));

  expect(ours).toMatchObject({ exit: run.exit, stdout: run.stdout });
  expect(chainOf(ours)).toEqual(chainOf(run));
  expect(ours.stderr).toMatch(
    run.exit === 0
      ? /^$/
      : /^\[[-\dT:]{19}Z ERROR cloud_hypervisor\] Fatal error: .*\nError: ch-rem/,
  );
});

describe('usage', () => {
  test.each([
    [[], remoteHelpText()],
    [['--api-socket', '/nowhere'], remoteHelpText()],
    [['--api-socket', '/nowhere', 'foo'], "error: unrecognized subcommand 'foo'\n"],
    [['--bogus', 'ping'], "error: unexpected argument '--bogus' found\n"],
    [['ping', 'x'], "error: unexpected argument 'x' found\n"],
    [['add-disk'], 'error: the following required arguments were not provided:\n  <disk_config>\n'],
    [['resize', '--cpus'], "error: a value is required for '--cpus <cpus>' but none was supplied"],
    [
      ['resize', '--cpus', '1', '--cpus', '2'],
      "error: the argument '--cpus <cpus>' cannot be used multiple times\n",
    ],
    [
      ['resize-disk', '--disk', 'a'],
      'error: the following required arguments were not provided:\n  --size <size>\n',
    ],
  ])('%j is a mistake', async (args, text) => {
    const { exit, stdout, stderr } = await remote(args);
    expect({ exit, stdout }).toEqual({ exit: 2, stdout: '' });
    expect(stderr.startsWith(text), stderr).toBe(true);
  });

  test.each([
    [['ping'], 'Please provide the socket: --api-socket PATH'],
    [
      ['--api-socket', '/nowhere', 'ping'],
      'Error opening HTTP socket: No such file or directory (os error 2)',
    ],
    [
      [`--api-socket=/${'x'.repeat(108)}`, 'ping'],
      'Error opening HTTP socket: File name too long (os error 36)',
    ],
  ])('%j has no socket', async (args, text) => {
    const { exit, stdout, stderr } = await remote(args);
    expect({ exit, stdout }).toEqual({ exit: 1, stdout: '' });
    expect(stderr).toMatch(/^\[[-\dT:]{19}Z ERROR ch_remote\] /);
    expect(stderr).toContain(`] ${text}\n`);
  });

  test.each([['-V'], ['--version'], ['--api-socket', '/nowhere', '-V']])(
    '%s prints one line, without node or a script',
    (...args) => {
      using server = new FakeServer([]);
      const alone = join(server.path, '../ch-remote');
      copyFileSync(REMOTE, alone);
      const { status, stdout, stderr } = spawnSync(alone, args, { encoding: 'utf8', env: {} });
      expect({ status, stdout, stderr }).toEqual({
        status: 0,
        stdout: 'ch-remote v49.0.0\n',
        stderr: '',
      });
    },
  );

  test('--help names every subcommand with what it takes', async () => {
    const { exit, stdout } = await remote(['--help']);
    expect({ exit, stdout }).toEqual({ exit: 0, stdout: remoteHelpText() });
    for (const { name } of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${name}( |$)`, 'm'));
    expect(stdout).toContain('cid=N,socket=TEXT');
    expect((await remote(['add-disk', '--help'])).stdout).toBe(stdout);
  });
});

const url = { destination_url: 'file:///x' };

describe('requests', () => {
  test.each<[string, string, object?]>([
    ['add-device path=/sys/x,id=d', 'vm.add-device', { path: '/sys/x', id: 'd' }],
    ['add-disk path=/a,readonly=on', 'vm.add-disk', { path: '/a', readonly: true }],
    ['add-fs tag=t,socket=/s', 'vm.add-fs', { tag: 't', socket: '/s' }],
    [
      'add-generic-vhost-user device_type=26,socket=/s,queue_sizes=[64]',
      'vm.add-generic-vhost-user',
      { device_type: 26, socket: '/s', queue_sizes: [64] },
    ],
    ['add-net tap=t0,mac=12:34:56:78:90:ab', 'vm.add-net', { tap: 't0', mac: '12:34:56:78:90:ab' }],
    ['add-pmem file=/p,size=4M', 'vm.add-pmem', { file: '/p', size: 4 << 20 }],
    ['add-user-device socket=/s', 'vm.add-user-device', { socket: '/s' }],
    ['add-vdpa path=/v', 'vm.add-vdpa', { path: '/v' }],
    ['add-vsock cid=3,socket=/s', 'vm.add-vsock', { cid: 3, socket: '/s' }],
    ...['boot', 'delete', 'nmi', 'pause', 'power-button', 'reboot', 'resume', 'shutdown'].map(
      (verb): [string, string] => [verb, `vm.${verb}`],
    ),
    ['shutdown-vmm', 'vmm.shutdown'],
    ['coredump file:///x', 'vm.coredump', url],
    ['snapshot file:///x', 'vm.snapshot', url],
    ['remove-device d', 'vm.remove-device', { id: 'd' }],
    [
      'resize --cpus 2 --memory 1G --balloon=3',
      'vm.resize',
      { desired_vcpus: 2, desired_ram: 2 ** 30, desired_balloon: 3 },
    ],
    ['resize', 'vm.resize', {}],
    ['resize-disk --disk d --size 2K', 'vm.resize-disk', { id: 'd', desired_size: 2048 }],
    ['resize-zone --id z --size 1M', 'vm.resize-zone', { id: 'z', desired_ram: 1 << 20 }],
    [
      'restore source_url=file:///x,memory_restore_mode=ondemand,resume=on',
      'vm.restore',
      { source_url: 'file:///x', memory_restore_mode: 'OnDemand', resume: true },
    ],
    ['receive-migration unix:/s', 'vm.receive-migration', { receiver_url: 'unix:/s' }],
    [
      'receive-migration receiver_url=tcp:h:1,memory_mode=postcopy',
      'vm.receive-migration',
      { receiver_url: 'tcp:h:1', memory_mode: 'Postcopy' },
    ],
    [
      'send-migration destination_url=tcp:h:1,local=on,downtime_ms=5,timeout_strategy=ignore',
      'vm.send-migration',
      { destination_url: 'tcp:h:1', local: true, downtime_ms: 5, timeout_strategy: 'Ignore' },
    ],
  ])('%s', async (line, endpoint, body) => {
    using server = new FakeServer([reply(204)]);

    const ended = await remote(['--api-socket', server.path, ...line.split(' ')]);

    expect(ended).toEqual({ exit: 0, stdout: '', stderr: '' });
    const [head, sent = ''] = server.received.split('\r\n\r\n');
    const length = body && `Content-Length: ${sent.length}`;
    const lines = ['Host: localhost', 'Accept: */*', ...(length ? [length] : [])];
    expect(head).toBe([`PUT /api/v1/${endpoint} HTTP/1.1`, ...lines].join('\r\n'));
    expect(sent === '' ? undefined : JSON.parse(sent)).toEqual(body);
  });

  test.each([
    ['ping', 'vmm.ping'],
    ['info', 'vm.info'],
    ['counters', 'vm.counters'],
  ])('%s', async (command, endpoint) => {
    using server = new FakeServer([reply(200, '{}')]);
    const { stdout } = await remote(['--api-socket', server.path, command]);
    expect(stdout).toBe('{}\n');
    expect(server.received).toMatch(`GET /api/v1/${endpoint} HTTP/1.1\r\n`);
  });

  test('what stands on standard input is sent as it is', async () => {
    const config = JSON.stringify({ text: 'ä'.repeat(100_000) });
    using server = new FakeServer([reply(204)]);
    const { exit } = await remote(['--api-socket', server.path, 'create'], config);
    expect(exit).toBe(0);
    const [, sent = ''] = server.received.split('\r\n\r\n');
    expect(Buffer.from(sent, 'latin1').toString()).toBe(config);
  });

  test.each([
    ['add-net fd=[3,4],num_queues=4', { num_queues: 4 }, 2],
    ['add-device fd=3,id=d', { id: 'd' }, 1],
    [
      'restore source_url=file:///x,net_fds=[a@[3],b@[4]]',
      {
        source_url: 'file:///x',
        net_fds: [
          { id: 'a', num_fds: 1 },
          { id: 'b', num_fds: 1 },
        ],
      },
      2,
    ],
  ])('%s hands the files over', async (line, body, count) => {
    using server = new FakeServer([reply(204)]);
    const files = ['/dev/null', '/dev/zero'].map((path) => openSync(path, 'r'));

    const args = ['--api-socket', server.path, ...line.split(' ')];
    const ended = await remote(args, '', files);

    expect(ended).toEqual({ exit: 0, stdout: '', stderr: '' });
    expect(JSON.parse(server.received.split('\r\n\r\n')[1] ?? '')).toEqual(body);
    const device = (fd: number) => fstatSync(fd).rdev;
    expect(server.fds.map(device)).toEqual(files.slice(0, count).map(device));
    for (const fd of [...files, ...server.fds]) closeSync(fd);
  });

  test('a file that is not open is named', async () => {
    using server = new FakeServer([reply(204)]);
    const ended = await remote(['--api-socket', server.path, 'add-net', 'fd=99']);
    expect(ended.exit).toBe(1);
    expect(chainOf(ended)).toEqual([
      'http client error',
      'Error sending file descriptors',
      'fd 99 is not open',
      'Bad file descriptor (os error 9)',
    ]);
    expect(server.received).toBe('');
  });
});

describe('replies', () => {
  const long = JSON.stringify({ name: 'ä€𝄞'.repeat(300) });
  const bytes = Buffer.from(reply(200, long));
  const cut = (size: number) =>
    Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
      bytes.subarray(i * size, (i + 1) * size),
    );

  test.each<[string, readonly (string | Buffer)[], string]>([
    ['in pieces of 256 bytes, through characters', cut(256), `${long}\n`],
    ['byte by byte', cut(1), `${long}\n`],
    [
      'with a reason, and a name in small letters',
      ['HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}'],
      '{}\n',
    ],
    ['after an interim one', ['HTTP/1.1 100 \r\n\r\n', reply(200, '{}')], '{}\n'],
    ['with an empty body', ['HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n'], '\n'],
    ['without a length', ['HTTP/1.1 200 \r\n\r\n'], ''],
  ])('%s', async (_, pieces, stdout) => {
    using server = new FakeServer(pieces);
    expect(await remote(['--api-socket', server.path, 'info'])).toEqual({
      exit: 0,
      stdout,
      stderr: '',
    });
  });

  const CLOSED = 'The server has closed the connection';
  const SOCKET = 'Error reading from or writing to HTTP socket';
  test.each([
    ['none', [], [SOCKET, CLOSED]],
    ['half of one', ['HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n{'], [SOCKET, CLOSED]],
    ['one that is not HTTP', ['SSH-2.0\r\n\r\n'], ['HTTP output is missing protocol statement']],
    ['no number', ['HTTP/1.1 OK\r\n\r\n'], ['Error parsing HTTP status code']],
    [
      'a length that is none',
      ['HTTP/1.1 200 \r\nContent-Length: x\r\n\r\n'],
      ['Error parsing HTTP Content-Length field'],
    ],
    [
      'no list of texts',
      [reply(500, '{"error":"x"}')],
      ['Server responded with InternalServerError', '{"error":"x"}'],
    ],
    ['no body', [reply(418)], ['Server responded with status 418']],
    ['a status of ours', [reply(409, '["a"]')], ['Server responded with Conflict', 'a']],
  ])('%s is a failure', async (_, pieces, texts) => {
    using server = new FakeServer(pieces);
    const ended = await remote(['--api-socket', server.path, 'info']);
    expect(ended).toMatchObject({ exit: 1, stdout: '' });
    expect(chainOf(ended)).toEqual(['http client error', ...texts]);
  });
});

describe('with a VMM', () => {
  let vmm: VmmProcess;
  const run = (...words: string[]) => remote(['--api-socket', vmm.socket, ...words]);

  beforeEach(async () => {
    vmm = await VmmProcess.start();
  });
  afterEach(() => vmm[Symbol.asyncDispose]());

  test('a VM is led through its life', async () => {
    const config = join(vmm.folder, 'vm.json');
    writeFileSync(config, JSON.stringify(guestConfig(vmm.folder)));
    const done = { exit: 0, stdout: '', stderr: '' };
    expect(JSON.parse((await run('ping')).stdout)).toMatchObject({ pid: vmm.pid });
    expect(chainOf(await run('info'))[1]).toBe('Server responded with NotFound');
    expect(await run('create', config)).toEqual(done);
    for (const verb of ['boot', 'pause', 'resume', 'nmi', 'power-button', 'reboot', 'resize'])
      expect(await run(verb), verb).toEqual(done);
    expect(JSON.parse((await run('info')).stdout)).toMatchObject({ state: 'Running' });
    expect((await run('counters')).stdout).toBe('{}\n');
    expect(chainOf(await run('boot')).slice(1)).toEqual([
      'Server responded with MethodNotAllowed',
      'Error from API',
      'The VM could not boot',
      'VM is already created',
    ]);
    for (const verb of ['shutdown', 'delete']) expect(await run(verb), verb).toEqual(done);
    expect(await run('shutdown-vmm')).toEqual({ ...done, stdout: '\n' });
    expect(await vmm.exitCode()).toBe(0);
  });

  test('what the VMM does not serve fails, and it goes on', async () => {
    for (const line of ['snapshot file:///x', 'coredump file:///x', 'receive-migration unix:/s']) {
      const ended = await run(...line.split(' '));
      expect(ended, line).toMatchObject({ exit: 1, stdout: '' });
      expect(chainOf(ended)[0]).toBe('http client error');
    }
    expect((await run('ping')).exit).toBe(0);
  });
});

test('nothing of node is loaded that it does not use', () => {
  using server = new FakeServer([]);
  const hook = join(server.path, '../hook.cjs');
  writeFileSync(
    hook,
    "process.on('exit', () => require('fs').writeSync(1, process.moduleLoadList.join('\\n')));",
  );
  const script = join(REMOTE, '../remote.cjs');
  const args = ['--require', hook, script, '--api-socket', '/nowhere', 'add-disk', 'path=/a'];
  const { stdout } = spawnSync(process.execPath, args, { encoding: 'utf8', env: {} });
  const loaded = stdout
    .split('\n')
    .filter((name) => /^NativeModule (net|http|dns|stream|crypto)$/.test(name));
  expect(stdout).toContain('NativeModule fs');
  expect(loaded).toEqual([]);
  expect(readFileSync(script, 'utf8')).not.toContain('fastify');
});
