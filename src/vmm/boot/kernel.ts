/** Any kernel file that can be booted. */
import { parseBzImage } from './bzimage.ts';
import { isElf, parseElf } from './elf.ts';
import { ImageFile, type Kernel } from './image.ts';

/**
 * Opens a kernel and reads its headers: an ELF `vmlinux` with a PVH note, or a bzImage with a
 * 64-bit entry. The caller closes `kernel.file` when the kernel is in guest RAM.
 *
 * @throws VmmError 'invalid-config' that says what is wrong with the file.
 */
export function openKernel(path: string): Kernel {
  const file = new ImageFile('kernel', path);
  try {
    return isElf(file) ? parseElf(file) : parseBzImage(file);
  } catch (error) {
    file.close();
    if (error instanceof RangeError)
      throw file.refusal('is damaged: a structure in it points beyond its end', error);
    throw error;
  }
}
