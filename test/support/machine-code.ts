/**
 * Machine code for micro-guests, one function an instruction or a short idiom. All of it is 32-bit
 * code, for the entry state `PROTECTED_MODE`, but for what `test/kvm/interrupts.test.ts` needs.
 */

const le16 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const le32 = (value: number): number[] => [...le16(value), ...le16(value >>> 16)];

const OPERAND_16 = 0x66; // prefix: the operand is 16 bits where 32 is the default, and vice versa

/** The prefix and the opcode that turn an opcode for AL into that for AX or EAX. */
const sized = (sizeBytes: number, opcode8: number): number[] => {
  if (sizeBytes === 1) return [opcode8];
  return sizeBytes === 2 ? [OPERAND_16, opcode8 | 1] : [opcode8 | 1];
};

export const HLT = [0xf4];
export const RDTSC = [0x0f, 0x31]; // EAX is its low half
export const STOS_NEXT = [0xab]; // mov [edi], eax; add edi, 4

export const movEax = (value: number): number[] => [0xb8, ...le32(value)];
export const movEdi = (value: number): number[] => [0xbf, ...le32(value)];
const movEcx = (value: number): number[] => [0xb9, ...le32(value)];
const movEsi = (value: number): number[] => [0xbe, ...le32(value)];
const movDx = (port: number): number[] => [OPERAND_16, 0xba, ...le16(port)];

/** Writes AL, AX or EAX to a port. */
export const out = (port: number, sizeBytes = 1): number[] => [
  ...movDx(port),
  ...sized(sizeBytes, 0xee),
];

/** Reads a port to AL, AX or EAX. */
export const input = (port: number, sizeBytes = 1): number[] => [
  ...movDx(port),
  ...sized(sizeBytes, 0xec),
];

/** Writes AL, AX or EAX to an address. */
export const store = (gpa: number, sizeBytes = 1): number[] => [
  ...sized(sizeBytes, 0xa2),
  ...le32(gpa),
];

/** Reads an address to AL, AX or EAX. */
export const load = (gpa: number, sizeBytes = 1): number[] => [
  ...sized(sizeBytes, 0xa0),
  ...le32(gpa),
];

/** Reads 32 bits of a port straight to RAM. */
export const insd = (port: number, gpa: number): number[] => [...movEdi(gpa), ...movDx(port), 0x6d];

/** Writes `count` bytes from `gpa` on to a port, by one instruction. */
export const repOutsb = (port: number, gpa: number, count: number): number[] => [
  ...movEsi(gpa),
  ...movEcx(count),
  ...movDx(port),
  0xf3,
  0x6e,
];

/** Adds one to a 32-bit counter in RAM. */
export const increment = (gpa: number): number[] => [0xff, 0x05, ...le32(gpa)];

/** `body`, for ever. */
export const forever = (body: number[]): number[] => {
  const end = body.length + 5;
  return [...body, 0xe9, ...le32(-end)];
};
