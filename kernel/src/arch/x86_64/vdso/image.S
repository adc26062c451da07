// The vDSO: a shared object that the kernel maps into every program (vdso(7)). It is assembled into the kernel's read-only data,
// and reads the page that is mapped just before it:
//    0: TSC at boot
//    8: nanoseconds per tick, times 2^32; 0 if the TSC cannot be used: every call then traps
//   16: nanoseconds from boot to the Unix epoch
//   24: not 0 if RDTSCP gives the core in bits 0-11 and the node above

        .pushsection .rodata.nrk_vdso, "a", @progbits
        .balign 4096
        .globl  nrk_vdso_start
        .hidden nrk_vdso_start
        .globl  nrk_vdso_end
        .hidden nrk_vdso_end
nrk_vdso_start:
.Lvdso:

// ELF header (System V ABI, "ELF Header")
        .byte   0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0
        .quad   0
        .short  3, 62                           // ET_DYN, EM_X86_64
        .long   1
        .quad   0                               // no entry
        .quad   .Lvdso_segments - .Lvdso
        .quad   0                               // no sections
        .long   0
        .short  64, 56, 2, 0, 0, 0

.Lvdso_segments:
        .long   1, 5                            // PT_LOAD, R+X
        .quad   0, 0, 0
        .quad   .Lvdso_end - .Lvdso, .Lvdso_end - .Lvdso, 4096
        .long   2, 4                            // PT_DYNAMIC, R
        .quad   .Lvdso_dynamic - .Lvdso, .Lvdso_dynamic - .Lvdso, .Lvdso_dynamic - .Lvdso
        .quad   .Lvdso_dynamic_end - .Lvdso_dynamic, .Lvdso_dynamic_end - .Lvdso_dynamic, 8

        .balign 8
.Lvdso_dynamic:
        .quad   14, .Lvdso_name_soname - .Lvdso_names           // DT_SONAME
        .quad   4, .Lvdso_hash - .Lvdso                         // DT_HASH
        .quad   5, .Lvdso_names - .Lvdso                        // DT_STRTAB
        .quad   6, .Lvdso_symbols - .Lvdso                      // DT_SYMTAB
        .quad   10, .Lvdso_names_end - .Lvdso_names             // DT_STRSZ
        .quad   11, 24                                          // DT_SYMENT
        .quad   0x6ffffffc, .Lvdso_versions - .Lvdso            // DT_VERDEF
        .quad   0x6ffffffd, 2                                   // DT_VERDEFNUM
        .quad   0x6ffffff0, .Lvdso_symbol_versions - .Lvdso     // DT_VERSYM
        .quad   0, 0
.Lvdso_dynamic_end:

// One bucket: a chain of all symbols.
.Lvdso_hash:
        .long   1, 11, 1
        .long   0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0

        .macro vdso_symbol name, function, info
        .long   .Lvdso_name_\name - .Lvdso_names
        .byte   \info, 0
        .short  7                               // some section: defined
        .quad   .Lvdso_\function - .Lvdso, .Lvdso_\function\()_end - .Lvdso_\function
        .endm

        .balign 8
.Lvdso_symbols:
        .quad   0, 0, 0
        // STB_GLOBAL and STT_FUNC, then STB_WEAK and STT_FUNC.
        vdso_symbol __vdso_clock_gettime, clock_gettime, 0x12
        vdso_symbol __vdso_gettimeofday, gettimeofday, 0x12
        vdso_symbol __vdso_time, time, 0x12
        vdso_symbol __vdso_getcpu, getcpu, 0x12
        vdso_symbol __vdso_clock_getres, clock_getres, 0x12
        vdso_symbol clock_gettime, clock_gettime, 0x22
        vdso_symbol gettimeofday, gettimeofday, 0x22
        vdso_symbol time, time, 0x22
        vdso_symbol getcpu, getcpu, 0x22
        vdso_symbol clock_getres, clock_getres, 0x22

.Lvdso_symbol_versions:
        .short  0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2

        .balign 8
.Lvdso_versions:
        .short  1, 1, 1, 1                      // the object itself
        .long   0x0deebfa1                      // hash of its name
        .long   20, 28
        .long   .Lvdso_name_soname - .Lvdso_names, 0
        .short  1, 0, 2, 1                      // LINUX_2.6
        .long   0x03ae75f6
        .long   20, 0
        .long   .Lvdso_name_version - .Lvdso_names, 0

.Lvdso_names:
        .byte   0
        .macro  vdso_name name
.Lvdso_name_\name:
        .asciz  "\name"
        .endm
        vdso_name __vdso_clock_gettime
        vdso_name __vdso_gettimeofday
        vdso_name __vdso_time
        vdso_name __vdso_getcpu
        vdso_name __vdso_clock_getres
        vdso_name clock_gettime
        vdso_name gettimeofday
        vdso_name time
        vdso_name getcpu
        vdso_name clock_getres
.Lvdso_name_version:
        .asciz  "LINUX_2.6"
.Lvdso_name_soname:
        .asciz  "linux-vdso.so.1"
.Lvdso_names_end:

// Nanoseconds since boot in rax; rcx, rdx and r8 are lost. Goes to \trap if the TSC cannot be used.
        .macro  vdso_now trap
        mov     r8, qword ptr [rip + .Lvdso - 4096 + 8]
        test    r8, r8
        jz      \trap
        lfence                                  // no earlier than the call
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        xor     ecx, ecx
        sub     rax, qword ptr [rip + .Lvdso - 4096]
        cmovb   rax, rcx
        mul     r8
        shrd    rax, rdx, 32
        .endm

// Nanoseconds in rax to seconds in rdx and the rest in rcx; rax and r8 are lost. The factor is 2^84 / 10^9 without the factor 2^9 of
// the divisor, rounded up (Granlund and Montgomery, "Division by invariant integers using multiplication").
        .macro  vdso_split
        mov     rcx, rax
        shr     rax, 9
        movabs  r8, 0x44b82fa09b5a53
        mul     r8
        shr     rdx, 11
        imul    rax, rdx, 1000000000
        sub     rcx, rax
        .endm

        .balign 16
.Lvdso_clock_gettime:                           // (clockid_t edi, struct timespec *rsi)
        cmp     edi, 11
        ja      2f
        mov     eax, 0x8f3                      // REALTIME, MONOTONIC, MONOTONIC_RAW, the coarse ones, BOOTTIME, TAI
        bt      eax, edi
        jnc     2f
        vdso_now 2f
        mov     ecx, 0x821                      // those that count from the Unix epoch
        bt      ecx, edi
        jnc     1f
        add     rax, qword ptr [rip + .Lvdso - 4096 + 16]
1:      vdso_split
        mov     qword ptr [rsi], rdx
        mov     qword ptr [rsi + 8], rcx
        xor     eax, eax
        ret
2:      mov     eax, 228
        syscall
        ret
.Lvdso_clock_gettime_end:

        .balign 16
.Lvdso_gettimeofday:                            // (struct timeval *rdi, struct timezone *rsi)
        test    rdi, rdi
        jz      1f
        vdso_now 3f
        add     rax, qword ptr [rip + .Lvdso - 4096 + 16]
        vdso_split
        imul    rcx, rcx, 274877907             // microseconds: 2^38 / 1000, rounded up
        shr     rcx, 38
        mov     qword ptr [rdi], rdx
        mov     qword ptr [rdi + 8], rcx
1:      test    rsi, rsi
        jz      2f
        mov     qword ptr [rsi], 0
2:      xor     eax, eax
        ret
3:      mov     eax, 96
        syscall
        ret
.Lvdso_gettimeofday_end:

        .balign 16
.Lvdso_time:                                    // (time_t *rdi)
        vdso_now 2f
        add     rax, qword ptr [rip + .Lvdso - 4096 + 16]
        vdso_split
        mov     rax, rdx
        test    rdi, rdi
        jz      1f
        mov     qword ptr [rdi], rax
1:      ret
2:      mov     eax, 201
        syscall
        ret
.Lvdso_time_end:

        .balign 16
.Lvdso_getcpu:                                  // (unsigned *rdi, unsigned *rsi)
        cmp     qword ptr [rip + .Lvdso - 4096 + 24], 0
        je      3f
        rdtscp
        mov     eax, ecx
        and     eax, 0xfff
        shr     ecx, 12
        test    rdi, rdi
        jz      1f
        mov     dword ptr [rdi], eax
1:      test    rsi, rsi
        jz      2f
        mov     dword ptr [rsi], ecx
2:      xor     eax, eax
        ret
3:      mov     eax, 309
        syscall
        ret
.Lvdso_getcpu_end:

        .balign 16
.Lvdso_clock_getres:                            // (clockid_t edi, struct timespec *rsi)
        cmp     edi, 11
        ja      2f
        mov     eax, 0x893                      // REALTIME, MONOTONIC, MONOTONIC_RAW, BOOTTIME, TAI
        bt      eax, edi
        jnc     2f
        test    rsi, rsi
        jz      1f
        mov     qword ptr [rsi], 0
        mov     qword ptr [rsi + 8], 1
1:      xor     eax, eax
        ret
2:      mov     eax, 229
        syscall
        ret
.Lvdso_clock_getres_end:

.Lvdso_end:
nrk_vdso_end:
        .purgem vdso_symbol
        .purgem vdso_name
        .purgem vdso_now
        .purgem vdso_split
        .popsection
