//! The serial console: a 16550 UART at COM1 (PC16550D data sheet), 115,200 baud, 8N1.
//!
//! Output is written straight to the transmit FIFO, waiting while it is full, so that a message is out before the
//! next instruction. Input comes by interrupt into a small ring, from which one task takes it. While the ring is full, input stays in the
//! UART, which QEMU then gives no more: nothing is lost.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use x86_64::instructions::port::Port;

use crate::sched::TaskHandle;
use crate::sync::SpinLock;

const BASE: u16 = 0x3f8;
/// Line of COM1 at the legacy interrupt controller, and so the I/O APIC's global interrupt unless ACPI overrides it.
pub const ISA_LINE: u8 = 4;

const INTERRUPT_ENABLE: u16 = 1;
/// When read.
const INTERRUPT_IDENTIFICATION: u16 = 2;
/// When written.
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const DATA_READY: u8 = 1 << 0;
/// The transmit FIFO is empty.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// So is the register behind it: the last byte has left.
const TRANSMITTER_IDLE: u8 = 1 << 6;
/// Interrupt for received bytes.
const RECEIVED: u8 = 1 << 0;
/// The bits of the interrupt's cause, and the one that says that the receive FIFO holds [`TRIGGER`] bytes.
const CAUSE: u8 = 0x0f;
const TRIGGER_REACHED: u8 = 0x04;
const TRIGGER: usize = 14;
const FIFO_DEPTH: usize = 16;

fn read(register: u16) -> u8 {
    // SAFETY: the eight ports from BASE on are the UART's; reading has no effect on memory.
    unsafe { Port::new(BASE + register).read() }
}

fn write(register: u16, value: u8) {
    // SAFETY: the eight ports from BASE on are the UART's, which this module owns.
    unsafe { Port::new(BASE + register).write(value) }
}

/// Who writes holds this, so that lines of two cores do not mix.
static OUTPUT: SpinLock<()> = SpinLock::new(());
static PRESENT: AtomicBool = AtomicBool::new(false);

/// Sets the UART up. Output works from here on.
pub fn init() {
    write(LINE_CONTROL, 0x80);
    write(0, 1);
    write(1, 0);
    write(LINE_CONTROL, 0x03);
    // FIFOs on and cleared; an interrupt for 14 bytes, or for fewer when none came for the time of four.
    write(FIFO_CONTROL, 0xc7);
    // DTR, RTS, and OUT2, which lets the interrupt through.
    write(MODEM_CONTROL, 0x0b);
    // A bus without a UART answers all ones.
    PRESENT.store(read(LINE_STATUS) != 0xff, Ordering::Relaxed);
}

/// Writes `bytes` as they are.
pub fn write_bytes(bytes: &[u8]) {
    let _guard = OUTPUT.lock();
    send(bytes);
}

fn send(bytes: &[u8]) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    for chunk in bytes.chunks(FIFO_DEPTH) {
        while read(LINE_STATUS) & TRANSMIT_EMPTY == 0 {
            core::hint::spin_loop();
        }
        chunk.iter().for_each(|&byte| write(0, byte));
    }
}

/// Waits until everything written has left the UART.
pub fn flush() {
    while PRESENT.load(Ordering::Relaxed) && read(LINE_STATUS) & TRANSMITTER_IDLE == 0 {
        core::hint::spin_loop();
    }
}

/// Writes formatted text for a person: each line end becomes CR LF.
pub fn print(text: fmt::Arguments<'_>) {
    let _guard = OUTPUT.lock();
    // Sending cannot fail.
    let _ = fmt::Write::write_fmt(&mut Cooked, text);
}

/// As [`print`], for a kernel that is about to end: another holder of the lock may never let go.
pub fn print_unlocked(text: fmt::Arguments<'_>) {
    let _ = fmt::Write::write_fmt(&mut Cooked, text);
}

struct Cooked;

impl fmt::Write for Cooked {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            send(&rest[..end]);
            send(b"\r\n");
            rest = &rest[end + 1..];
        }
        send(rest);
        Ok(())
    }
}

const RING: usize = 1024;
static INPUT: [AtomicU8; RING] = [const { AtomicU8::new(0) }; RING];
static INPUT_HEAD: AtomicUsize = AtomicUsize::new(0);
static INPUT_TAIL: AtomicUsize = AtomicUsize::new(0);
/// The ring was full, and the UART's interrupt is off.
static HELD: AtomicBool = AtomicBool::new(false);
static READER: spin::Once<TaskHandle> = spin::Once::new();

/// Turns input on; `reader` is woken when there is some.
pub fn enable_input(reader: TaskHandle) {
    READER.call_once(|| reader);
    write(INTERRUPT_ENABLE, RECEIVED);
    on_interrupt();
}

/// The UART's interrupt: moves what was received into the ring.
pub fn on_interrupt() {
    receive();
    if let Some(reader) = READER.get() {
        reader.wake();
    }
}

/// Moves what was received into the ring. What finds no room stays where it is, and its interrupt is off until [`next_byte`] has
/// emptied the ring.
fn receive() {
    let mut tail = INPUT_TAIL.load(Ordering::Relaxed);
    let head = INPUT_HEAD.load(Ordering::Acquire);
    // Each access is slow on a virtual machine: what is known to be there need not be asked for.
    let mut sure = if read(INTERRUPT_IDENTIFICATION) & CAUSE == TRIGGER_REACHED { TRIGGER } else { 0 };
    while sure > 0 || read(LINE_STATUS) & DATA_READY != 0 {
        if tail.wrapping_sub(head) == RING {
            write(INTERRUPT_ENABLE, 0);
            HELD.store(true, Ordering::Relaxed);
            break;
        }
        INPUT[tail % RING].store(read(0), Ordering::Relaxed);
        tail = tail.wrapping_add(1);
        sure = sure.saturating_sub(1);
    }
    INPUT_TAIL.store(tail, Ordering::Release);
}

/// The next byte of input. For the one task that reads, on the core that gets the interrupt: the kernel's code is not interrupted.
pub fn next_byte() -> Option<u8> {
    let head = INPUT_HEAD.load(Ordering::Relaxed);
    if head == INPUT_TAIL.load(Ordering::Acquire) && HELD.swap(false, Ordering::Relaxed) {
        write(INTERRUPT_ENABLE, RECEIVED);
        receive();
    }
    if head == INPUT_TAIL.load(Ordering::Acquire) {
        return None;
    }
    let byte = INPUT[head % RING].load(Ordering::Relaxed);
    INPUT_HEAD.store(head.wrapping_add(1), Ordering::Release);
    Some(byte)
}
