#pragma once
/// A guest without an operating system: what a test needs of a machine, in a few lines each. It
/// speaks on COM1, and its `main` powers the VM off by returning.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static inline void outb(u16 port, u8 value) {
  __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline void outl(u16 port, u32 value) {
  __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
static inline u8 inb(u16 port) {
  u8 value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline u32 inl(u16 port) {
  u32 value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline u8 read8(u64 gpa) { return *(volatile u8*)gpa; }
static inline u16 read16(u64 gpa) { return *(volatile u16*)gpa; }
static inline u32 read32(u64 gpa) { return *(volatile u32*)gpa; }
static inline void write8(u64 gpa, u8 value) { *(volatile u8*)gpa = value; }
static inline void write16(u64 gpa, u16 value) { *(volatile u16*)gpa = value; }
static inline void write32(u64 gpa, u32 value) { *(volatile u32*)gpa = value; }

/// RAM from 16 MiB on, zeroed, aligned to 4 KiB. Nothing gives it back.
void* allocate(u64 size_bytes);

/// Where the registers of platform devices begin, in a VM of 36 physical address bits. Mapped once,
/// beyond what every guest has.
u64 platform_registers(void);

void* memset(void* to, int value, size_t count);
void* memcpy(void* to, const void* from, size_t count);

/// Text with `%u`, `%x` (both of 64 bits) and `%s`.
void say(const char* format, ...);
/// Waits for a line on COM1, and returns the number that it begins with.
u64 ask(void);
/// ACPI S5 by the sleep register.
void power_off(void);

/// Interrupts of vectors 0x40 to 0x4f are counted there, from now on.
extern volatile u32 interrupt_count[16];
void enable_interrupts(void);
/// Sleeps until an interrupt has come since `seen`, the sum of all counts.
u32 wait_for_interrupt(u32 seen);
u32 interrupts(void);

/// Cycles; only good for how long something takes against something else.
u64 cycles(void);
