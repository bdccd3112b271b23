# Code in RAM that is changed after it has run.
    .include "rom.inc"
    start_in protected

    .set ELSEWHERE, 0x20000     # a page without code

main:
    mov $ram_in_rom, %esi
    mov $changed, %edi
    mov $ram_size, %ecx
    rep movsb
    mov $1f, %ebx
    jmp changed
1:  call print
    movl $0x22222222, changed + 1
    mov $changed_again, %ebx
    jmp changed
changed_again:
    call print
    xor %ecx, %ecx
    jmp turn

    .section .ram, "ax"
# 38 instructions in 43 bytes; the first is changed.
changed:
    mov $0x11111111, %eax
    .fill 36, 1, 0x90
    jmp *%ebx
    .skip 80, 0xcc

# Turns in two blocks that run into each other. In the thousandth the first has the second leave; should it not, then
# each further turn puts its jump back as it was.
turn:
    inc %ecx
    mov $ELSEWHERE, %edi
    mov $turn_again + 1, %ebp
    mov $turn - turn_again - 2, %eax
    mov $turned - turn_again - 2, %edx
    cmp $1000, %ecx
    cmovae %ebp, %edi
    cmove %edx, %eax
    mov %al, (%edi)
    jmp second
# 60 instructions in 61 bytes.
second:
    .fill 59, 1, 0x90
turn_again:
    jmp turn
turned:
    mov %ecx, %eax
    mov $print, %ebx
    call *%ebx
    mov $end, %ebx
    jmp *%ebx
