//! Reports of the end: registers and a backtrace with names and lines, and then the machine is switched off.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::registers::control::{Cr2, Cr3};

use super::apic;
use super::console::print_unlocked;
use super::core_area::core_id;
use super::exit::{self, ExitCode};
use super::symbols::Code;
use super::traps::KernelTrapFrame;
use crate::sched::TaskHandle;

/// Longest backtrace that is printed.
const MAX_FRAMES: usize = 40;

/// Only the first report is printed: one that fails must not report itself for ever.
static REPORTING: AtomicBool = AtomicBool::new(false);

fn begin() {
    if REPORTING.swap(true, Ordering::Relaxed) {
        exit::end(ExitCode::Exception);
    }
}

/// Who tells what a core does.
static DESCRIPTION: spin::Once<fn(&mut dyn Write) -> fmt::Result> = spin::Once::new();

/// Has reports say what the core does, by `describe`: it waits for nothing and allocates nothing. To be called once.
pub fn describe_by(describe: fn(&mut dyn Write) -> fmt::Result) {
    DESCRIPTION.call_once(|| describe);
}

/// The core, and what it does as far as that is known.
struct Core;

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", core_id().0)?;
        DESCRIPTION.get().map_or(Ok(()), |describe| {
            f.write_str(", ")?;
            describe(f)
        })
    }
}

macro_rules! line {
    ($($argument:tt)*) => { print_unlocked(format_args!("{}\n", format_args!($($argument)*))) };
}

/// Prints the backtrace that starts at the code at `rip` with frame pointer `rbp`.
///
/// The kernel is compiled with frame pointers: each frame begins with the caller's RBP and the return address.
pub fn backtrace(rip: u64, mut rbp: u64) {
    line!("backtrace:");
    print_frame(0, rip);
    for depth in 1..MAX_FRAMES {
        // Kernel addresses only, aligned, and upwards: a broken chain ends the trace.
        if rbp < super::layout::DIRECT_MAP || !rbp.is_multiple_of(8) {
            break;
        }
        let frame = rbp as *const u64;
        let mut words = [0u64; 2];
        // SAFETY: the target is this stack's; the source is a kernel address, and a fault in the copy is fixed up.
        let copied = unsafe { super::usercopy::copy_kernel(words.as_mut_ptr().cast(), frame.cast(), 16) };
        if copied < 16 || words[1] == 0 {
            break;
        }
        print_frame(depth, words[1]);
        if words[0] <= rbp {
            break;
        }
        rbp = words[0];
    }
}

fn print_frame(depth: usize, address: u64) {
    // A return address points behind the call, which may be the function's last instruction.
    let within = if depth == 0 { address } else { address - 1 };
    line!("  {depth:2}: {address:#018x}{}", Code(within));
}

fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 floating-point exception",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        21 => "control protection exception",
        _ => "unexpected exception",
    }
}

/// An exception in the kernel that nothing explains.
pub fn fatal_trap(frame: &KernelTrapFrame) -> ! {
    begin();
    let name = exception_name(frame.vector);
    line!("\nkernel: {name} (vector {}, error code {:#x})", frame.vector, frame.error_code);
    if frame.vector == 14 {
        let cause = if frame.error_code & 1 == 0 { "not present" } else { "not permitted" };
        let access = match frame.error_code & 0x12 {
            0 => "read",
            2 => "write",
            _ => "instruction fetch",
        };
        line!("page fault at {:#x}: {access}, {cause}", Cr2::read_raw());
    }
    line!("on {Core}");
    registers(frame);
    backtrace(frame.rip, frame.rbp);
    exit::end(ExitCode::Exception)
}

fn registers(f: &KernelTrapFrame) {
    line!("rip {:#018x} cs  {:#06x} rflags {:#x}", f.rip, f.cs, f.rflags);
    line!("rsp {:#018x} ss  {:#06x} cr3 {:#x}", f.rsp, f.ss, Cr3::read_raw().0.start_address());
    line!("rax {:#018x} rbx {:#018x} rcx {:#018x}", f.rax, f.rbx, f.rcx);
    line!("rdx {:#018x} rsi {:#018x} rdi {:#018x}", f.rdx, f.rsi, f.rdi);
    line!("rbp {:#018x} r8  {:#018x} r9  {:#018x}", f.rbp, f.r8, f.r9);
    line!("r10 {:#018x} r11 {:#018x} r12 {:#018x}", f.r10, f.r11, f.r12);
    line!("r13 {:#018x} r14 {:#018x} r15 {:#018x}", f.r13, f.r14, f.r15);
}

/// An exception in user mode that no program can be blamed for.
pub fn fatal_user_trap(vector: u8, code: u64) -> ! {
    begin();
    line!("\nkernel: {} in user mode (error code {code:#x})", exception_name(u64::from(vector)));
    line!("on {Core}");
    exit::end(ExitCode::Exception)
}

/// Who is woken by a non-maskable interrupt.
static WOKEN: spin::Once<TaskHandle> = spin::Once::new();

/// Has `task` woken by every non-maskable interrupt. To be called once.
pub fn wake_by_non_maskable_interrupt(task: TaskHandle) {
    WOKEN.call_once(|| task);
}

/// A non-maskable interrupt: QEMU's `nmi` command sends one to every core, to see where it hangs.
pub fn non_maskable_interrupt(frame: &KernelTrapFrame) {
    let mode = if frame.cs & 3 == 0 { "in the kernel" } else { "in a program" };
    line!("\nkernel: non-maskable interrupt, {mode}");
    line!("on {Core}");
    registers(frame);
    backtrace(frame.rip, frame.rbp);
    if let Some(task) = WOKEN.get() {
        task.wake();
        // The core may be just about to halt, or in a program: an ordinary interrupt has it look at its tasks.
        apic::send(core_id(), apic::WAKE_VECTOR);
    }
}

/// A panic: the message, and where it came from.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    begin();
    line!("\nkernel {info}");
    line!("on {Core}");
    let (rip, rbp): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        core::arch::asm!("lea {}, [rip]", "mov {}, rbp", out(reg) rip, out(reg) rbp, options(nomem, nostack, preserves_flags));
    }
    backtrace(rip, rbp);
    exit::end(ExitCode::Panic)
}
