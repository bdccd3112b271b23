# A boot sector: prints what its disk's second sector says, writes the third, reads it again and prints it, powers off.
# What it prints goes to both serial ports. Through the BIOS, so it runs from every disk that the BIOS boots from.
.code16
.globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    sti
    mov %dl, drive

    mov $2, %cl
    mov $0x8000, %bx
    mov $0x0201, %ax
    call disk
    mov $0x8000, %si
    call print

    mov $3, %cl
    mov $text, %bx
    mov $0x0301, %ax
    call disk
    mov $3, %cl
    mov $0x8200, %bx
    mov $0x0201, %ax
    call disk
    mov $0x8200, %si
    call print

    # PM1a control of the PIIX4 where SeaBIOS puts it: sleep enable, S5.
    mov $0x604, %dx
    mov $0x2000, %ax
    out %ax, %dx
1:  hlt
    jmp 1b

# Reads or writes (AX) sector CL of the first track at BX.
disk:
    xor %ch, %ch
    xor %dh, %dh
    mov drive, %dl
    int $0x13
    jnc 1f
    mov $failed, %si
    call print
1:  ret

# Prints the text at SI up to its zero.
print:
    lodsb
    test %al, %al
    jz 3f
    mov $0x3f8, %bx
    call send
    mov $0x2f8, %bx
    call send
    jmp print
3:  ret

send:
    mov %al, %ah
    mov $0xffff, %di
1:  dec %di
    jz 2f
    lea 5(%bx), %dx
    in %dx, %al
    test $0x20, %al
    jz 1b
    mov %bx, %dx
    mov %ah, %al
    out %al, %dx
2:  mov %ah, %al
    ret

drive: .byte 0
failed: .asciz "the disk failed\n"
text: .asciz "written and read again\n"
.org 510
.byte 0x55, 0xaa
