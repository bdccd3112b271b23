# A boot sector that makes QEMU log what a firmware does not: random bytes (rdrand), sound out (AdLib) and in (an
# ES1370 in slot 5). It says `!` on COM1 and then waits for a `q` there, upon which it resets the machine.
    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $8, %cx
random:
    rdrand %eax
    loop random
    movw $0x388, %dx
    movb $0x20, %al
    outb %al, %dx
    # The sound card's first I/O region, from its configuration space.
    movl $0x80002810, %eax
    movw $0xcf8, %dx
    outl %eax, %dx
    movw $0xcfc, %dx
    inl %dx, %eax
    andw $0xfffc, %ax
    movw %ax, %bx
    # Where samples go: page 13, frame address and size.
    leaw 0x0c(%bx), %dx
    movl $13, %eax
    outl %eax, %dx
    leaw 0x30(%bx), %dx
    movl $0x100000, %eax
    outl %eax, %dx
    leaw 0x34(%bx), %dx
    movl $0xff, %eax
    outl %eax, %dx
    # ADC on, at a rate.
    movw %bx, %dx
    movl $0x00100010, %eax
    outl %eax, %dx
    movw $0x3f8, %dx
    movb $'!', %al
    outb %al, %dx
wait:
    movw $0x3fd, %dx
    inb %dx, %al
    testb $1, %al
    jz wait
    movw $0x3f8, %dx
    inb %dx, %al
    cmpb $'q', %al
    jne wait
    movb $0xfe, %al
    outb %al, $0x64
stop:
    hlt
    jmp stop
    .org 510
    .word 0xaa55
