# A boot sector that proves where it came from: says on the first serial port that it runs, reads sector 1 by the BIOS,
# prints the text in it, writes it to sector 2, and ends the emulator with status 33; with 35 if the BIOS fails.
        .code16
        .globl  _start
_start:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        mov     %dl, drive
        mov     $hello, %si
        call    print

        mov     $0x42, %ah              # extended read
        call    disk
        mov     $0x8000, %si
        call    print
        movb    $2, sector
        mov     $0x4300, %ax            # extended write
        call    disk
        mov     $16, %al
        jmp     leave

disk:   mov     $packet, %si
        mov     drive, %dl
        int     $0x13
        jc      failed
        ret
failed: mov     $17, %al
leave:  mov     $0xf4, %dx              # isa-debug-exit: status is 2 AL + 1
        out     %al, %dx
        hlt
        jmp     leave

print:  lodsb
        test    %al, %al
        jz      printed
        mov     %al, %bl
wait:   mov     $0x3fd, %dx
        in      %dx, %al
        test    $0x20, %al
        jz      wait
        mov     $0x3f8, %dx
        mov     %bl, %al
        out     %al, %dx
        jmp     print
printed:
        ret

hello:  .asciz  "boot sector runs\n"
drive:  .byte   0
packet: .byte   16, 0
        .word   1, 0x8000, 0            # one sector, to 0:8000h
sector: .quad   1
        .org    510
        .word   0xaa55
