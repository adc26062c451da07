//! The console: the terminal at the serial line, as /dev/console, /dev/ttyS0 and, for its session, /dev/tty.

use alloc::sync::Arc;

use spin::Once;

use super::Terminal;
use super::termios::WindowSize;
use crate::arch::console;
use crate::errno::Errno;
use crate::fs::{DeviceNumber, File, FileType, OpenFlags, special};
use crate::process;

static CONSOLE: Once<Arc<Terminal>> = Once::new();

const TTY_MAJOR: u32 = 5;
const SERIAL_MAJOR: u32 = 4;
const SERIAL_MINOR: u32 = 64;

/// The console.
pub fn terminal() -> &'static Arc<Terminal> {
    CONSOLE.call_once(|| {
        let size = WindowSize { rows: 24, columns: 80, ..WindowSize::default() };
        Terminal::new(DeviceNumber::new(TTY_MAJOR, 1), size, console::write_bytes)
    })
}

/// Makes the device nodes work; `size` is rows and columns, if they are known.
pub fn init(size: Option<(u16, u16)>) {
    if let Some((rows, columns)) = size {
        terminal().state.lock().size = WindowSize { rows, columns, ..WindowSize::default() };
    }
    let char_device = FileType::CharDevice;
    special::register_device(char_device, TTY_MAJOR, 1..2, open_console);
    special::register_device(char_device, SERIAL_MAJOR, SERIAL_MINOR..SERIAL_MINOR + 1, open_console);
    special::register_device(char_device, TTY_MAJOR, 0..1, open_controlling);
}

fn open_console(_device: DeviceNumber, _flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    Ok(terminal().clone())
}

/// /dev/tty: the terminal of the caller's session. `ENXIO` without one.
fn open_controlling(_device: DeviceNumber, _flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    let terminal = process::current().and_then(|thread| thread.process().terminal());
    Ok(terminal.ok_or(Errno::ENXIO)?)
}

/// Moves what is typed from the serial line to the terminal, for ever.
#[cfg(target_os = "none")]
pub async fn pump() {
    loop {
        while let Some(byte) = console::next_byte() {
            terminal().type_byte(byte);
        }
        crate::sched::wait_for_wake().await;
    }
}
