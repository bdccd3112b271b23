# Firmware in real mode: what addresses through %bp is in the stack's segment.
    .include "rom.inc"
    start_in real

main:
    mov $0x2000, %ax
    mov %ax, %ss
    mov $0x1000, %sp
    mov $0x3000, %ax
    mov %ax, %ds
    mov $0x100, %bp
    mov $0x20, %si
    movw $0x1111, %ss:0x120
    movw $0x2222, %ds:0x120
    xor %eax, %eax
stack_segment:
    mov (%bp, %si), %ax
    call print

# A software interrupt, as firmware calls its own services: its frame has the flags of before.
    xor %ax, %ax
    mov %ax, %ds
    movw $service - 0xf0000, 0x6b * 4
    movw $0xf000, 0x6b * 4 + 2
    stc
service_call:
    int $0x6b
    jmp end

service:
    mov %sp, %bp
    xor %eax, %eax
    mov 4(%bp), %ax             # the flags in the frame
    call print
    iret
