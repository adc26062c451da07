//! The line discipline: what typed characters become (termios(3), "Canonical and noncanonical mode").
//!
//! Pure bookkeeping: input bytes go in, echo comes out, and what a read gets collects in between. Who gets signals and how
//! bytes travel is the terminal's business.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::termios::{Input, Local, Output, Termios, control};
use crate::uaccess::ReadBuf;

/// Bytes that a terminal holds for its readers, and the longest line (`N_TTY_BUF_SIZE`).
const CAPACITY: usize = 4096;

/// A signal that a control character asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlSignal {
    /// `SIGINT`.
    Interrupt,
    /// `SIGQUIT`.
    Quit,
    /// `SIGTSTP`.
    Suspend,
}

/// The state between the keyboard and the readers.
#[derive(Default)]
pub struct Discipline {
    /// What readers get. In canonical mode: complete lines.
    ready: VecDeque<u8>,
    /// Lengths of the lines in `ready`, in canonical mode; an end of file is a line of none.
    lines: VecDeque<usize>,
    /// The line being edited.
    line: Vec<u8>,
    /// LNEXT was typed: the next character stands for itself.
    literal: bool,
    /// STOP was typed: output waits.
    stopped: bool,
}

/// Where echo goes.
pub type Echo<'a> = &'a mut dyn FnMut(&[u8]);

impl Discipline {
    /// Takes a byte from the keyboard. Returns the signal that it means, if it does.
    pub fn input(&mut self, byte: u8, termios: &Termios, echo: Echo<'_>) -> Option<ControlSignal> {
        let (input, local) = (termios.input(), termios.local());
        let byte = if input.contains(Input::ISTRIP) { byte & 0x7f } else { byte };
        if core::mem::take(&mut self.literal) {
            self.accept(byte, termios, echo);
            return None;
        }
        let byte = match byte {
            b'\r' if input.contains(Input::IGNCR) => return None,
            b'\r' if input.contains(Input::ICRNL) => b'\n',
            b'\n' if input.contains(Input::INLCR) => b'\r',
            other => other,
        };
        if self.flow_control(byte, termios) {
            return None;
        }
        if local.contains(Local::ISIG)
            && let Some(signal) = signal_of(byte, termios)
        {
            if !local.contains(Local::NOFLSH) {
                self.flush();
            }
            echo_byte(byte, local, echo);
            return Some(signal);
        }
        if local.contains(Local::ICANON) {
            self.edit(byte, termios, echo)
        } else {
            self.accept(byte, termios, echo)
        }
        None
    }

    /// STOP and START. Returns whether `byte` was one.
    fn flow_control(&mut self, byte: u8, termios: &Termios) -> bool {
        let input = termios.input();
        if !input.contains(Input::IXON) {
            self.stopped = false;
            return false;
        }
        let (stop, start) = (termios.is(byte, control::VSTOP), termios.is(byte, control::VSTART));
        if stop {
            self.stopped = true;
        } else if start || input.contains(Input::IXANY) {
            self.stopped = false;
        }
        stop || start
    }

    /// Canonical mode.
    fn edit(&mut self, byte: u8, termios: &Termios, echo: Echo<'_>) {
        let (is, local) = (|index| termios.is(byte, index), termios.local());
        let extended = local.contains(Local::IEXTEN);
        if is(control::VERASE) {
            self.erase(termios, echo);
        } else if extended && is(control::VWERASE) {
            self.erase_word(termios, echo);
        } else if is(control::VKILL) {
            self.kill(termios, echo);
        } else if extended && is(control::VLNEXT) {
            self.literal = true;
            if local.contains(Local::ECHO | Local::ECHOCTL) {
                echo(b"^\x08");
            }
        } else if extended && is(control::VREPRINT) {
            self.reprint(local, echo);
        } else if is(control::VEOF) {
            self.finish_line();
        } else if byte == b'\n' || is(control::VEOL) || (extended && is(control::VEOL2)) {
            if local.contains(Local::ECHO) || (byte == b'\n' && local.contains(Local::ECHONL)) {
                echo(if byte == b'\n' { b"\n" } else { core::slice::from_ref(&byte) });
            }
            self.line.push(byte);
            self.finish_line();
        } else {
            self.accept(byte, termios, echo);
        }
    }

    /// A byte that means itself. One that finds no room is lost, with a bell.
    fn accept(&mut self, byte: u8, termios: &Termios, echo: Echo<'_>) {
        // The last place is for the end of the line.
        if self.line.len() + self.ready.len() >= CAPACITY - 1 {
            return echo(b"\x07");
        }
        if termios.local().contains(Local::ICANON) {
            self.line.push(byte)
        } else {
            self.ready.push_back(byte)
        }
        echo_byte(byte, termios.local(), echo);
    }

    fn finish_line(&mut self) {
        self.lines.push_back(self.line.len());
        self.ready.extend(self.line.drain(..));
    }

    /// Takes the last character off the line. Returns the columns it had on the screen, `None` if there was none.
    fn pop(&mut self, termios: &Termios) -> Option<usize> {
        let mut last = self.line.pop()?;
        while termios.input().contains(Input::IUTF8) && last & 0xc0 == 0x80 && !self.line.is_empty() {
            last = self.line.pop()?;
        }
        let shown_as_two = last.is_ascii_control() && termios.local().contains(Local::ECHOCTL);
        Some(if shown_as_two { 2 } else { 1 })
    }

    fn erase(&mut self, termios: &Termios, echo: Echo<'_>) {
        let Some(columns) = self.pop(termios) else { return };
        if termios.local().contains(Local::ECHO | Local::ECHOE) {
            (0..columns).for_each(|_| echo(b"\x08 \x08"));
        } else if termios.local().contains(Local::ECHO) {
            echo(&[termios.control[control::VERASE]]);
        }
    }

    fn erase_word(&mut self, termios: &Termios, echo: Echo<'_>) {
        let is_word =
            |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80);
        while !self.line.is_empty() && !is_word(self.line.last()) {
            self.erase(termios, echo);
        }
        while is_word(self.line.last()) {
            self.erase(termios, echo);
        }
    }

    fn kill(&mut self, termios: &Termios, echo: Echo<'_>) {
        let local = termios.local();
        if local.contains(Local::ECHO | Local::ECHOE | Local::ECHOKE) {
            while !self.line.is_empty() {
                self.erase(termios, echo);
            }
            return;
        }
        self.line.clear();
        echo_byte(termios.control[control::VKILL], local, echo);
        if local.contains(Local::ECHOK) {
            echo(b"\n");
        }
    }

    fn reprint(&mut self, local: Local, echo: Echo<'_>) {
        echo_byte(18, local, echo);
        echo(b"\n");
        for &byte in &self.line {
            echo_byte(byte, local, echo);
        }
    }

    /// Drops all input that nobody has read.
    pub fn flush(&mut self) {
        self.ready.clear();
        self.lines.clear();
        self.line.clear();
    }

    /// The settings changed between canonical and raw mode: what was typed so far stays readable.
    pub fn mode_changed(&mut self, canonical: bool) {
        self.ready.extend(self.line.drain(..));
        self.lines.clear();
        if canonical && !self.ready.is_empty() {
            self.lines.push_back(self.ready.len());
        }
    }

    /// Whether output waits.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Bytes that a read would get now; `None` if it would get nothing, not even an end of file.
    pub fn available(&self, termios: &Termios) -> Option<usize> {
        if termios.local().contains(Local::ICANON) {
            return self.lines.front().copied();
        }
        let least = usize::from(termios.control[control::VMIN]).max(1);
        (self.ready.len() >= least.min(CAPACITY - 1)).then_some(self.ready.len())
    }

    /// Gives input to a reader: at most one line in canonical mode. Returns the number of bytes; 0 is an end of file in
    /// canonical mode. To be called when [`available`](Self::available) says so.
    pub fn read(&mut self, termios: &Termios, buf: &mut ReadBuf<'_>) -> usize {
        let canonical = termios.local().contains(Local::ICANON);
        let limit = if canonical { self.lines.front().copied().unwrap_or(0) } else { self.ready.len() };
        let wanted = limit.min(buf.remaining());
        let (first, second) = self.ready.as_slices();
        let first = &first[..first.len().min(wanted)];
        let mut moved = buf.push(first);
        if moved == first.len() {
            moved += buf.push(&second[..wanted - moved]);
        }
        self.ready.drain(..moved);
        if canonical {
            match self.lines.front_mut() {
                Some(left) if *left > moved => *left -= moved,
                _ => drop(self.lines.pop_front()),
            }
        }
        moved
    }
}

fn signal_of(byte: u8, termios: &Termios) -> Option<ControlSignal> {
    if termios.is(byte, control::VINTR) {
        Some(ControlSignal::Interrupt)
    } else if termios.is(byte, control::VQUIT) {
        Some(ControlSignal::Quit)
    } else if termios.is(byte, control::VSUSP) {
        Some(ControlSignal::Suspend)
    } else {
        None
    }
}

/// Echoes `byte`: control characters but tab and new line as `^X`.
fn echo_byte(byte: u8, local: Local, echo: Echo<'_>) {
    if !local.contains(Local::ECHO) {
        return;
    }
    if byte.is_ascii_control() && byte != b'\t' && byte != b'\n' && local.contains(Local::ECHOCTL) {
        echo(&[b'^', byte ^ 0x40]);
    } else {
        echo(&[byte]);
    }
}

/// What the bytes of a program become on the way to the screen: `write` gets them in pieces.
pub fn process_output(data: &[u8], output: Output, mut write: impl FnMut(&[u8])) {
    if !output.contains(Output::OPOST) {
        return write(data);
    }
    let mut start = 0;
    for (index, &byte) in data.iter().enumerate() {
        let replacement: &[u8] = match byte {
            b'\n' if output.contains(Output::ONLCR) => b"\r\n",
            b'\r' if output.contains(Output::OCRNL) => b"\n",
            _ => continue,
        };
        write(&data[start..index]);
        write(replacement);
        start = index + 1;
    }
    write(&data[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Screen {
        discipline: Discipline,
        termios: Termios,
        echoed: Vec<u8>,
    }

    impl Screen {
        fn new() -> Self {
            Self { discipline: Discipline::default(), termios: Termios::default(), echoed: Vec::new() }
        }

        fn kind(&mut self, text: &[u8]) -> Vec<ControlSignal> {
            let echoed = &mut self.echoed;
            let mut echo = |bytes: &[u8]| echoed.extend_from_slice(bytes);
            text.iter().filter_map(|&byte| self.discipline.input(byte, &self.termios, &mut echo)).collect()
        }

        fn read(&mut self, len: usize) -> Option<Vec<u8>> {
            self.discipline.available(&self.termios)?;
            let mut bytes = vec![0; len];
            let got = self.discipline.read(&self.termios, &mut ReadBuf::kernel(&mut bytes));
            bytes.truncate(got);
            Some(bytes)
        }
    }

    #[test]
    fn lines_are_edited_and_read_one_by_one() {
        let mut screen = Screen::new();
        screen.kind(b"helk\x7flo\rtwo");
        assert_eq!(screen.echoed, b"helk\x08 \x08lo\ntwo");
        assert_eq!(screen.read(3), Some(b"hel".to_vec()));
        assert_eq!(screen.read(100), Some(b"lo\n".to_vec()));
        assert_eq!(screen.read(100), None);
        screen.kind(b"\x17\x15one\n");
        assert_eq!(screen.read(100), Some(b"one\n".to_vec()));
    }

    #[test]
    fn an_end_of_file_is_an_empty_line_or_ends_one() {
        let mut screen = Screen::new();
        screen.kind(b"\x04");
        assert_eq!(screen.read(10), Some(vec![]));
        screen.kind(b"ab\x04");
        assert_eq!(screen.read(10), Some(b"ab".to_vec()));
        assert_eq!(screen.read(10), None);
    }

    #[test]
    fn control_characters_send_signals_and_flush() {
        let mut screen = Screen::new();
        assert_eq!(screen.kind(b"abc\x03"), [ControlSignal::Interrupt]);
        assert_eq!(screen.kind(b"\x1a\x1c"), [ControlSignal::Suspend, ControlSignal::Quit]);
        assert_eq!(screen.echoed, b"abc^C^Z^\\");
        screen.kind(b"x\n");
        assert_eq!(screen.read(10), Some(b"x\n".to_vec()));
        assert_eq!(screen.kind(b"\x16\x03\n"), []);
        assert_eq!(screen.read(10), Some(b"\x03\n".to_vec()));
    }

    #[test]
    fn raw_mode_gives_every_byte_at_once() {
        let mut screen = Screen::new();
        screen.termios = screen.termios.without(Local::ICANON | Local::ECHO | Local::ISIG);
        assert_eq!(screen.kind(b"\x03\x7f\x04"), []);
        assert_eq!(screen.read(2), Some(b"\x03\x7f".to_vec()));
        assert_eq!(screen.read(2), Some(b"\x04".to_vec()));
        assert!(screen.echoed.is_empty());
        screen.termios.control[control::VMIN] = 3;
        screen.kind(b"ab");
        assert_eq!(screen.read(10), None);
    }

    #[test]
    fn erasing_takes_a_whole_utf8_character_or_a_shown_control() {
        let mut screen = Screen::new();
        screen.kind("a\u{16}\u{1}".as_bytes());
        screen.echoed.clear();
        screen.kind(b"\x7f");
        assert_eq!(screen.echoed, b"\x08 \x08\x08 \x08");
    }

    #[test]
    fn stop_and_start_hold_the_output() {
        let mut screen = Screen::new();
        screen.kind(b"\x13");
        assert!(screen.discipline.is_stopped());
        screen.kind(b"\x11a\n");
        assert!(!screen.discipline.is_stopped());
        assert_eq!(screen.read(10), Some(b"a\n".to_vec()));
    }

    #[test]
    fn output_gets_carriage_returns() {
        let mut out = Vec::new();
        process_output(b"a\nb\n\n", Termios::default().output(), |piece| out.extend_from_slice(piece));
        assert_eq!(out, b"a\r\nb\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_input_is_bounded_and_readable(text: Vec<u8>, raw: bool) {
            let mut screen = Screen::new();
            if raw {
                screen.termios = screen.termios.without(Local::ICANON);
            }
            for _ in 0..40 {
                screen.kind(&text);
            }
            screen.kind(b"\x11\n");
            prop_assert!(screen.discipline.ready.len() + screen.discipline.line.len() <= CAPACITY + 40);
            while screen.read(77).is_some() {}
            prop_assert_eq!(screen.discipline.ready.len(), 0);
        }
    }
}
