/** Kernels of a few instructions that print, most to COM1; 32-bit code after a PVH entry. */
import { elfKernel, notes, PT_NOTE, pvhNote } from '../../support/kernels.ts';
import * as code from '../../support/machine-code.ts';

const ENTRY_GPA = 0x10_0000;
const COM1 = 0x3f8;
const LINE_STATUS = 0x3fd;
const SHUTDOWN = 0x600;
const POWER_OFF = 0x34;
const RESET = 1;

const movAl = (value: number): number[] => [0xb0, value];
const print = (text: string, port = COM1): number[] =>
  [...Buffer.from(text, 'latin1')].flatMap((byte) => [...movAl(byte), ...code.out(port)]);
const halt = code.forever(code.HLT);

/** cmp al, byte; jne past `then`. */
const ifAl = (byte: string, then: number[]): number[] => [
  0x3c,
  byte.charCodeAt(0),
  0x75,
  then.length,
  ...then,
];

const shutdown = (value: number): number[] => [...movAl(value), ...code.out(SHUTDOWN), ...halt];

const answer = [
  ...code.input(COM1),
  ...ifAl('Q', shutdown(POWER_OFF)),
  ...ifAl('R', shutdown(RESET)),
  ...code.out(COM1),
];

const kernel = (bytes: number[]): Uint8Array =>
  elfKernel({
    segments: [
      { gpa: ENTRY_GPA, bytes: Uint8Array.from(bytes), sizeBytes: 4096 },
      { type: PT_NOTE, gpa: 0, bytes: notes([pvhNote(ENTRY_GPA)]) },
    ],
  });

/** Prints a text and halts. */
export const printing = (text: string, port = COM1): Uint8Array =>
  kernel([...print(text, port), ...halt]);

/** Prints `up `, then every byte that it reads. Q is power-off, R is reset. */
export const echoing = kernel([
  ...print('up '),
  // test al, 1 (data ready); jz past the answer
  ...code.forever([...code.input(LINE_STATUS), 0xa8, 0x01, 0x74, answer.length, ...answer]),
]);

const PERIOD = 64;

/** What `streaming` prints before its last word. */
export const streamText = (length: number): string =>
  Array.from({ length }, (_, i) => String.fromCharCode(0x30 + (i % PERIOD))).join('');

/** Prints `length` bytes of a stream and `END`, and powers off unless it is to halt. */
export const streaming = (
  length: number,
  then: 'power off' | 'halt' = 'power off',
  port = COM1,
): Uint8Array => {
  const body = [
    ...[0x89, 0xf8], // mov eax, edi
    ...[0x24, PERIOD - 1], // and al, 63
    ...[0x04, 0x30], // add al, '0'
    ...code.out(port),
    0x47, // inc edi
    ...[0x81, 0xff, ...new Uint8Array(new Uint32Array([length]).buffer)], // cmp edi, length
  ];
  const loop = [...body, 0x75, 0x100 - body.length - 2]; // jne to its start
  const end = then === 'halt' ? halt : shutdown(POWER_OFF);
  return kernel([...code.movEdi(0), ...loop, ...print('END', port), ...end]);
};

export const tightLoop = kernel(code.forever([]));
