//! From QEMU's start to user space and to service.

use anyhow::Result;

use super::system::System;
use super::{Better, Row, Sample};

const PROGRAM: &str = "first line of redis-server";
const ANSWER: &str = "first PONG";

/// The figures.
pub const ROWS: [Row; 2] = [
    Row { name: PROGRAM, unit: "ms", better: Better::Lower },
    Row { name: ANSWER, unit: "ms", better: Better::Lower },
];

/// Starts a guest and takes the times.
pub fn measure(system: &System) -> Result<Vec<Sample>> {
    let running = system.start()?;
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    Ok(vec![
        Sample { row: PROGRAM, value: milliseconds(running.to_program) },
        Sample { row: ANSWER, value: milliseconds(running.to_answer) },
    ])
}
