/** A file for a while. */
import { closeSync, constants, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';

let made = 0;

/**
 * A file of zeroes in `directory` that has no name any more: it goes when it is closed.
 * @returns its descriptor. @throws what the file system says.
 */
export function makeUnnamedFile(directory: string, sizeBytes: number): number {
  const path = join(directory, `cloud-hypervisor-${process.pid}-${Date.now()}-${made++}`);
  const { O_CREAT, O_EXCL, O_RDWR } = constants;
  const fd = openSync(path, O_RDWR | O_CREAT | O_EXCL, 0o600);
  try {
    unlinkSync(path);
    ftruncateSync(fd, sizeBytes);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
