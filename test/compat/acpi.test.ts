/**
 * The firmware tables as ACPICA sees them, the code that Linux itself runs: iasl must read each
 * table as we meant it and make a table of it again without complaint; acpiexec runs the methods.
 */
import { describe, expect, test } from 'vitest';
import { MIB, Reader } from '../../src/bytes.ts';
import * as aml from '../../src/devices/acpi/aml.ts';
import { CPU_SCAN, CpuHotplug } from '../../src/devices/acpi/cpu-hotplug.ts';
import { Ged } from '../../src/devices/acpi/ged.ts';
import { MEMORY_SCAN, MemoryHotplug } from '../../src/devices/acpi/memory-hotplug.ts';
import { Shutdown } from '../../src/devices/acpi/shutdown.ts';
import { Cmos } from '../../src/devices/legacy/cmos.ts';
import { Serial } from '../../src/devices/legacy/serial.ts';
import { DEVICE_SLOTS, motherboard, PciBus } from '../../src/devices/pci/bus.ts';
import { PCI_SCAN, PciHotplug } from '../../src/devices/pci/hotplug.ts';
import { dsdtTerms } from '../../src/vmm/acpi/dsdt.ts';
import { buildAcpi, madtEntry } from '../../src/vmm/acpi/tables.ts';
import { deviceArea, GSI, lineGsi, MEMORY, PORTS, segmentEcam } from '../../src/vmm/layout.ts';
import { interpret, RSDP_BYTES, recompile, tablesOf } from './support/acpica.ts';

const noop = (): void => {};
const PORTS_OF_PCI = { base: PORTS.pci.base, address: () => 0 };

/** The tables of a machine with 512 MiB, one of two possible vCPUs and 40 address bits. */
function machine(boot = 1, max = 2, segments = 1) {
  const area = deviceArea(40, 512 * MIB);
  const buses = Array.from(
    { length: segments },
    (_, segment) =>
      new PciBus({
        ...{ segment, ports: segment === 0 ? PORTS_OF_PCI : undefined },
        ...{ ecam: segmentEcam(segment), node: segment > 0 ? segment : undefined },
        ...{ window32: MEMORY.pci32, window64: area.pci64, lineGsi },
      }),
  );
  const processors = Array.from({ length: max }, (_, apicId) => ({
    apicId,
    present: apicId < boot,
  }));
  const terms = dsdtTerms([
    ...buses,
    motherboard(buses.map((_, segment) => segmentEcam(segment))),
    new PciHotplug({
      ...{ gpa: area.pciHotplug.gpa, slots: DEVICE_SLOTS },
      bridges: buses.map(({ path }) => path),
      ...{ notify: noop, onEject: noop },
    }),
    new Serial({ port: PORTS.serial.base, gsi: GSI.serial }),
    new Cmos({
      port: PORTS.cmos.base,
      ramBelow4GibBytes: 512 * MIB,
      ramAbove4GibBytes: 0,
      nowMs: () => 0,
      onReset: noop,
    }),
    new Shutdown({ port: PORTS.shutdown.base, onReset: noop, onPowerOff: noop }),
    new MemoryHotplug({ gpa: area.memoryHotplug.gpa }),
    new Ged({
      gpa: area.ged.gpa,
      gsi: GSI.ged,
      irq: { set: noop },
      scans: { cpus: CPU_SCAN, memory: MEMORY_SCAN, pci: PCI_SCAN },
    }),
    new CpuHotplug({
      gpa: area.cpuHotplug.gpa,
      madtEntries: processors.map(madtEntry),
      presentCount: boot,
      onEject: noop,
    }),
  ]);
  return buildAcpi(terms, { processors, segments });
}

function table(signature: string, boot?: number, max?: number, segments?: number) {
  const found = tablesOf(machine(boot, max, segments)).get(signature);
  if (!found) throw new Error(`No table ${signature}`);
  return { ...found, read: new Reader(found.bytes) };
}

const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

describe('every table is recompiled by iasl without error or warning', () => {
  test.each(['DSDT', 'FACP', 'APIC', 'MCFG', 'XSDT'])('%s', async (signature) => {
    const { verdict } = await recompile(signature, table(signature).bytes);
    expect(verdict).toContain(' 0 Errors, 0 Warnings');
  });

  test('the DSDT of 254 vCPUs and 96 segments', async () => {
    const { verdict } = await recompile('large', table('DSDT', 254, 254, 96).bytes);
    expect(verdict).toContain(' 0 Errors, 0 Warnings');
  });
});

describe('tables', () => {
  test('lie packed from the RSDP up in the order of the original, the XSDT last', () => {
    const { gpa, bytes } = machine();
    const tables = tablesOf({ gpa, bytes });
    const rsdp = new Reader(bytes);

    expect(gpa).toBe(0xa0000);
    expect([...tables.keys()]).toEqual(['DSDT', 'FACP', 'APIC', 'MCFG', 'XSDT']);
    expect(tables.get('DSDT')?.gpa).toBe(0xa0024);
    expect(rsdp.u64(24)).toBe(tables.get('XSDT')?.gpa);
    expect(rsdp.u8(15)).toBe(2);
    expect(sum(bytes.subarray(0, 20))).toBe(0);
    expect(sum(bytes.subarray(0, RSDP_BYTES))).toBe(0);
    const xsdt = new Reader(tables.get('XSDT')?.bytes ?? new Uint8Array());
    expect([36, 44, 52].map((at) => xsdt.u64(at))).toEqual(
      ['FACP', 'APIC', 'MCFG'].map((signature) => tables.get(signature)?.gpa),
    );
  });

  test.each([
    ['DSDT', 6, 'CHDSDT  ', undefined],
    ['FACP', 6, 'CHFACP  ', 276],
    ['APIC', 5, 'CHMADT  ', 98],
    ['MCFG', 1, 'CHMCFG  ', 60],
    ['XSDT', 1, 'CHXSDT  ', 60],
  ] as const)('%s has the header and the size of the original', (signature, revision, id, size) => {
    const { bytes, read } = table(signature);
    const text = (at: number, length: number) =>
      Buffer.from(read.bytes(at, length)).toString('latin1');

    expect(sum(bytes)).toBe(0);
    expect(read.u8(8)).toBe(revision);
    expect([text(10, 6), text(16, 8), text(28, 4)]).toEqual(['CLOUDH', id, 'RVAT']);
    expect([read.u32(24), read.u32(32)]).toEqual([1, 0x0100_0000]);
    expect(bytes.length).toBe(size ?? bytes.length);
  });

  test('the FADT is hardware-reduced, with reset, sleep and timer in I/O space', () => {
    const { read, bytes } = table('FACP');
    const register = (at: number) =>
      [0, 1, 2, 3].map((i) => read.u8(at + i)).concat(read.u32(at + 4));

    expect(read.u32(112)).toBe(0x10_0500);
    expect(read.u8(131)).toBe(3);
    expect(read.u64(140)).toBe(0xa0024);
    for (const at of [116, 244, 256]) expect(register(at)).toEqual([1, 8, 0, 1, 0x600]);
    expect(register(208)).toEqual([1, 32, 0, 3, 0x608]);
    expect(Buffer.from(bytes.subarray(268)).toString()).toBe('CLOUDHYP');
  });

  test('the device at the reset register does what the FADT and \\_S5 say', () => {
    const done: string[] = [];
    const shutdown = new Shutdown({
      port: 0x600,
      onReset: () => done.push('reset'),
      onPowerOff: () => done.push('off'),
    });

    shutdown.write(0, 1, table('FACP').read.u8(128));
    shutdown.write(0, 1, (5 << 2) | 0x20);

    expect(done).toEqual(['reset', 'off']);
  });

  test('the MADT lists every possible vCPU, absent ones as online-capable only', () => {
    const { read } = table('APIC');

    expect([read.u32(36), read.u32(40)]).toEqual([0xfee0_0000, 0]);
    const x2apic = (at: number) => [
      read.u8(at),
      read.u8(at + 1),
      ...[4, 8, 12].map((o) => read.u32(at + o)),
    ];
    expect(x2apic(44)).toEqual([9, 16, 0, 3, 0]);
    expect(x2apic(60)).toEqual([9, 16, 1, 2, 1]);
    expect([read.u8(76), read.u8(78), read.u32(80), read.u32(84)]).toEqual([1, 0, 0xfec0_0000, 0]);
    expect([read.u8(88), read.u8(91), read.u32(92), read.u16(96)]).toEqual([2, 4, 4, 0]);
  });

  test('the MCFG gives bus 0 of segment 0', () => {
    const { read } = table('MCFG');
    expect([read.u64(44), read.u16(52), read.u8(54), read.u8(55)]).toEqual([0xe800_0000, 0, 0, 0]);
  });
});

describe('segments', () => {
  test('the MCFG gives bus 0 of each', () => {
    const { read, bytes } = table('MCFG', 1, 1, 3);

    const entry = (at: number) => [read.u64(at), read.u16(at + 8), read.u16(at + 10)];
    expect([44, 60, 76].map(entry)).toEqual([
      [0xe800_0000, 0, 0],
      [0xe810_0000, 1, 0],
      [0xe820_0000, 2, 0],
    ]);
    expect(bytes.length).toBe(92);
  });

  test('each has a bridge with its node and ECAM; the first alone has ports', async () => {
    const { source } = await recompile('segments', table('DSDT', 1, 1, 27).bytes);
    const flat = source.replace(/\/\/.*|\/\*.*?\*\//g, '').replace(/\s+/g, '');

    expect(flat).toContain('Device(PC1A){');
    const last = flat.slice(flat.indexOf('Device(PC1A){'));
    const bridge = last.slice(0, last.indexOf('Method(_OSC'));
    expect(bridge).toContain('Name(_UID,0x1A)Name(_SEG,0x1A)Name(_PXM,0x1A)');
    expect(bridge).toContain('Memory32Fixed(ReadWrite,0xE9A00000,0x00100000,)');
    expect(bridge).not.toContain('IO(');
    const board = flat.slice(flat.indexOf('Device(MBRD){'));
    expect(board.slice(0, board.indexOf('})')).match(/Memory32Fixed/g)).toHaveLength(27);
  });

  test('a scan looks at every segment, and a slot is let go of in its own', async () => {
    const { bytes } = table('DSDT', 1, 1, 2);

    const scan = await interpret(`evaluate ${PCI_SCAN}`, bytes, 0xff);
    expect(scan.match(/Notify/gi)?.length ?? 0).toBeGreaterThanOrEqual(4 * 31);
    const { source } = await recompile('eject', bytes);
    expect(source.match(/ PEJ0 \(_SUN\)/g)).toHaveLength(2 * 31);
    expect(source.match(/PCEJ \(Arg0, _SEG\)/g)).toHaveLength(2);
  });
});

describe('the DSDT', () => {
  test('describes the host bridge, COM1 and the event device', async () => {
    const { source } = await recompile('facts', table('DSDT').bytes);
    const flat = source.replace(/\/\/.*|\/\*.*?\*\//g, '').replace(/\s+/g, '');

    for (const fact of [
      'Device(PC00){Name(_HID,EisaId("PNP0A08"))Name(_CID,EisaId("PNP0A03"))',
      'WordBusNumber(ResourceProducer,MinFixed,MaxFixed,PosDecode,0x0000,0x0000,0x0000,0x0000,0x0001',
      'EntireRange,0x0000,0x0000,0x0CF7,0x0000,0x0CF8',
      'EntireRange,0x0000,0x0D00,0xFFFF,0x0000,0xF300',
      'ReadWrite,0x00000000,0xC0000000,0xE7FFFFFF,0x00000000,0x28000000',
      '0x0000000100000000,0x000000FFFFEEFFFF,0x0000000000000000,0x000000FEFFEF0000',
      'Device(MBRD){Name(_HID,EisaId("PNP0C02"))',
      'Memory32Fixed(ReadWrite,0xE8000000,0x00100000,)',
      'Name(_DDN,"COM1")Name(_CRS,ResourceTemplate(){Interrupt(ResourceConsumer,Edge,ActiveHigh,' +
        'Exclusive,,,){0x00000004,}IO(Decode16,0x03F8,0x03F8,0x01,0x08,)})',
      'Name(_HID,EisaId("PNP0B00"))Name(_CRS,ResourceTemplate(){IO(Decode16,0x0070,0x0070,0x01,0x02,)})',
      'Interrupt(ResourceConsumer,Level,ActiveHigh,Exclusive,,,){0x0000000D,}',
      'OperationRegion(GDST,SystemMemory,0x000000FFFFEF0000,One)',
      'Name(\\_S5,Package(0x04){0x05,0x05,Zero,Zero})',
      'OperationRegion(PRST,SystemMemory,0x000000FFFFEF0010,0x0C)',
      'Device(C000){Name(_HID,"ACPI0007")Name(_UID,Zero)',
      'Device(C001){Name(_HID,"ACPI0007")Name(_UID,One)',
    ])
      expect(flat).toContain(fact);
    expect(flat).not.toContain('C002');
  });

  test('an event with the bit of the power button notifies the power button', async () => {
    const dsdt = table('DSDT').bytes;
    expect(await interpret('evaluate \\_SB.GED._EVT 13', dsdt, 8)).toMatch(
      /Device Notify on \[PWRB\] \S+ Value 0x80/,
    );
    expect(await interpret('evaluate \\_SB.GED._EVT 13', dsdt, 0xf7)).not.toContain('[PWRB]');
  });

  test('an event with the bit of memory notifies each module that has come', async () => {
    const said = await interpret('evaluate \\_SB.GED._EVT 13', table('DSDT').bytes, 2);

    const notified = [...said.matchAll(/System Notify on \[(\w+)\] \S+ Value (\w+)/g)];
    expect(notified.map(([, device, value]) => `${device} ${value}`).sort()).toEqual(
      Array.from({ length: 8 }, (_, slot) => `M00${slot} 0x01`),
    );
  });

  test('a module is where its registers say, and there if they say so', async () => {
    const evaluate = ['_STA', '_CRS'].map((name) => `evaluate \\_SB.MHPC.M002.${name}`).join(';');
    const said = await interpret(evaluate, table('DSDT').bytes, 1);

    expect(said).toContain('[Integer] = 000000000000000F');
    // Lowest and highest address, and length; the low half of the first was the slot.
    expect(said.replaceAll(/\s+[0-9A-F]{4}: |\s+\/\/.*|\s+/g, '')).toContain(
      ['0200000001010101', '0201010102020202', '0000000000000000', '0101010101010101'].join(''),
    );
    const empty = await interpret('evaluate \\_SB.MHPC.M002._STA', table('DSDT').bytes, 0xfe);
    expect(empty).toContain('[Integer] = 0000000000000000');
  });

  describe('of processors', () => {
    // What all of the registers' bits read as.
    const [ABSENT, PRESENT, INSERTED, TO_REMOVE] = [0, 1, 2, 4];
    const events = (said: string) =>
      [...said.matchAll(/Notify on \[(C\d+)\] \S+ Value (0x\d+)/g)]
        .map((m) => `${m[1]} ${m[2]}`)
        .sort(); // the interpreter notifies from threads, in any order
    const scan = async (fill: number) =>
      events(await interpret('evaluate \\_SB.CPUS.CSCN', table('DSDT', 1, 3).bytes, fill));

    test('the scan asks to look at who has come, and to eject who shall go', async () => {
      expect(await scan(PRESENT)).toEqual([]);
      expect(await scan(INSERTED)).toEqual(['C000 0x01', 'C001 0x01', 'C002 0x01']);
      expect(await scan(TO_REMOVE)).toEqual(['C000 0x03', 'C001 0x03', 'C002 0x03']);
    });

    test('an event of the event device leads to the scan', async () => {
      const said = await interpret('evaluate \\_SB.GED._EVT 13', table('DSDT').bytes, 3);
      expect(events(said)).toEqual(['C000 0x01', 'C001 0x01']);
    });

    test('_STA says whether one is there, and _MAT how its local APIC is known', async () => {
      const ask = 'evaluate \\_SB.CPUS.C002._STA;evaluate \\_SB.CPUS.C002._MAT';
      const dsdt = table('DSDT', 1, 3).bytes;

      expect(await interpret(ask, dsdt, ABSENT)).toContain('[Integer] = 0000000000000000');
      const said = await interpret(ask, dsdt, PRESENT);
      expect(said).toContain('[Integer] = 000000000000000F');
      expect(said).toContain('09 10 00 00 02 00 00 00 01 00 00 00 02 00 00 00');
    });

    test('all can be ejected but the first', async () => {
      const { source } = await recompile('eject', table('DSDT', 1, 3).bytes);
      const calls = source.match(/CEJ0 \((\S+)\)/g);

      expect(calls).toEqual(['CEJ0 (One)', 'CEJ0 (0x02)']);
    });
  });

  test('an event with the bit of PCI has the guest look at slots, and asks it for some', async () => {
    const said = await interpret('evaluate \\_SB.GED._EVT 13', table('DSDT').bytes, 4);
    const notified = [...said.matchAll(/Notify on \[(S\d{3})\] \S+ Value (0x\d\d)/g)];
    const slots = ['S002', 'S010', 'S018', 'S026'];
    // The interpreter notifies from threads, in any order.
    expect(notified.map(([, slot, value]) => `${value} ${slot}`).sort()).toEqual(
      ['0x01', '0x03'].flatMap((value) => slots.map((slot) => `${value} ${slot}`)),
    );
  });

  test('letting go of a slot writes its bit', async () => {
    const said = await interpret('evaluate \\_SB.PC00.S031._EJ0 1', table('DSDT').bytes);
    expect(said).not.toMatch(/ERROR|Exception|AE_/);
  });

  test('_OSC grants what the machine has, and marks what it withholds or does not know', async () => {
    const bridge = '5B4DDB33F71F1C4096577441C03DD766';
    const ask = (id: string, revision: number, wanted: string): string =>
      `evaluate \\_SB.PC00._OSC (${id}) ${revision} 3 (000000001F000000${wanted}000000)`;
    const said = await interpret(
      [
        ask(bridge, 1, '3C'),
        ask(bridge, 1, '3F'), // native hot-plug too
        ask(bridge, 2, '00'),
        ask('00'.repeat(16), 1, '01'),
      ].join(';'),
      table('DSDT').bytes,
    );

    const answers = [...said.matchAll(/0000: (\w\w) 00 00 00 1F 00 00 00 (\w\w) 00 00 00/g)];
    expect(answers.map(([, result, granted]) => `${result} ${granted}`)).toEqual([
      '00 3C',
      '10 3C',
      '08 00',
      '04 01',
    ]);
  });

  test('every _CRS survives the conversion to resources and back', async () => {
    const said = await interpret('resources', table('DSDT').bytes);

    expect(said.match(/EndTag Resource/g)).toHaveLength(17);
    expect(said).not.toMatch(/ERROR|Invalid|mismatch/i);
  });
});

test('the rest of the AML builder makes what it says', async () => {
  const [i, total] = [aml.local(0), aml.local(1)];
  const sumOfBelow = aml.method(
    'SUM',
    1,
    aml.acquire('GATE'),
    aml.store(0, i),
    aml.store(0, total),
    aml.repeatWhile(aml.less(i, aml.arg(0)), aml.add(total, i, total), aml.add(i, 1, i)),
    aml.store(total, aml.path('LAST')),
    aml.release('GATE'),
    aml.returnValue(aml.shiftLeft(aml.path('LAST'), 4)),
  );
  const body = aml.scope(
    '\\_SB',
    aml.mutex('GATE'),
    aml.opRegion('REGS', 'io', 0x600, 8),
    aml.field('REGS', 'dword', 'preserve', [null, 32], ['LAST', 16], [null, 16]),
    aml.device('DEV', aml.name('_HID', 'TEST0001')),
    sumOfBelow,
    aml.name('WIDE', 0x12_3456_789a),
  );
  // A stranger's DSDT would do as a header; ours is at hand.
  const { bytes } = buildAcpi([body], { processors: [], segments: 1 });
  const dsdt = bytes.subarray(RSDP_BYTES, RSDP_BYTES + new Reader(bytes).u32(RSDP_BYTES + 4));

  const { verdict, source } = await recompile('builder', dsdt);
  expect(verdict).toContain(' 0 Errors, 0 Warnings');
  expect(source).toContain('While ((Local0 < Arg0))');
  const said = await interpret('evaluate \\_SB.SUM 5;evaluate \\_SB.WIDE', dsdt);
  expect(said).toContain('[Integer] = 00000000000000A0');
  expect(said).toContain('[Integer] = 000000123456789A');
});
