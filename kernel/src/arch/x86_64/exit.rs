//! The end: how the machine is switched off, and how it says why.
//!
//! Under QEMU the exit status travels as decimal text over the debug console (I/O port 0xe9), and the device isa-debug-exit
//! ends QEMU with status `2 * code + 1`. Where there is no such device, ACPI's S5 state is entered; failing that, the
//! core halts.

use x86_64::instructions::port::{Port, PortWriteOnly};

/// Why the kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitCode {
    /// The init program ended; its status is on the debug console. QEMU ends with 65.
    Ended = 0x20,
    /// The kernel panicked. QEMU ends with 67.
    Panic = 0x21,
    /// The kernel took an exception that it cannot explain. QEMU ends with 69.
    Exception = 0x22,
}

const DEBUG_CONSOLE: u16 = 0xe9;
const DEBUG_EXIT: u16 = 0xf4;
/// PM1a control block of QEMU's q35 and pc machines, where ACPI gives none that can be used.
const QEMU_PM1A_CONTROL: [u16; 2] = [0x604, 0xb004];
/// `SLP_EN` with the sleep type of S5 on those machines (zero).
const SLEEP_ENABLE: u16 = 1 << 13;

/// Reports `status` as the init program's and ends.
pub fn exit(status: u8) -> ! {
    write_debug_console(format_args!("{status}\n"));
    end(ExitCode::Ended)
}

/// Ends the machine.
pub fn end(code: ExitCode) -> ! {
    super::console::flush();
    // SAFETY: the port belongs to isa-debug-exit or to nothing.
    unsafe { PortWriteOnly::<u32>::new(DEBUG_EXIT).write(code as u32) };
    for port in QEMU_PM1A_CONTROL {
        // SAFETY: the kernel ends here; a write to a port without a device does nothing.
        unsafe { PortWriteOnly::<u16>::new(port).write(SLEEP_ENABLE) };
    }
    halt()
}

/// Stops this core for good.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

fn write_debug_console(text: core::fmt::Arguments<'_>) {
    struct DebugConsole(Port<u8>);
    impl core::fmt::Write for DebugConsole {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            // SAFETY: the port belongs to isa-debugcon or to nothing.
            text.bytes().for_each(|byte| unsafe { self.0.write(byte) });
            Ok(())
        }
    }
    // Writing to a port cannot fail.
    let _ = core::fmt::Write::write_fmt(&mut DebugConsole(Port::new(DEBUG_CONSOLE)), text);
}
