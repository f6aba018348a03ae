/** Files and directories to and from a host: a `tar` here, a `tar` there. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { mustExec, shellQuote } from './exec.ts';
import type { KvmHost } from './host.ts';

type Host = Pick<KvmHost, 'spawn' | 'exec'>;

/** See KvmHost.put. It appears under its name only when it is whole. */
export async function putOn(host: Host, localPath: string, hostPath: string): Promise<void> {
  await stat(localPath); // a clearer error than tar's
  const source = resolve(localPath);
  const draft = `${hostPath}.draft`;
  await mustExec(host, `rm -rf ${shellQuote(draft)} && mkdir -p ${shellQuote(draft)}`);
  const unpacker = await host.spawn(['tar', '-C', draft, '-xf', '-']);
  unpacker.stdout.resume();
  unpacker.stderr.pipe(process.stderr, { end: false });
  // Node throws away what a program that has ended wrote, unless somebody reads it by then.
  const packer = spawn('tar', ['-C', dirname(source), '-cSf', '-', basename(source)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const packed = once(packer, 'close');
  await pipeline(packer.stdout, unpacker.stdin).catch(() => {}); // the exit codes tell
  const [packerCode] = await packed;
  const { code } = await unpacker.exited;
  if (packerCode !== 0 || code !== 0)
    throw new Error(
      `Cannot copy ${localPath} to ${hostPath}: tar ended with ${packerCode}, ${code}`,
    );
  const [from, to] = [`${draft}/${basename(source)}`, hostPath].map(shellQuote);
  await mustExec(host, `rm -rf ${to} && mv ${from} ${to} && rm -r ${shellQuote(draft)}`);
}

/** See KvmHost.get. */
export async function getFrom(host: Host, hostPath: string, localPath: string): Promise<void> {
  const draft = `${localPath}.draft`;
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { recursive: true });
  const packer = await host.spawn([
    'tar',
    '-C',
    dirname(hostPath),
    '-cSf',
    '-',
    basename(hostPath),
  ]);
  packer.stdin.end();
  packer.stderr.pipe(process.stderr, { end: false });
  const unpacker = spawn('tar', ['-C', draft, '-xf', '-'], {
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  const unpacked = once(unpacker, 'close');
  await pipeline(packer.stdout, unpacker.stdin).catch(() => {}); // the exit codes tell
  const { code } = await packer.exited;
  const [unpackerCode] = await unpacked;
  if (code !== 0 || unpackerCode !== 0)
    throw new Error(`Cannot copy ${hostPath} of the host: tar ended with ${code}, ${unpackerCode}`);
  await rm(localPath, { recursive: true, force: true });
  await rename(join(draft, basename(hostPath)), localPath);
  await rm(draft, { recursive: true });
}
