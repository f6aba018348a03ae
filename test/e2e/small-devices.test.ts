import { expect, test } from 'vitest';
import { mustExec } from '../host/exec.ts';
import { Guest } from './support/guest.ts';

const PLATFORM = [
  'system_manufacturer=Maker,system_product_name=Box,system_version=7',
  'system_serial_number=S-1,system_uuid=00112233-4455-6677-8899-aabbccddeeff',
  'system_sku_number=K,system_family=F,chassis_asset_tag=A-9,oem_strings=[first,second]',
].join();

const DMI = {
  ...{ sys_vendor: 'Maker', product_name: 'Box', product_version: '7', product_serial: 'S-1' },
  ...{ product_uuid: '00112233-4455-6677-8899-aabbccddeeff', product_sku: 'K' },
  ...{ product_family: 'F', chassis_vendor: 'Maker', chassis_asset_tag: 'A-9' },
  bios_vendor: 'cloud-hypervisor',
};

const CRASH_TIMEOUT_MS = 60_000;

test('a kernel knows the machine by its names, and is heard when it panics', async () => {
  await using guest = await Guest.boot({
    args: [
      '--platform',
      PLATFORM,
      '--pvpanic',
      '--watchdog',
      '--rtc',
      '--event-monitor',
      'path=events',
    ],
  });
  const names = Object.keys(DMI);

  const read = await guest.run(`cd /sys/class/dmi/id && cat ${names.join(' ')}`);
  expect(read.trim().split(/\r?\n/)).toEqual(Object.values(DMI));
  const oem = await guest.run('strings /sys/firmware/dmi/entries/11-0/raw | tail -n 2');
  expect(oem.trim().split(/\r?\n/)).toEqual(['first', 'second']);

  guest.console.type('echo c >/proc/sysrq-trigger\n');

  await guest.waitFor(/Kernel panic/, CRASH_TIMEOUT_MS);
  const events = `${guest.directory}/events`;
  const wait = `timeout 60 sh -c 'until grep -A3 panic ${events}; do sleep 0.1; done'`;
  expect(await mustExec(guest.host, wait)).toMatch(/"event": "panic"/);
});
