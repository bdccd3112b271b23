# A firmware in which the first vCPU starts the second, waits for it, and ends QEMU by isa-debug-exit. What the second is
# told of its processor the first does not ask.
        .code16
        .org 0
second: xorw %ax, %ax
        movw %ax, %ds
        movl $1, %eax
        cpuid
        movl %ecx, 0x7004
        movb $1, 0x7000
1:      hlt
        jmp 1b
second_end:

start:  cli
        lgdtl %cs:gdt_place
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $8, $(flat + 0xf0000)
        .code32
flat:   movw $16, %ax
        movw %ax, %ds
        movw %ax, %es
        movl $0xf0000, %esi
        movl $0x8000, %edi
        movl $(second_end - second), %ecx
        cld
        rep movsb
        movb $0, 0x7000
        movl $0x000c4500, 0xfee00300            # INIT to all others
        movl $1000, %ecx
1:      pause
        loop 1b
        movl $0x000c4608, 0xfee00300            # they begin at 0x8000
2:      cmpb $1, 0x7000
        jne 2b
        movb $0, %al
        outb %al, $0xf4
3:      hlt
        jmp 3b

        .balign 8
gdt:    .quad 0
        .quad 0x00cf9a000000ffff
        .quad 0x00cf92000000ffff
gdt_place:
        .word 23
        .long gdt + 0xf0000

        .code16
        .org 0xfff0
        ljmp $0xf000, $start
        .org 0x10000
