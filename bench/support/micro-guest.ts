/**
 * The smallest kernel that shows it runs: a PVH ELF that writes one byte to COM1 and halts. Padded
 * to 64 KiB, so that loading it costs what loading costs.
 */
const SIZE_BYTES = 64 * 1024;
const LOAD_GPA = 0x10_0000;
const HEADERS_BYTES = 0x1000;
const NOTE_OFFSET = 0x200;

const PT_LOAD = 1;
const PT_NOTE = 4;
/** `XEN_ELFNOTE_PHYS32_ENTRY`: where a PVH loader jumps to, in 32-bit protected mode. */
const PHYS32_ENTRY = 18;

/** 32-bit code: mov dx, 0x3f8; mov al, byte; out dx, al; hlt; jmp to the hlt. */
const code = (byte: number) => [0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee, 0xf4, 0xeb, 0xfd];

/** @param text the byte that it writes, one character. */
export function microGuest(text = 'X'): Buffer {
  const file = Buffer.alloc(SIZE_BYTES);
  file.set(Buffer.from('\x7fELF\x02\x01\x01', 'latin1'));
  file.writeUInt16LE(2, 16); // ET_EXEC
  file.writeUInt16LE(62, 18); // EM_X86_64
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(LOAD_GPA), 24); // e_entry
  file.writeBigUInt64LE(64n, 32); // e_phoff
  file.writeUInt16LE(64, 52); // e_ehsize
  file.writeUInt16LE(56, 54); // e_phentsize
  file.writeUInt16LE(2, 56); // e_phnum

  file.writeUInt32LE(4, NOTE_OFFSET); // length of the name
  file.writeUInt32LE(4, NOTE_OFFSET + 4); // length of the value
  file.writeUInt32LE(PHYS32_ENTRY, NOTE_OFFSET + 8);
  file.write('Xen\0', NOTE_OFFSET + 12, 'latin1');
  file.writeUInt32LE(LOAD_GPA, NOTE_OFFSET + 16);
  programHeader(file, 64, PT_LOAD, HEADERS_BYTES, SIZE_BYTES - HEADERS_BYTES);
  programHeader(file, 64 + 56, PT_NOTE, NOTE_OFFSET, 20);
  file.set(code(text.charCodeAt(0)), HEADERS_BYTES);
  return file;
}

function programHeader(file: Buffer, at: number, type: number, offset: number, length: number) {
  file.writeUInt32LE(type, at);
  file.writeUInt32LE(7, at + 4); // readable, writable, executable
  file.writeBigUInt64LE(BigInt(offset), at + 8);
  file.writeBigUInt64LE(BigInt(LOAD_GPA), at + 16);
  file.writeBigUInt64LE(BigInt(LOAD_GPA), at + 24);
  file.writeBigUInt64LE(BigInt(length), at + 32);
  file.writeBigUInt64LE(BigInt(length), at + 40);
  file.writeBigUInt64LE(4n, at + 48);
}
