/// Says which processors come and go, and gives up every one that it is asked for, at once.
#include "guest.h"

enum { kProcessors = 4, kSelect = 0x10, kStatus = 0x14 };
enum { kInserted = 2, kToRemove = 4, kEject = 8 };

static void look(u64 registers, u64 processor) {
  write32(registers + kSelect, (u32)processor);
  const u8 status = read8(registers + kStatus);
  if (status & kInserted) {
    say("+%u ", processor);
    write8(registers + kStatus, kInserted);
  }
  if (status & kToRemove) {
    write8(registers + kStatus, kToRemove);
    write8(registers + kStatus, kEject);
    say("-%u ", processor);
  }
}

void main(void) {
  const u64 registers = platform_registers();
  say("up ");
  for (;;)
    if (read8(registers) & 1)
      for (u64 i = 0; i < kProcessors; ++i) look(registers, i);
}
