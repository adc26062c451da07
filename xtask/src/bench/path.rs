//! Path lengths: the instructions that system calls and what programs build on them take, from the program's side.
//!
//! QEMU's clock counts instructions (`-icount shift=0`), and the processor's random numbers follow from a seed, the number
//! of the round. So every round has figures of its own, the same on every run and on every machine: where memory is laid out by
//! chance, a fork copies more or fewer page tables, by a tenth of the whole. A REP instruction counts once per element, which
//! overstates copies and the clearing of pages. The program is `torture bench`, the same on both kernels.

use anyhow::{Context, Result};

use super::system::System;
use super::{Better, Row, Sample};

const fn row(name: &'static str) -> Row {
    Row { name, unit: "instructions", better: Better::Lower }
}

/// The figures, under the names that `torture bench` gives them.
pub const ROWS: [Row; 14] = [
    row("getpid"),
    row("clock_gettime_vdso"),
    row("clock_gettime_trap"),
    row("read_zero"),
    row("pipe_write_read"),
    row("epoll_wait_none"),
    row("futex_wake_none"),
    row("open_close"),
    row("mmap_munmap"),
    row("mmap_touch_munmap"),
    row("thread_switch_pipes"),
    row("thread_create_join"),
    row("fork_exit_wait"),
    row("vfork_exec_wait"),
];

/// The last line of the program.
const END: &str = "bench: ok";

/// Runs the program, with the seed of the round, and reads its table.
pub fn measure(system: &System, round: u32) -> Result<Vec<Sample>> {
    let lines = system.count_instructions(END, round)?;
    let sample = |row: &Row| {
        let value = ticks(&lines, row.name);
        Ok(Sample { row: row.name, value: value.with_context(|| format!("no {} in {lines:?}", row.name))? })
    };
    ROWS.iter().map(sample).collect()
}

/// The second column of the line of an operation.
fn ticks(lines: &[String], name: &str) -> Option<f64> {
    let mut columns = lines.iter().map(|line| line.split_whitespace());
    columns.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticks_are_the_second_column() {
        let lines = ["operation  ticks  ns", "getpid   232   231", "read_zero   703   702"].map(String::from);
        assert_eq!(ticks(&lines, "read_zero"), Some(703.0));
        assert_eq!(ticks(&lines, "fork_exit_wait"), None);
    }
}
