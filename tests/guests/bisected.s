# A program for QEMU's user mode in which three faults of corpus/faults/list.txt show, one by its argument: what a frontend,
# the optimiser and the backend make of it. It ends with 0 whatever comes of them.
        .globl  _start
        .text
_start:
        mov     8(%rsp), %rax           # argv[0]
        mov     16(%rsp), %rax          # argv[1]
        movzbl  (%rax), %eax
        cmp     $'f', %al
        je      frontend
        cmp     $'o', %al
        je      optimiser
        cmp     $'b', %al
        je      backend
done:
        mov     $60, %eax               # exit
        xor     %edi, %edi
        syscall

frontend:                               # fault stored
        movw    $0x1234, word(%rip)
        notw    word(%rip)
        jmp     done

optimiser:                              # fault fold
        mov     $0x12345678, %eax
        xor     $0x5bd1e995, %eax
        mov     %eax, long(%rip)
        jmp     done

backend:                                # fault encoding
        mov     long(%rip), %eax
        add     $0x12345, %eax
        rol     $27, %eax
        mov     %eax, long(%rip)
        jmp     done

        .data
word:   .word   0
long:   .long   0x89abcdef
