import { expect, test } from 'vitest';
import {
  inLoadOrder,
  type Module,
  modulesDep,
  notBuiltIn,
  parseDepends,
} from '../../../guest-images/modules.ts';

const module = (name: string, ...depends: string[]): [string, Module] => [
  name,
  { name, path: `${name}.ko`, depends },
];
const MODULES = new Map([
  module('net', 'failover', 'ring'),
  module('failover', 'ring'),
  module('ring'),
]);

test('what a module needs is read from its modinfo section', () => {
  const image = (text: string) => Buffer.from(`ELF\0license=GPL\0${text}\0name=x\0`);

  expect(parseDepends(image('depends=virtio,virtio-ring'))).toEqual(['virtio', 'virtio_ring']);
  expect(parseDepends(image('depends='))).toEqual([]);
  expect(parseDepends(image('alias=x'))).toEqual([]);
});

test('modules are ordered so that each comes once, after what it needs', () => {
  const names = inLoadOrder(MODULES, ['net', 'ring']).map((one) => one.name);

  expect(names).toEqual(['ring', 'failover', 'net']);
});

test('a module that the kernel does not have is named, with who wants it', () => {
  const broken = new Map([module('net', 'gone')]);

  expect(() => inLoadOrder(broken, ['net'])).toThrow('no module gone, wanted by net');
});

test('modules.dep lists all that a module needs, the first to load last', () => {
  expect(modulesDep(inLoadOrder(MODULES, ['net']))).toBe(
    'ring.ko:\nfailover.ko: ring.ko\nnet.ko: failover.ko ring.ko\n',
  );
});

test('what the kernel itself holds is no module to load, however its name is written', () => {
  const list = 'kernel/drivers/virtio/virtio_pci.ko\nkernel/a/hw-random.ko\n';
  const names = ['virtio_pci', 'virtio_blk', 'hw_random'];
  expect(notBuiltIn(list, names)).toEqual(['virtio_blk']);
});
