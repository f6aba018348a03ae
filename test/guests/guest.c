#include "guest.h"

enum { COM1 = 0x3f8, COM1_LINE_STATUS = 0x3fd, RECEIVED = 1 };
enum { SLEEP = 0x600, SLEEP_S5 = 0x34, LAPIC_SPURIOUS = 0xfee000f0 };

static u64 next_free = 0x1000000;

void* allocate(u64 size_bytes) {
  u8* block = (u8*)next_free;
  next_free += (size_bytes + 4095) & ~4095ull;
  return block;  // RAM that nobody has written is zero
}

enum { PHYS_BITS = 36 };
#define LARGE_PAGE (2ull << 20)

u64 platform_registers(void) {
  const u64 registers = (1ull << PHYS_BITS) - (64 << 10) - (1 << 20);
  u64* pml4;
  __asm__ volatile("movq %%cr3, %0" : "=r"(pml4));
  u64* pdpt = (u64*)(pml4[0] & ~0xfffull);
  u64* directory = allocate(4096);
  directory[(registers >> 21) & 511] = (registers & ~(LARGE_PAGE - 1)) | 0x83;
  pdpt[registers >> 30] = (u64)directory | 3;
  return registers;
}

static void put(char c) { outb(COM1, (u8)c); }

static void put_number(u64 value, u32 base) {
  char digits[20];
  u32 count = 0;
  do {
    digits[count++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  while (count) put(digits[--count]);
}

void say(const char* format, ...) {
  va_list values;
  va_start(values, format);
  for (const char* c = format; *c; c++) {
    if (*c != '%') {
      put(*c);
    } else if (*++c == 's') {
      for (const char* text = va_arg(values, const char*); *text; text++) put(*text);
    } else {
      put_number(va_arg(values, u64), *c == 'x' ? 16 : 10);
    }
  }
  va_end(values);
}

/// Looks seldom, for each look is an exit, and who counts those wants those of something else.
static u8 get(void) {
  while ((inb(COM1_LINE_STATUS) & RECEIVED) == 0)
    for (u32 i = 0; i < 100000; i++) __asm__ volatile("pause");
  return inb(COM1);
}

u64 ask(void) {
  u64 number = 0;
  for (u8 c = get(); c != '\n' && c != '\r'; c = get())
    if (c >= '0' && c <= '9') number = number * 10 + c - '0';
  return number;
}

void power_off(void) { outb(SLEEP, SLEEP_S5); }

struct gate {
  u16 offset0, selector, flags, offset1;
  u32 offset2, zero;
};
extern struct gate idt[256];
extern const u64 stub_addresses[16];

void enable_interrupts(void) {
  for (u32 i = 0; i < 16; i++) {
    const u64 stub = stub_addresses[i];
    idt[0x40 + i] = (struct gate){(u16)stub, 8, 0x8e00, (u16)(stub >> 16), (u32)(stub >> 32), 0};
  }
  outb(0x21, 0xff);  // whatever the old controllers have is of no interest
  outb(0xa1, 0xff);
  write32(LAPIC_SPURIOUS, 0x1ff);
  __asm__ volatile("sti");
}

u32 interrupts(void) {
  u32 sum = 0;
  for (u32 i = 0; i < 16; i++) sum += interrupt_count[i];
  return sum;
}

u32 wait_for_interrupt(u32 seen) {
  for (;;) {
    __asm__ volatile("cli");
    const u32 now = interrupts();
    if (now != seen) {
      __asm__ volatile("sti");
      return now;
    }
    __asm__ volatile("sti; hlt");  // sti takes effect after hlt began: no interrupt is missed
  }
}

u64 cycles(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}

void* memset(void* to, int value, size_t count) {
  for (size_t i = 0; i < count; i++) ((volatile u8*)to)[i] = (u8)value;
  return to;
}
void* memcpy(void* to, const void* from, size_t count) {
  for (size_t i = 0; i < count; i++) ((volatile u8*)to)[i] = ((const u8*)from)[i];
  return to;
}
