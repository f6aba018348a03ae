import { expect, test } from 'vitest';
import { DONE_PORT, MicroGuest, REAL_MODE, RESULT_GPA, until } from '../support/micro-guest.ts';

const GSI = 4;
const UART_PORT = 0x3f8;
const HANDLER_GPA = 0x3000;
const VECTOR_BASE = 8;
/** The interrupt vector table's entry of `GSI` in real mode. */
const VECTOR_GPA = 4 * (VECTOR_BASE + GSI);

const outb = (port: number, value: number) => [0xb0, value, 0xe6, port];

/** The first 8259, edge triggered, with all lines masked but that of `GSI`. */
const SET_UP_PIC = [
  ...outb(0x20, 0x11),
  ...outb(0x21, VECTOR_BASE),
  ...outb(0x21, 4),
  ...outb(0x21, 1),
  ...outb(0x21, 0xff & ~(1 << GSI)),
];
const STI_HLT_FOREVER = [0xfb, 0xf4, 0xeb, 0xfc];
/** inc word [RESULT_GPA]; end of interrupt; iret. */
const COUNT_IT = [0xff, 0x06, RESULT_GPA & 0xff, RESULT_GPA >> 8, ...outb(0x20, 0x20), 0xcf];

/**
 * A guest that sets up and is waited for, then runs `handler` at each interrupt and else sleeps.
 */
async function start(guest: MicroGuest, setUp: number[], handler: number[]): Promise<void> {
  const vector = Uint8Array.from([HANDLER_GPA & 0xff, HANDLER_GPA >> 8, 0, 0]);
  await guest.boot(
    [...SET_UP_PIC, ...setUp, ...outb(DONE_PORT, 0), ...STI_HLT_FOREVER],
    REAL_MODE,
    [
      { gpa: HANDLER_GPA, bytes: Uint8Array.from(handler) },
      { gpa: VECTOR_GPA, bytes: vector },
    ],
  );
  guest.vm.run();
  await until(() => guest.doneCount === 1);
}

test('a line that rises runs the interrupt handler of a sleeping guest', async () => {
  await using guest = new MicroGuest();
  const irq = guest.vm.irq(GSI);
  await start(guest, [], COUNT_IT);

  for (let count = 1; count <= 5; count++) {
    irq.set(true);
    await until(() => guest.peek(RESULT_GPA) === count);
    irq.set(false);
  }
});

test('a line that no interrupt controller has is refused', async () => {
  await using guest = new MicroGuest();

  expect(() => guest.vm.irq(23)).not.toThrow();
  expect(() => guest.vm.irq(24)).toThrow('EINVAL');
});

test('input on the serial port interrupts the guest, which reads it', async () => {
  await using guest = new MicroGuest();
  const uart = guest.vm.uart({ base: UART_PORT, gsi: GSI, fd: -1, onRoom: () => {} });
  const enableReceived = [0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee]; // IER = 1
  // mov dx, UART_PORT; in al, dx; mov [RESULT_GPA + 2], al; then as COUNT_IT
  const handler = [0xba, 0xf8, 0x03, 0xec, 0xa2, 0x02, RESULT_GPA >> 8, ...COUNT_IT];
  await start(guest, enableReceived, handler);

  for (const [index, byte] of [...Buffer.from('typed')].entries()) {
    expect(uart.input(Uint8Array.of(byte))).toBe(1);
    await until(() => (guest.peek(RESULT_GPA) & 0xffff) === index + 1);
    expect((guest.peek(RESULT_GPA) >> 16) & 0xff).toBe(byte);
  }
});

test('input that did not fit is asked for when the guest has read the rest', async () => {
  await using guest = new MicroGuest();
  let asked = 0;
  const onRoom = () => void asked++;
  const uart = guest.vm.uart({ base: UART_PORT, gsi: GSI, fd: -1, onRoom });
  const paste = new Uint8Array(100);
  const taken = uart.input(paste);
  // mov dx, UART_PORT; mov cx, 64; in al, dx; loop
  const drain = [0xba, 0xf8, 0x03, 0xb9, 0x40, 0x00, 0xec, 0xe2, 0xfd];

  await start(guest, drain, COUNT_IT);
  await until(() => asked > 0);

  expect(taken).toBe(64);
  expect(uart.input(paste.subarray(taken))).toBe(36);
  expect(asked).toBe(1);
});
