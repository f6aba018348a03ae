import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { normalise } from '../../src/api/dialects.ts';
import { object } from '../../src/schema.ts';
import type { VmConfig } from '../../src/vmm/config.ts';
import { Consoles } from '../../src/vmm/consoles.ts';
import { DEVICES } from '../../src/vmm/devices.ts';
import { Vm } from '../../src/vmm/vm.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { until } from '../support/micro-guest.ts';
import { Echo } from '../unit/support/echo.ts';

test('a device is added by a file and a line of the list, and a guest boots with it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'device-'));
  const file = join(folder, 'serial');
  Object.assign(DEVICES, { echo: { schema: object({}), id: '__echo', create: () => new Echo() } });
  const { config } = normalise({
    ...{ payload: { kernel: bareGuest('echo') }, memory: { size: 64 << 20 } },
    ...{ serial: { mode: 'File', file }, console: { mode: 'Off' } },
  });
  const consoles = new Consoles(config);
  const heard: string[] = [];

  const vm = await Vm.boot({ ...config, echo: {} } as VmConfig, consoles, {
    onPowerOff: () => heard.push('power off'),
    onReset: () => heard.push('reset'),
    onError: ({ message }) => heard.push(message),
    onWarning: (message) => heard.push(message),
    onEvent: () => {},
  });
  await until(() => heard.length > 0);
  const { children } = vm.deviceTree['_virtio-pci-__echo'] ?? {};
  await vm.shutdown();
  consoles.close();

  expect(heard).toEqual(['power off']);
  expect(children).toEqual(['__echo']);
  expect(readFileSync(file, 'utf8')).toBe('said and heard, 15 bytes\n');
  rmSync(folder, { recursive: true });
});
