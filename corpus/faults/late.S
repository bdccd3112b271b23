# Protected mode: a division every 40,000 instructions, 640 million in all.
    .include "rom.inc"
    start_in protected

main:
    xor %esi, %esi
    xor %ebx, %ebx
    mov $0x5a17, %edi
1:  mov $20000, %ecx
2:  dec %ecx
    jnz 2b
    inc %esi
    mov %esi, %eax
    xor %edx, %edx
division:
    div %edi
    add %eax, %ebx
    add %edx, %ebx
    cmp $16000, %esi
    jne 1b
    mov %ebx, %eax
    call print
    jmp end
