//! Signals that come from the processor, and where handlers run: siginfo, sigaltstack(2), sigreturn(2),
//! registers.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::{SA_ONSTACK, SIG_IGN, SIGALRM, SIGFPE, SIGILL, SIGSEGV, SIGTERM, SIGTRAP, SIGUSR1, siginfo_t};
use user_sys::child::{exit_now, in_child};
use user_sys::signal::set;
use user_sys::{Errno, Handler, Res, Zeroed, must, sys};

use super::signals::{block, blocked, own, raise};
use crate::fixture::{monotonic, repeat_alarm, stop_alarm};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("faults":
    alternate_stack, alternate_stack_errors, faults, fault_in_handler, ignored_fault, registers_survive,
    repair_and_retry, sigreturn_changes, single_steps, error_codes,
);

static STACK_LOW: AtomicUsize = AtomicUsize::new(0);

static STACK_HIGH: AtomicUsize = AtomicUsize::new(0);

static ON_STACK: AtomicI32 = AtomicI32::new(0);

extern "C" fn note_stack(_signal: i32) {
    let here = &raw const STACK_LOW as usize;
    let local = std::hint::black_box(here);
    let at = &raw const local as usize;
    let inside = (STACK_LOW.load(SeqCst)..STACK_HIGH.load(SeqCst)).contains(&at);
    let mut state = libc::stack_t::zeroed();
    let flags = sys!(sigaltstack, 0, &mut state).map_or(-1, |_| state.ss_flags);
    let refused = sys!(sigaltstack, &state, 0).map_or_else(Errno::into_raw, |_| 0);
    ON_STACK.store(i32::from(inside) * 10_000 + flags * 100 + refused, SeqCst);
}

fn use_stack(address: usize, size: usize, flags: i32) -> Res {
    let stack = libc::stack_t {
        ss_sp: std::ptr::with_exposed_provenance_mut(address),
        ss_flags: flags,
        ss_size: size,
    };
    sys!(sigaltstack, &stack, 0)
}

/// How often the handlers of this file ran.
static CALLS: AtomicI32 = AtomicI32::new(0);

fn alternate_stack(t: Transcript) {
    let map = user_sys::Map::new(16);
    STACK_LOW.store(map.start(), SeqCst);
    STACK_HIGH.store(map.end(), SeqCst);
    must(use_stack(map.start(), 65536, 0));
    must(Handler::install_function(SIGUSR1, note_stack as *const () as usize, SA_ONSTACK, &[]));
    raise(SIGUSR1);
    t.say("on it, says so, cannot be changed meanwhile", ON_STACK.load(SeqCst));
    must(Handler::install_function(SIGUSR1, note_stack as *const () as usize, 0, &[]));
    raise(SIGUSR1);
    t.say("without SA_ONSTACK", ON_STACK.load(SeqCst));
    let mut state = libc::stack_t::zeroed();
    must(sys!(sigaltstack, 0, &mut state));
    t.say("reported", (state.ss_sp as usize == map.start(), state.ss_size, state.ss_flags));
    t.say(
        "child has it",
        in_child(|| {
            must(Handler::install_function(SIGUSR1, note_stack as *const () as usize, SA_ONSTACK, &[]));
            raise(SIGUSR1);
            i32::from(ON_STACK.load(SeqCst) < 10_000)
        }),
    );
}

fn alternate_stack_errors(t: Transcript) {
    let map = user_sys::Map::new(16);
    t.say("too small", use_stack(map.start(), 1024, 0).map(drop));
    t.say("unknown flags", use_stack(map.start(), 65536, 77).map(drop));
    t.say("disable", use_stack(0, 0, libc::SS_DISABLE).map(drop));
    let mut state = libc::stack_t::zeroed();
    t.say("reported", (ok(sys!(sigaltstack, 0, &mut state)), state.ss_flags));
    t.say("wrong pointer", ok(sys!(sigaltstack, 1, 0)));
    t.say("wrong old pointer", ok(sys!(sigaltstack, 0, 1)));
}

extern "C" fn exit_with_code(signal: i32, info: *mut siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passed it.
    let code = unsafe { (*info).si_code };
    exit_now(signal * 10 + code)
}

/// Reads a byte that is not there.
fn look_at(address: usize) {
    user_sys::map::peek(std::hint::black_box(address));
}

/// Ends with ten times the signal plus its code, when `act` faults.
fn fault(signal: i32, act: fn()) -> user_sys::Ended {
    in_child(|| {
        must(Handler::install_function(signal, exit_with_code as *const () as usize, libc::SA_SIGINFO, &[]));
        act();
        0
    })
}

fn faults(t: Transcript) {
    t.say("read of nothing", fault(SIGSEGV, || look_at(0)));
    t.say("write to code", fault(SIGSEGV, || user_sys::map::poke(faults as *const () as usize, 0)));
    // SAFETY: the fault is what is tested, in a child.
    t.say("undefined instruction", fault(SIGILL, || unsafe { std::arch::asm!("ud2") }));
    // SAFETY: as above.
    t.say("breakpoint", fault(SIGTRAP, || unsafe { std::arch::asm!("int3") }));
    // SAFETY: as above; the registers are declared.
    t.say("division by zero", fault(SIGFPE, || unsafe {
        std::arch::asm!("xor edx, edx", "mov eax, 1", "xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _,
        out("edx") _)
    }));
    // SAFETY: as above.
    t.say("privileged instruction", fault(SIGSEGV, || unsafe { std::arch::asm!("cli") }));
    // SAFETY: as above.
    t.say(
        "address that is not canonical",
        fault(SIGSEGV, || unsafe {
            std::arch::asm!("mov rax, [rax]", inout("rax") 0x8000_0000_0000_0000_u64 => _)
        }),
    );
    t.say("kernel's half", fault(SIGSEGV, || look_at(0xffff_ffff_8000_0000)));
    // SAFETY: as above.
    t.say(
        "jump to nothing",
        fault(SIGSEGV, || unsafe { std::arch::asm!("xor eax, eax", "jmp rax", options(noreturn)) }),
    );
    // SAFETY: as above.
    t.say(
        "default action",
        in_child(|| unsafe {
            std::arch::asm!("ud2");
            0
        }),
    );
}

extern "C" fn fault_again(_signal: i32) {
    user_sys::map::peek(std::hint::black_box(0));
}

fn fault_in_handler(t: Transcript) {
    t.say(
        "same signal is masked: the default action",
        in_child(|| {
            must(Handler::install_function(SIGSEGV, fault_again as *const () as usize, 0, &[]));
            i32::from(user_sys::map::peek(std::hint::black_box(0)))
        }),
    );
    t.say(
        "handler on a stack that is not there",
        in_child(|| {
            let map = user_sys::Map::new(16);
            must(use_stack(map.start(), 65536, 0));
            must(Handler::install_function(SIGUSR1, note_stack as *const () as usize, SA_ONSTACK, &[]));
            must(map.protect(libc::PROT_NONE));
            raise(SIGUSR1);
            0
        }),
    );
}

fn ignored_fault(t: Transcript) {
    t.say(
        "ignored",
        in_child(|| {
            must(Handler::install_function(SIGSEGV, SIG_IGN, 0, &[]));
            i32::from(user_sys::map::peek(std::hint::black_box(0)))
        }),
    );
    t.say(
        "blocked",
        in_child(|| {
            block(&[SIGSEGV]);
            i32::from(user_sys::map::peek(std::hint::black_box(0)))
        }),
    );
    t.say(
        "sent by kill and ignored",
        in_child(|| {
            must(Handler::install_function(SIGSEGV, SIG_IGN, 0, &[]));
            raise(SIGSEGV);
            3
        }),
    );
}

extern "C" fn spoil_registers(_signal: i32) {
    CALLS.fetch_add(1, SeqCst);
    // SAFETY: changes only registers that it declares.
    unsafe {
        std::arch::asm!(
            "pcmpeqd xmm0, xmm0",
            "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm15, xmm15",
            "mov r12, -1",
            "mov r13, -1",
            out("xmm0") _,
            out("xmm7") _,
            out("xmm15") _,
            out("r12") _,
            out("r13") _,
        );
    }
}

fn registers_survive(t: Transcript) {
    repeat_alarm(1, 0);
    must(Handler::install_function(SIGALRM, spoil_registers as *const () as usize, 0, &[]));
    let mut wrong = 0_u64;
    let start = monotonic();
    while CALLS.load(SeqCst) < 20 && monotonic() - start < 10_000_000_000 {
        let (x, y): (u64, u64);
        // SAFETY: a loop over registers that are declared.
        unsafe {
            std::arch::asm!(
                "movq xmm7, r12",
                "movq xmm15, r13",
                "mov ecx, 20000",
                "2:",
                "dec ecx",
                "jnz 2b",
                "movq r8, xmm7",
                "movq r9, xmm15",
                "xor r8, r12",
                "xor r9, r13",
                in("r12") 0x1234_5678_9abc_def0_u64,
                in("r13") 0x0fed_cba9_8765_4321_u64,
                out("r8") x,
                out("r9") y,
                out("ecx") _,
                out("xmm7") _,
                out("xmm15") _,
            );
        }
        wrong += u64::from(x | y != 0);
    }
    stop_alarm();
    t.say("wrong values", wrong);
    t.say("handlers ran", CALLS.load(SeqCst) >= 20);
}

fn repair_and_retry(t: Transcript) {
    let map = user_sys::Map::new(1);
    must(map.protect(libc::PROT_READ));
    REPAIR.store(map.start(), SeqCst);
    must(Handler::install_function(SIGSEGV, repair as *const () as usize, libc::SA_SIGINFO, &[]));
    user_sys::map::poke(map.start() + 5, 9);
    t.say("repaired by the handler, the write is done again", user_sys::map::peek(map.start() + 5));
    t.say("faults", CALLS.load(SeqCst));
}

static REPAIR: AtomicUsize = AtomicUsize::new(0);

extern "C" fn repair(_signal: i32, _info: *mut siginfo_t, _context: *mut libc::c_void) {
    CALLS.fetch_add(1, SeqCst);
    let _ = sys!(mprotect, REPAIR.load(SeqCst), 4096, libc::PROT_READ | libc::PROT_WRITE);
}

extern "C" fn change_context(_signal: i32, _info: *mut siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the ucontext; the mask and rbx are the interrupted code's to have changed.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        libc::sigaddset(&mut context.uc_sigmask, SIGTERM);
        context.uc_mcontext.gregs[libc::REG_R12 as usize] = 4711;
    }
}

fn sigreturn_changes(t: Transcript) {
    must(Handler::install_function(SIGUSR1, change_context as *const () as usize, libc::SA_SIGINFO, &[]));
    let pid = own();
    let result: i64;
    // SAFETY: kill(pid, SIGUSR1) with its registers declared; the handler sets r12.
    unsafe {
        std::arch::asm!(
            "syscall",
            "mov {0}, r12",
            out(reg) result,
            inout("rax") 62_u64 => _,
            in("rdi") pid,
            in("rsi") SIGUSR1,
            inout("r12") 1_u64 => _,
            out("rcx") _,
            out("r11") _,
        );
    }
    t.say("register", result);
    t.say("mask", blocked() == set(&[SIGTERM]));
}

extern "C" fn count(_signal: i32) {
    CALLS.fetch_add(1, SeqCst);
}

/// A system call between two instructions that are stepped over.
fn single_steps(t: Transcript) {
    CALLS.store(0, SeqCst);
    must(Handler::install_function(SIGTRAP, count as *const () as usize, 0, &[]));
    // SAFETY: only the trap flag changes, and goes back; the registers are declared, and the stack is used as by a push.
    unsafe {
        std::arch::asm!(
            "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "syscall", "nop",
            "pushfq", "and qword ptr [rsp], -0x101", "popfq", "nop",
            inout("rax") libc::SYS_getpid => _, out("rcx") _, out("r11") _,
        );
    }
    t.say("traps", CALLS.load(SeqCst));
}

extern "C" fn note_error_code(_signal: i32, _info: *mut siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passed it.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    exit_now(registers[libc::REG_ERR as usize] as i32)
}

/// What is mapped in the kernel's half cannot be told.
fn error_codes(t: Transcript) {
    let of = |address: usize| {
        in_child(|| {
            let handler = note_error_code as *const () as usize;
            must(Handler::install_function(SIGSEGV, handler, libc::SA_SIGINFO, &[]));
            look_at(address);
            0
        })
    };
    t.say("nothing", of(0));
    t.say("the kernel's half", of(0xffff_8000_0000_0000));
    t.say("the kernel's code", of(0xffff_ffff_8020_0000));
}
