/** Disk images for one test, on the host where its guest runs. */
import { randomBytes } from 'node:crypto';
import { mustExec } from '../../host/exec.ts';
import type { KvmHost } from '../../host/host.ts';
import { cleanUp, currentHost } from './current-host.ts';

export class ScratchDisk implements AsyncDisposable {
  readonly host: KvmHost;
  /** On the host. */
  readonly path: string;

  private constructor(host: KvmHost, path: string) {
    this.host = host;
    this.path = path;
  }

  /** @param contents all zeros, all random, or a file system with nothing in it. */
  static async make(
    sizeMib: number,
    contents: 'zeros' | 'random' | 'ext4' = 'zeros',
  ): Promise<ScratchDisk> {
    const host = await currentHost();
    const path = `/tmp/disk-${randomBytes(4).toString('hex')}.img`;
    await mustExec(
      host,
      {
        zeros: `truncate -s ${sizeMib}M ${path}`,
        random: `head -c ${sizeMib}M /dev/urandom >${path}`,
        ext4: `mke2fs -q -t ext4 -b 4096 ${path} ${sizeMib}M`,
      }[contents],
    );
    return new ScratchDisk(host, path);
  }

  /**
   * Lets the journal be replayed, as the next mount would, then looks at everything.
   * @throws Error if anything is wrong with the file system.
   */
  async fsck(): Promise<void> {
    await mustExec(this.host, `e2fsck -E journal_only -y ${this.path} && e2fsck -fn ${this.path}`);
  }

  /** The checksum of a file of the file system. */
  async sha256(file: string): Promise<string> {
    return sum(await mustExec(this.host, `debugfs -R 'cat ${file}' ${this.path} | sha256sum`));
  }

  /** The checksum of all of it. */
  async imageSha256(): Promise<string> {
    return sum(await mustExec(this.host, `sha256sum <${this.path}`));
  }

  /** What the file takes of the host's disk. */
  async usedKib(): Promise<number> {
    return Number((await mustExec(this.host, `du -k ${this.path}`)).split('\t')[0]);
  }

  /** The first bytes, as hexadecimal digits. */
  async start(lengthBytes: number): Promise<string> {
    const dump = await mustExec(this.host, `od -An -v -tx1 -N${lengthBytes} ${this.path}`);
    return dump.replaceAll(/\s/g, '');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(this.host, `rm -f ${this.path}`);
  }
}

const sum = (output: string): string => output.split(' ')[0] ?? '';
