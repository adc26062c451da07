//! Vector state survives: XMM, YMM and MXCSR of several threads, across switches, signals, calls and fork.
//!
//! Registers are loaded, something happens, and they are stored and compared, all inside one `asm!` block, so
//! that the compiler puts nothing of its own in between. What happens is a [`Between`].

use std::arch::asm;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use user_sys::{Handler, must, sys};

use crate::{Options, Verdict};

/// Rounds of each kind that a thread makes.
const ROUNDS: usize = 300;

/// Sixteen registers of 32 bytes each.
type Registers = [[u64; 4]; 16];

/// What happens while the registers hold the values.
#[derive(Clone, Copy, Debug)]
enum Between {
    /// A loop, long enough that timer signals and switches fall into it.
    Spin,
    /// sched_yield(2).
    Yield,
    /// getpid(2): a call that does not switch.
    Call,
    /// tkill(2) of this very thread with SIGUSR1: the handler spoils the registers.
    Signal,
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Spoils every vector register.
extern "C" fn spoil(_signal: i32) {
    HANDLED.fetch_add(1, SeqCst);
    let ones: Registers = [[u64::MAX; 4]; 16];
    let mut out = ones;
    exchange(&ones, &mut out, Between::Call);
}

/// Loads the registers, lets `between` happen, and stores them again.
fn exchange(values: &Registers, out: &mut Registers, between: Between) {
    let (number, first, second, spins) = match between {
        Between::Spin => (39_u64, 0, 0, 200_000_u64),
        Between::Yield => (24, 0, 0, 1),
        Between::Call => (39, 0, 0, 1),
        Between::Signal => (200, must(sys!(gettid)) as u64, libc::SIGUSR1 as u64, 1),
    };
    if std::is_x86_feature_detected!("avx") {
        exchange_ymm(values, out, [number, first, second, spins]);
    } else {
        exchange_xmm(values, out, [number, first, second, spins]);
    }
}

/// Assembly that loads registers $n from the slots at r14.
macro_rules! load {
    ($move:literal, $register:literal, $($n:literal)*) => {
        concat!($($move, " ", $register, $n, ", [r14 + 32*", $n, "]\n"),*)
    };
}

/// Assembly that stores registers $n to the slots at r15.
macro_rules! store {
    ($move:literal, $register:literal, $($n:literal)*) => {
        concat!($($move, " [r15 + 32*", $n, "], ", $register, $n, "\n"),*)
    };
}

macro_rules! exchange {
    ($name:ident, $move:literal, $register:literal, $doc:literal) => {
        #[doc = $doc]
        fn $name(values: &Registers, out: &mut Registers, [number, first, second, spins]: [u64; 4]) {
            // SAFETY: loads and stores 16 slots of 32 bytes, then makes a call that touches no memory of
            // ours; all registers that change are declared.
            unsafe {
                asm!(
                    load!($move, $register, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                    "2:",
                    "dec r12",
                    "jnz 2b",
                    "syscall",
                    store!($move, $register, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
                    in("r14") values, in("r15") out, inout("r12") spins => _,
                    inout("rax") number => _, in("rdi") first, in("rsi") second, out("rcx") _, out("r11") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                    out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                );
            }
        }
    };
}
exchange!(exchange_xmm, "movdqu", "xmm", "With the 16-byte registers; the upper halves of the slots stay.");
exchange!(exchange_ymm, "vmovdqu", "ymm", "With the 32-byte registers.");

/// Values that no other thread and no other round has.
fn pattern(thread: usize, round: usize) -> Registers {
    let word = |register: usize, part: usize| {
        (thread << 48 | round << 16 | register << 8 | part) as u64 ^ 0xa5a5_0000_0000_5a5a
    };
    std::array::from_fn(|register| std::array::from_fn(|part| word(register, part)))
}

/// Eight threads under a timer that signals every millisecond; then fork.
pub fn run(_options: &Options) -> Verdict {
    for signal in [libc::SIGUSR1, libc::SIGALRM] {
        must(Handler::install_function(signal, spoil as *const () as usize, libc::SA_RESTART, &[]));
    }
    must(sys!(setitimer, libc::ITIMER_REAL, &[0_i64, 1000, 0, 1000], 0));
    let threads: Vec<_> = (1..=8).map(|number| thread::spawn(move || one_thread(number))).collect();
    let verdicts: Vec<Verdict> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
        .collect();
    must(sys!(setitimer, libc::ITIMER_REAL, &[0_i64; 4], 0));
    verdicts.into_iter().collect::<Verdict>()?;
    println!("sse: {} handlers ran", HANDLED.load(SeqCst));
    across_fork()
}

fn one_thread(number: usize) -> Verdict {
    let control = 0x1f80 | (number as u32 % 4) << 13;
    set_control(control);
    for round in 0..ROUNDS {
        for between in [Between::Spin, Between::Yield, Between::Call, Between::Signal] {
            let values = pattern(number, round);
            let mut out = values;
            out.iter_mut().for_each(|register| register[0] = 0);
            exchange(&values, &mut out, between);
            if out != values {
                return Err(format!("thread {number}, round {round}, {between:?}: wrong vector registers"));
            }
        }
        if get_control() & 0xffc0 != control {
            return Err(format!(
                "thread {number}, round {round}: MXCSR {:#x} became {:#x}",
                control,
                get_control()
            ));
        }
    }
    Ok(())
}

/// Sets MXCSR: each thread has a rounding mode of its own.
fn set_control(value: u32) {
    // SAFETY: exceptions stay masked; the rounding mode matters to no code of this program.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &value) };
}

fn get_control() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores four bytes.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut value) };
    value
}

/// Both sides of a fork have the registers of before.
fn across_fork() -> Verdict {
    let values = pattern(9, 9);
    let mut out = [[0; 4]; 16];
    let own = std::process::id();
    // fork(2), system call 57: the child compares too, and leaves.
    exchange_xmm(&values, &mut out, [57, 0, 0, 1]);
    let same = (0..16).all(|register| out[register][..2] == values[register][..2]);
    if std::process::id() != own {
        user_sys::child::exit_now(i32::from(!same));
    }
    let mut status = 0;
    must(sys!(wait4, -1, &mut status, 0, 0));
    match (same, user_sys::Ended::of(status)) {
        (true, user_sys::Ended::Exited(0)) => Ok(()),
        (false, _) => Err("the parent's registers changed in fork".to_owned()),
        (_, child) => Err(format!("the child's registers after fork: {child}")),
    }
}
