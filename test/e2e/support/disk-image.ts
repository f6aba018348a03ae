/** Disk images in the formats that qemu-img writes and reads, where their guest runs. */
import { randomBytes } from 'node:crypto';
import { mustExec } from '../../host/exec.ts';
import type { KvmHost } from '../../host/host.ts';
import { cleanUp, currentHost } from './current-host.ts';
import type { Disk } from './vmm.ts';

/** qemu-img's name of a format and its options, and how the product is told. */
interface Variant {
  format: NonNullable<Disk['format']>;
  driver: string;
  options: string;
  /** The image is an empty layer over one with the contents, whose clusters are compressed so. */
  baseCompression?: 'zlib' | 'zstd';
}

const qcow2 = (options: string): Variant => ({ format: 'qcow2', driver: 'qcow2', options });
const vhd = (subformat: string): Variant => ({
  format: 'vhd',
  driver: 'vpc',
  options: `subformat=${subformat},force_size=on`, // not rounded up to whole cylinders
});
const vhdx = (options: string): Variant => ({
  format: 'vhdx',
  driver: 'vhdx',
  options,
});

export const VARIANTS = {
  'qcow2 of version 2': qcow2('compat=0.10'),
  'qcow2 of version 3': qcow2('compat=1.1'),
  'qcow2 of clusters of 4 KiB': qcow2('cluster_size=4096'),
  'qcow2 over one of zlib': { ...qcow2('compat=1.1'), baseCompression: 'zlib' },
  'qcow2 over one of zstd': { ...qcow2('compat=1.1'), baseCompression: 'zstd' },
  'fixed VHD': vhd('fixed'),
  'dynamic VHD': vhd('dynamic'),
  'fixed VHDX': vhdx('subformat=fixed'),
  'dynamic VHDX': vhdx('subformat=dynamic,block_size=1M'),
} as const satisfies Record<string, Variant>;

export type VariantName = keyof typeof VARIANTS;

export class DiskImage implements AsyncDisposable {
  readonly host: KvmHost;
  readonly disk: Disk;
  readonly #variant: Variant;
  readonly #directory: string;

  private constructor(host: KvmHost, variant: Variant, directory: string) {
    const path = `${directory}/image`;
    const settings = variant.baseCompression && 'backing_files=on';
    this.host = host;
    this.disk = { path, format: variant.format, ...(settings && { settings }) };
    this.#variant = variant;
    this.#directory = directory;
  }

  /** @param contents a size as in `64M` for one with nothing in it, or the path of a raw image. */
  static async make(name: VariantName, contents: string): Promise<DiskImage> {
    const host = await currentHost();
    const variant: Variant = VARIANTS[name];
    const directory = `/tmp/image-${randomBytes(4).toString('hex')}`;
    const image = new DiskImage(host, variant, directory);
    await mustExec(host, `mkdir ${directory}`);
    await image.#fill(contents);
    return image;
  }

  async #fill(contents: string): Promise<void> {
    const { driver, options, baseCompression } = this.#variant;
    const create = `qemu-img create -q -f ${driver} -o ${options}`;
    const convert = 'qemu-img convert -f raw';
    const { path } = this.disk;
    const base = `${this.#directory}/base`;
    if (baseCompression)
      await mustExec(
        this.host,
        `${convert} -c -O qcow2 -o compression_type=${baseCompression} ${contents} ${base} && ` +
          `${create} -b ${base} -F qcow2 ${path}`,
      );
    else if (contents.startsWith('/'))
      await mustExec(this.host, `${convert} -O ${driver} -o ${options} ${contents} ${path}`);
    else await mustExec(this.host, `${create} ${path} ${contents}`);
  }

  /** Turns it into a raw image, as qemu-img reads it. @returns the path. */
  async convert(): Promise<string> {
    const raw = `${this.#directory}/raw`;
    const { driver } = this.#variant;
    await mustExec(this.host, `qemu-img convert -f ${driver} -O raw ${this.disk.path} ${raw}`);
    return raw;
  }

  /** @throws Error if qemu-img finds anything worse than `allowed`. */
  async check(allowed: 'nothing' | 'leaks' = 'nothing'): Promise<void> {
    const { driver } = this.#variant;
    if (driver === 'vpc') return; // qemu-img knows of no check
    const { code, stdout, stderr } = await this.host.exec(
      `qemu-img check -f ${driver} ${this.disk.path}`,
    );
    const LEAKS = 3;
    if (code !== 0 && !(allowed === 'leaks' && code === LEAKS))
      throw new Error(`qemu-img check: ${code}\n${stdout}${stderr}`);
  }

  /** What the file takes of the host's disk. */
  async usedKib(): Promise<number> {
    return Number((await mustExec(this.host, `du -k ${this.disk.path}`)).split('\t')[0]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(this.host, `rm -rf ${this.#directory}`);
  }
}
