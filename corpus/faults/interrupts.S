# Protected mode with a timer: when its interrupt is taken.
    .include "rom.inc"
    start_in protected

    .set IDT, 0x8000
    .set PIC, 0x20
    .set LOCAL_APIC, 0xfee00000

    # Writes a byte to a port.
    .macro put value, port
    mov $\value, %al
    out %al, $\port
    .endm

main:
    movl $CODE32 << 16, %eax
    mov $tick, %ebx
    mov %bx, %ax
    mov %eax, IDT + 0x20 * 8
    mov %ebx, %eax
    mov $0x8e00, %ax
    mov %eax, IDT + 0x20 * 8 + 4
    lidt idtr
    put 0x11, PIC
    put 0x20, PIC + 1           # vectors
    put 0x04, PIC + 1
    put 0x01, PIC + 1
    put 0xfe, PIC + 1           # the timer alone
    movl $0x1ff, LOCAL_APIC + 0xf0
    movl $0x700, LOCAL_APIC + 0x350 # hands on what the PIC has

# The interrupt is pending when a popf lets it in: it comes before the next instruction.
    xor %ebx, %ebx
    mov $1f, %esi
    put 0x30, 0x43              # once, after 1000
    put 1000 & 255, 0x40
    put 1000 >> 8, 0x40
    mov $1000000, %ecx
2:  dec %ecx
    jnz 2b
    pushfw
    orw $0x200, (%esp)
let_in:
    popfw
    inc %ebx
    inc %ebx
    inc %ebx
    inc %ebx
    sti
    nop
    nop
1:  call print

# The interrupt comes by itself.
    mov $1f, %esi
    put 0x30, 0x43
    put 0x4d3 & 255, 0x40
    put 0x4d3 >> 8, 0x40
    xor %ebx, %ebx
    sti
waiting:
    jmp waiting
1:  call print
    jmp end

# Goes on at %esi, with in %eax how often was counted until now.
tick:
    put 0x20, PIC
    mov %ebx, %eax
    mov %esi, (%esp)
    andl $~0x200, 8(%esp)
    iret

    .section .rodata
idtr:
    .word 0x21 * 8 - 1
    .long IDT
