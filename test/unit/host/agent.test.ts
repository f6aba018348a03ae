/** The agent and its client, and this machine as a host: both do the same, without any KVM. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ping } from '../../host/agent-client.ts';
import { EmulatedHost } from '../../host/emulated-host.ts';
import { freePort } from '../../host/free-port.ts';
import type { KvmHost } from '../../host/host.ts';
import { LocalHost } from '../../host/local-host.ts';

const AGENT = join(import.meta.dirname, '../../host/agent.mjs');

let directory: string;
let agent: { process: ChildProcess; host: KvmHost };
const local = new LocalHost();

async function startAgent() {
  const port = await freePort();
  const process = spawn('node', [AGENT, `${port}`, 'some-id'], { stdio: 'pipe' });
  await once(process.stdout, 'data');
  expect(await ping(port, 5000)).toBe('some-id');
  return { process, host: new EmulatedHost({ port, id: 'some-id', close: async () => {} }) };
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'agent-test-'));
  agent = await startAgent();
});

afterAll(async () => {
  agent.process.kill();
  await local.close();
  await rm(directory, { recursive: true });
});

describe.each([
  ['through the agent', () => agent.host],
  ['on this machine', () => local],
])('%s', (_name, host) => {
  test('a command gets its input and gives its output and exit code', async () => {
    const result = await host().exec('cat; echo oops >&2; exit 3', { input: 'hello' });

    expect(result).toEqual({ code: 3, signal: null, stdout: 'hello', stderr: 'oops\n' });
  });

  test('a lot of output comes whole', async () => {
    const { stdout } = await host().exec('head -c 5000000 /dev/zero | tr "\\0" x');

    expect(stdout).toBe('x'.repeat(5_000_000));
  });

  test('environment and working directory are those asked for', async () => {
    const { stdout } = await host().exec('echo $COLOUR; pwd', {
      cwd: '/usr',
      env: { COLOUR: 'red' },
    });

    expect(stdout).toBe('red\n/usr\n');
  });

  test('a command that takes too long is killed with all its children', async () => {
    const slow = host().exec('sleep 98765 & echo started; wait', { timeoutMs: 500 });

    await expect(slow).rejects.toThrow(/more than 500 ms.*started/s);
    await expect.poll(() => isRunning('sleep 98765')).toBe(false);
  });

  test('a signal ends a program, and its exit tells which', async () => {
    const child = await host().spawn(['sleep', '98764']);
    expect(await isRunning('sleep 98764')).toBe(true);

    child.kill('SIGINT');

    expect(await child.exited).toEqual({ code: 130, signal: 'SIGINT' });
  });

  test('a program that there is not is refused', async () => {
    await expect(host().spawn(['/no/such/program'])).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('a Unix socket is reached, and each end may be closed first', async () => {
    const path = join(directory, `${host().id}.sock`);
    const server = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
    await once(server.listen(path), 'listening');

    const socket = await host().connect(path);
    socket.end('hello');
    const chunks = await socket.toArray();

    expect(Buffer.concat(chunks).toString()).toBe('hello');
    server.close();
  });

  test('a Unix socket that there is not is refused', async () => {
    const path = join(directory, 'none.sock');

    await expect(host().connect(path)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('files and directories are copied there and back', async () => {
    const at = (name: string) => join(directory, `${host().id}-${name}`);
    await host().exec(`mkdir -p ${at('in')}/sub && truncate -s 50M ${at('in')}/sub/sparse`);
    await writeFile(at('file'), 'content');

    await host().put(at('in'), at('there/dir'));
    await host().put(at('file'), at('there/dir/copy'));
    await host().get(at('there/dir'), at('out'));

    expect(await readFile(join(at('out'), 'copy'), 'utf8')).toBe('content');
    const { size, blocks } = await stat(join(at('out'), 'sub/sparse'));
    expect({ size, blocks }).toEqual({ size: 50 * 1024 * 1024, blocks: 0 });
  });
});

test('the end of the agent is told as the loss of the host, and ends what ran there', async () => {
  const doomed = await startAgent();
  const child = await doomed.host.spawn(['cat']);

  doomed.process.kill('SIGKILL');

  await expect(child.exited).rejects.toThrow('The emulated host is lost');
  await expect(doomed.host.exec('true')).rejects.toThrow('The emulated host is lost');
});

async function isRunning(command: string): Promise<boolean> {
  await sleep(50);
  const { code } = await local.exec(`pgrep -fx '${command}'`);
  return code === 0;
}
