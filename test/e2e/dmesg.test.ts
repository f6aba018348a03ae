import { expect, test } from 'vitest';
import { Guest } from './support/guest.ts';
import { qemu } from './support/vmm.ts';

/** Complaints that this kernel makes here and not under QEMU, and why each may stand. */
const ALLOWED: readonly { line: RegExp; why: string }[] = [
  {
    line: /^XSAVE consistency problem|^------------\[ cut here|^WARNING: .*fpu\/xstate/,
    why: 'the emulated host CPU: its CPUID leaf 0xd contradicts itself, under any VMM',
  },
  {
    line: /^Speculative Return Stack Overflow/,
    why: 'the host CPU model: the guest is told of the CPU that there is',
  },
  {
    line: /^(Unstable clock|If you want to keep|.*trace_clock=local|on the kernel|clocksource:)/,
    why: 'the emulated host TSC, which runs unevenly: its watchdog says so in guests of any VMM',
  },
];

/** Lines of the levels emerg to warning, without their times. */
async function complaints(guest: Guest): Promise<string[]> {
  const log = await guest.run("dmesg -r | grep -E '^<[0-4]>' || true");
  return log.split('\n').map((line) => line.replace(/^<\d+>\[[^\]]*\] /, '').trim());
}

test('the kernel complains of nothing that it does not complain of under QEMU q35', async () => {
  const peer = await Guest.boot({ vmm: qemu });
  const known = new Set(await complaints(peer));
  await peer[Symbol.asyncDispose]();
  await using guest = await Guest.boot();

  const news = (await complaints(guest)).filter((line) => line !== '' && !known.has(line));

  expect(news.filter((line) => !ALLOWED.some((allowed) => allowed.line.test(line)))).toEqual([]);
});
