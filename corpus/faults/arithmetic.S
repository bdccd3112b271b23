# Protected mode, no interrupts: one instruction after another whose result is printed, or only kept.
    .include "rom.inc"
    start_in protected

    .set KEPT, 0x9000           # in RAM

main:
    movl $0x80000001, KEPT
    movl $0x12345678, KEPT + 4

# A flag that a jump takes.
    mov $0x7fffa5e9, %eax
    mov $0x5a17, %ebx
overflow:
    add %ebx, %eax
    jo 1f
    mov $0, %eax
1:  call print

# Both operands are known when the block is translated.
    mov $0x12345678, %eax
folded:
    xor $0x5bd1e995, %eax
    call print

# The value is known only when it runs, so the host has to rotate it.
    mov KEPT, %eax
rotated:
    rol $27, %eax
    call print

# Stored, and never looked at again.
stored:
    notw KEPT + 4
    jmp 1f

# A descriptor's access rights.
1:  mov $DATA, %ecx
    xor %eax, %eax
rights:
    lar %ecx, %eax
    call print

# The smallest of eight words, and where it is: in a vector register.
    movl $0x00050006, KEPT + 16
    movl $0x00070008, KEPT + 20
    movl $0x00090003, KEPT + 24
    movl $0x00040005, KEPT + 28
    movdqu KEPT + 16, %xmm1
smallest:
    phminposuw %xmm1, %xmm0
    movd %xmm0, %eax
    call print

# Goes nowhere but to the console.
    mov $'~', %al
    mov $CONSOLE, %dx
printed:
    out %al, (%dx)
    mov $'\n', %al
    out %al, (%dx)

# Decimal digits of a number.
    mov $0x2a, %eax
digits:
    aam $77
    and $0xffff, %eax
    call print
    jmp end
