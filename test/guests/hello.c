#include "guest.h"

void main(void) { say("hello %s %u %x\n", "guest", (u64)42, (u64)0xbeef); }
