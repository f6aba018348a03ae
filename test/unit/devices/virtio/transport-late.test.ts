/** What a guest writes to a function, and what takes its time. */
import { expect, test } from 'vitest';
import { Driver, MSIX_TABLE } from '../../support/driver.ts';
import { Echo } from '../../support/echo.ts';

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('a write of the vector table is done when the kernel has answered, whichever way it comes', async () => {
  const { vm, pci } = new Driver(new Echo({}));
  const ENABLED = 0x8000;
  void pci.space.write(0x9a, 2, ENABLED);
  const [msi] = vm.msis;
  if (msi) msi.mask = () => Promise.resolve();

  const unmasked = pci.write(MSIX_TABLE + 12, 4, 0);
  expect(unmasked).toBeInstanceOf(Promise);
  await unmasked;
  await turn();

  for (const [field, value] of [
    [0x8c, MSIX_TABLE + 12],
    [0x90, 4],
  ] as const)
    void pci.space.write(field, 4, value);
  expect(pci.space.write(0x94, 4, 1)).toBeInstanceOf(Promise);
});
