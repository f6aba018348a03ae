/** Kernel modules: which ones a test guest gets, and the order in which they can be loaded. */
import { readdir, readFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';

/** Every driver of a device that the product offers, as Debian's cloud kernel names them. */
export const GUEST_MODULES = [
  'virtio_pci',
  'virtio_console',
  'virtio_blk',
  'virtio_net',
  'virtio_rng',
  'virtio_balloon',
  'virtio_mem',
  'virtio_pmem',
  'nd_pmem',
  'virtiofs',
  'vmw_vsock_virtio_transport',
  'pvpanic_pci',
  'button', // ACPI's power button,
  'evdev', // and how user space hears of it
];

/** Of a kernel that has it. */
export const IOMMU_MODULE = 'virtio_iommu';

/** What the emulated host needs before it has a root file system, its NIC included. */
export const HOST_BOOT_MODULES = ['virtio_pci', 'virtio_blk', 'virtio_net'];

export interface Module {
  /** With underscores, as the kernel lists it, whatever the file's name has. */
  name: string;
  /** Relative to the module tree, as in `kernel/drivers/net/tun.ko`. */
  path: string;
  /** Names of the modules that must be loaded before it. */
  depends: string[];
}

/** All modules below `tree` (a `lib/modules/VERSION`), with what each one says that it needs. */
export async function readModules(tree: string): Promise<Map<string, Module>> {
  const files = await readdir(tree, { recursive: true, withFileTypes: true });
  const modules = files
    .filter((file) => file.name.endsWith('.ko'))
    .map(async (file): Promise<[string, Module]> => {
      const path = join(file.parentPath, file.name);
      const name = moduleName(path);
      const depends = parseDepends(await readFile(path));
      return [name, { name, path: relative(tree, path), depends }];
    });
  return new Map(await Promise.all(modules));
}

/** Those of `names` that the kernel itself does not hold, by its `modules.builtin`. */
export function notBuiltIn(list: string, names: readonly string[]): string[] {
  const builtIn = list.split('\n').map((path) => moduleName(path));
  return names.filter((name) => !builtIn.includes(name));
}

/** The kernel takes `-` and `_` for the same; `lsmod` and this project write `_`. */
function moduleName(path: string): string {
  return basename(path, '.ko').replaceAll('-', '_');
}

/** Finds `depends=a,b` in the `.modinfo` section, whose entries are NUL-terminated strings. */
export function parseDepends(image: Buffer): string[] {
  const key = '\0depends=';
  const at = image.indexOf(key);
  if (at < 0) return []; // the first entry of its section: no module of Debian's has that
  const start = at + key.length;
  const value = image.toString('latin1', start, image.indexOf(0, start));
  return value === '' ? [] : value.split(',').map(moduleName);
}

/**
 * `names` and all that they depend on, each after what it needs.
 *
 * @throws Error if there is no such module: with another kernel it may be built in.
 */
export function inLoadOrder(modules: Map<string, Module>, names: readonly string[]): Module[] {
  const ordered = new Set<Module>();
  const add = (name: string, wantedBy: string) => {
    const found = modules.get(name);
    if (!found) throw new Error(`The kernel has no module ${name}, wanted by ${wantedBy}`);
    if (ordered.has(found)) return;
    for (const needed of found.depends) add(needed, name);
    ordered.add(found);
  };
  for (const name of names) add(name, 'the list in guest-images/modules.ts');
  return [...ordered];
}

/**
 * The text of `modules.dep` for `ordered`, for busybox's modprobe: each module with all that it
 * needs, directly or not, the one to load first at the end, as depmod has it.
 */
export function modulesDep(ordered: Module[]): string {
  const modules = new Map(ordered.map((one) => [one.name, one]));
  return ordered
    .map((one) => {
      const needed = inLoadOrder(modules, one.depends).reverse();
      return `${[`${one.path}:`, ...needed.map((other) => other.path)].join(' ')}\n`;
    })
    .join('');
}
