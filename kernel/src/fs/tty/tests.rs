//! A terminal as those who wait for it see it.

use alloc::sync::Arc;

use super::termios::{Local, Termios, WindowSize, control};
use super::{Terminal, ioctl};
use crate::errno::Errno;
use crate::fs::{DeviceNumber, File};
use crate::sched::Events;
use crate::sched::fixture::Waiter;
use crate::uaccess::{ReadBuf, WriteBuf};

fn terminal() -> Arc<Terminal> {
    Terminal::new(DeviceNumber::new(4, 64), WindowSize::default(), |_| ())
}

fn waiter(terminal: &Terminal, events: Events) -> Waiter<'_> {
    Waiter::new(terminal.wait_queue().unwrap(), events)
}

fn read(terminal: &Terminal) -> Result<usize, Errno> {
    terminal.read(0, &mut ReadBuf::kernel(&mut [0; 16]))
}

/// Bytes as they come, and a read gives up after `tenths` of a second.
fn raw(tenths: u8) -> Termios {
    let mut termios = Termios::default().without(Local::ICANON);
    (termios.control[control::VMIN], termios.control[control::VTIME]) = (0, tenths);
    termios
}

#[test]
fn typing_wakes_readers_and_releasing_the_output_wakes_writers() {
    let terminal = terminal();
    let (readable, writable) = (waiter(&terminal, Events::IN), waiter(&terminal, Events::OUT));
    b"a\n".iter().for_each(|&byte| terminal.type_byte(byte));
    assert!(readable.was_woken());
    assert_eq!(read(&terminal), Ok(2));
    let [stop, start] = [control::VSTOP, control::VSTART].map(|index| Termios::default().control[index]);
    terminal.type_byte(stop);
    assert_eq!(terminal.write(0, &mut WriteBuf::kernel(b"x")), Err(Errno::EAGAIN));
    writable.was_woken();
    terminal.type_byte(start);
    assert!(writable.was_woken());
    assert_eq!(terminal.write(0, &mut WriteBuf::kernel(b"x")), Ok(1));
}

#[test]
fn other_settings_wake_readers_for_whom_a_begun_line_is_input_now() {
    let terminal = terminal();
    let readable = waiter(&terminal, Events::IN);
    terminal.type_byte(b'a');
    readable.was_woken();
    assert_eq!(read(&terminal), Err(Errno::EAGAIN));
    ioctl::set_termios(&terminal, raw(0), false);
    assert!(readable.was_woken());
    assert_eq!(read(&terminal), Ok(1));
}

#[test]
fn a_read_with_a_time_limit_is_woken_by_it() {
    let terminal = terminal();
    ioctl::set_termios(&terminal, raw(1), false);
    let readable = waiter(&terminal, Events::IN);
    assert_eq!(read(&terminal), Err(Errno::EAGAIN));
    while !readable.was_woken() {
        crate::sched::run_until_idle();
    }
    assert_eq!(read(&terminal), Ok(0));
}
