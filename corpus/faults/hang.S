# Protected mode: flags that are reckoned in the middle of a block, among instructions that work on registers alone.
    .include "rom.inc"
    start_in protected

main:
    mov $0x7fffa5e9, %eax
    mov $0x1e975a3d, %ebx
    xor %ecx, %ecx
    mov %eax, %edx
    add %ebx, %eax
overflow:
    seto %cl
    mov %ecx, %eax
    not %edx
    call print
    jmp end
