/// A word of a PCI device's BAR, as sysfs has it, which is written first if there is a value:
///
///     bar-word FILE OFFSET [VALUE]
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const unsigned long offset = strtoul(argv[2], NULL, 0), page = offset & ~4095ul;
  const int fd = open(argv[1], O_RDWR);
  char* bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)page);
  if (fd < 0 || bytes == MAP_FAILED) return perror(argv[1]), 1;
  volatile uint32_t* word = (volatile uint32_t*)(bytes + (offset - page));
  if (argc > 3) *word = (uint32_t)strtoul(argv[3], NULL, 0);
  printf("%x\n", *word);
  return 0;
}
