# The PVH entry of every bare guest: from 32-bit protected mode into 64-bit C, with the first 5 GiB
# mapped to themselves by 2 MiB pages, a stack and an interrupt table.
        .section .note.pvh, "a", @note
        .long 4, 4, 18                  # "Xen", XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .long start

        .text
        .code32
        .globl start
start:  movl $page_directories, %edi
        movl $0x83, %eax                # present, writable, a large page
        xorl %edx, %edx
        movl $2560, %ecx
1:      movl %eax, (%edi)
        movl %edx, 4(%edi)
        addl $0x200000, %eax
        adcl $0, %edx
        addl $8, %edi
        decl %ecx
        jnz 1b
        movl $page_directories + 3, %eax
        movl $pdpt, %edi
        movl $5, %ecx
2:      movl %eax, (%edi)
        addl $4096, %eax
        addl $8, %edi
        decl %ecx
        jnz 2b
        movl $pdpt + 3, pml4

        movl $pml4, %eax
        movl %eax, %cr3
        movl %cr4, %eax
        orl $0x20, %eax                 # PAE
        movl %eax, %cr4
        movl $0xc0000080, %ecx          # EFER
        rdmsr
        orl $0x100, %eax                # LME
        wrmsr
        movl %cr0, %eax
        orl $0x80000001, %eax
        movl %eax, %cr0
        lgdt gdt_pointer
        ljmp $8, $long_mode

        .code64
long_mode:
        movl $16, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl $stack_top, %esp
        lidt idt_pointer
        call main
        call power_off
3:      hlt
        jmp 3b

# Every vector from 0x40 on ends here; the C side counts by vector.
        .macro stub vector
stub_\vector:
        pushq %rax
        movl $\vector, %eax
        jmp interrupt
        .endm
        .altmacro
        .macro stubs from, to
        stub \from
        .if \to - \from
        stubs %(\from + 1), \to
        .endif
        .endm
        stubs 64, 79

interrupt:
        pushq %rbx
        movl $0xfee000b0, %ebx
        incl interrupt_count - 64 * 4(, %rax, 4)
        movl $0, (%rbx)                 # end of interrupt
        popq %rbx
        popq %rax
        iretq

        .macro address vector
        .quad stub_\vector
        .endm
        .macro addresses from, to
        address \from
        .if \to - \from
        addresses %(\from + 1), \to
        .endif
        .endm

        .section .rodata
        .globl stub_addresses
stub_addresses:
        addresses 64, 79

        .data
        .balign 8
gdt:    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word . - gdt - 1
        .long gdt
idt_pointer:
        .word 256 * 16 - 1
        .quad idt

        .bss
        .balign 4096
pml4:   .skip 4096
pdpt:   .skip 4096
page_directories:
        .skip 5 * 4096
        .globl idt
idt:    .skip 4096
        .globl interrupt_count
interrupt_count:
        .skip 16 * 4
        .balign 16
        .skip 16384
stack_top:
        .section .note.GNU-stack, "", @progbits
