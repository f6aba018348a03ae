/** The clock, the watchdog and pvpanic as a guest sees them. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { normalise } from '../../src/api/dialects.ts';
import { Consoles } from '../../src/vmm/consoles.ts';
import { Vm } from '../../src/vmm/vm.ts';
import { bareGuest } from '../support/bare-guest.ts';
import { until } from '../support/micro-guest.ts';

const CLOCK = /^16 bytes, status 0, (\d+) s\n/;

afterEach(() => {
  vi.useRealTimers();
});

test('a guest reads the time, is heard when it panics, and is reset when it strokes no more', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  const folder = mkdtempSync(join(tmpdir(), 'small-devices-'));
  const file = join(folder, 'serial');
  const { config } = normalise({
    ...{ payload: { kernel: bareGuest('small-devices') }, memory: { size: 64 << 20 } },
    ...{ serial: { mode: 'File', file }, console: { mode: 'Off' } },
    ...{ watchdog: true, rtc: {}, pvpanic: true },
  });
  const consoles = new Consoles(config);
  const heard: unknown[] = [];
  const vm = await Vm.boot(config, consoles, {
    onPowerOff: () => heard.push('power off'),
    onReset: () => heard.push('reset'),
    onError: ({ message }) => heard.push(message),
    onWarning: () => {},
    onEvent: ({ source, ...event }) => source === 'guest' && heard.push(event),
  });
  await until(() => heard.length > 0);
  const told = [...heard];
  vi.advanceTimersByTime(20_000);
  const tree = vm.deviceTree;
  await vm.shutdown();
  consoles.close();
  const said = readFileSync(file, 'utf8');
  rmSync(folder, { recursive: true });

  expect(said.replace(CLOCK, '')).toBe('1 bytes of 1\nevents 3\n');
  expect(Math.abs(Number(CLOCK.exec(said)?.[1]) - Date.now() / 1000)).toBeLessThan(60);
  expect(told).toEqual([{ event: 'panic', properties: { event: 'panic' } }]);
  expect(heard.slice(1)).toEqual(['reset']);
  expect(tree['__pvpanic']).toEqual({
    id: '__pvpanic',
    resources: [
      {
        PciBar: { index: 0, base: 0xe7f8_0000, size: 2, type_: 'Mmio32', prefetchable: false },
      },
    ],
    children: [],
    pci_bdf: '0000:00:04.0',
  });
});
