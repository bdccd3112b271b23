# Long mode: what an exception finds, and what it leaves in its frame.
    .include "rom.inc"
    start_in long

    .set NOT_PRESENT, 0x200000

main:
    mov $STACK, %rsp
    mov $0, %edi
    mov $divided, %eax
    call gate
    mov $13 * 16, %edi
    mov $protected, %eax
    call gate
    mov $14 * 16, %edi
    mov $absent, %eax
    call gate
    lidt idtr

# Three instructions of one block; the handler prints %rbx as it was at the second.
    mov $NOT_PRESENT, %esi
    xor %ebx, %ebx
    jmp 1f
1:  mov $0x1111, %ebx
faulting_store:
    movl $0x5ca1ab1e, (%rsi)
    mov $0x2222, %ebx
after_store:

# The handler prints the flags and the stack pointer of the frame.
    xor %edx, %edx
    mov $5, %eax
    xor %ecx, %ecx
    stc
division:
    div %ecx
after_division:

# A hint in %ecx is a fault. A block of its own, so that %ecx was another when it began.
    mov $KEPT, %eax
    xor %edx, %edx
    xor %ecx, %ecx
    jmp 1f
1:  mov $1, %ecx
    xor %edx, %edx
hint:
    monitor
    mov $2, %ecx
    mov $0x3333, %eax
    call print
    jmp end
after_hint:
    mov $0x4444, %eax
    call print
    jmp end

    .set KEPT, 0x9000
    .set IDT, 0x8000

# The gate at %edi for the handler at %eax.
gate:
    movw %ax, IDT(%edi)
    shr $16, %eax
    movw %ax, IDT + 6(%edi)
    movw $CODE64, IDT + 2(%edi)
    movw $0x8e00, IDT + 4(%edi)
    movl $0, IDT + 8(%edi)
    ret

absent:
    mov %rbx, %rax
    call print
    movq $after_store, 8(%rsp)
    add $8, %rsp
    iretq

divided:
    mov 16(%rsp), %rax          # flags
    call print
    mov 24(%rsp), %rax          # stack pointer
    call print
    movq $after_division, (%rsp)
    iretq

protected:
    movq $after_hint, 8(%rsp)
    add $8, %rsp
    iretq

    .section .rodata
idtr:
    .word 15 * 16 - 1
    .quad IDT
