import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { native } from '../../src/native.ts';
import * as code from '../support/machine-code.ts';
import { DONE, MicroGuest, until } from '../support/micro-guest.ts';

const PORT = 0xe9;
const TEXT_GPA = 0x3000;
const RESULT_GPA = 0x4000;

test('what is written to the port is printed, many bytes by one instruction too; a read says 0xe9', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'debug-port-'));
  const path = join(folder, 'printed');
  const fd = openSync(path, 'w');
  const output = new native.BytePort({ fd, name: 'debug' });
  {
    await using guest = new MicroGuest();
    guest.vm.debugPort(PORT, output);
    guest.memory.write(TEXT_GPA, Buffer.from('printed'));

    await guest.start([
      ...code.repOutsb(PORT, TEXT_GPA, 7),
      ...code.input(PORT),
      ...code.store(RESULT_GPA),
      ...DONE,
      ...code.HLT,
    ]);
    await until(() => guest.doneCount === 1);
    await output.flush(5000);

    expect(guest.peek(RESULT_GPA)).toBe(0xe9);
    expect(() => guest.vm.debugPort(PORT, output)).toThrow('EEXIST');
  }
  await output.close();
  closeSync(fd);
  expect(readFileSync(path, 'utf8')).toBe('printed');
  rmSync(folder, { recursive: true });
});
