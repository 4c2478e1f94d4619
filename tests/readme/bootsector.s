# The first sector of a disk for tests/readme: it reads one more, far behind it, and powers the machine off if that
# begins with "FAR!". If not, it halts, and whoever waits for the machine's end waits in vain.
#
# Source: SeaBIOS's int 13h, function 42h (read by logical block); QEMU's "pc" has ACPI's PM1a_CNT at port 0x604.
        .code16
        .globl _start
_start: xorw    %ax, %ax
        movw    %ax, %ds
        movw    $address, %si
        movb    $0x42, %ah              # %dl is the disk that we come from, as the BIOS has left it
        int     $0x13
        jc      halt
        cmpl    $0x21524146, 0x8000     # "FAR!"
        jne     halt
        movw    $0x604, %dx
        movw    $0x2000, %ax            # SLP_EN
        outw    %ax, %dx
halt:   hlt
        jmp     halt

address:
        .byte   16, 0                   # bytes of this
        .word   1                       # sectors
        .word   0x8000, 0               # to offset, segment
        .quad   8192                    # from sector: 4 MiB

        .org    510
        .word   0xaa55
