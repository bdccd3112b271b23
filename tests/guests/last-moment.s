# A firmware that ends QEMU by isa-debug-exit in its first block. Until QEMU's main loop comes to stop it, it goes on to write to
# memory: where a run ends is another place each time.
        .code16
        .org 0xff00
start:  xorw %ax, %ax
        movw %ax, %ds
        movl $1, %eax
        cpuid
        movl %ecx, 0x7004
        notw 0x7008
        movb $0, %al
        outb %al, $0xf4
1:      incl 0x7000
        jmp 1b
        .org 0xfff0
        ljmp $0xf000, $start
        .org 0x10000
