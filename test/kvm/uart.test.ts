import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { MicroGuest } from '../support/micro-guest.ts';

test('a guest writes a byte to COM1', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'uart-'));
  const path = join(dir, 'serial');
  const fd = openSync(path, 'w');
  {
    await using guest = new MicroGuest();
    const uart = guest.vm.uart({ base: 0x3f8, gsi: 4, fd, onRoom: () => {} });
    // mov dx, 0x3f8; mov al, 'X'; out dx, al; hlt
    await guest.boot([0xba, 0xf8, 0x03, 0xb0, 0x58, 0xee, 0xf4]);

    guest.vm.run();

    await expect.poll(() => readFileSync(path, 'latin1')).toBe('X');
    await uart.flush(1000);
  }
  closeSync(fd);
  rmSync(dir, { recursive: true });
});
