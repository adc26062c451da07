//! The kernel log: levels per module, the console, and a ring that keeps the last lines for dmesg (syslog(2)).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};

use crate::sync::{RwSpinLock, SpinLock};

/// Bytes of log that are kept.
const RING: usize = 64 << 10;

struct Logger {
    filter: RwSpinLock<Filter>,
    ring: SpinLock<Vec<u8>>,
}

static LOGGER: Logger = Logger { filter: RwSpinLock::new(Filter::new()), ring: SpinLock::new(Vec::new()) };

/// What is logged.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    default: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
}

impl Filter {
    const fn new() -> Self {
        Self { default: LevelFilter::Warn, modules: Vec::new() }
    }

    /// Reads `LEVEL[,MODULE=LEVEL...]`; what is malformed is returned.
    fn parse(text: &str) -> (Self, Vec<&str>) {
        let (mut filter, mut malformed) = (Self::new(), Vec::new());
        for part in text.split(',') {
            match part.split_once('=') {
                None => match part.parse() {
                    Ok(level) => filter.default = level,
                    Err(_) => malformed.push(part),
                },
                Some((module, level)) => match level.parse() {
                    Ok(level) => filter.modules.push((module.into(), level)),
                    Err(_) => malformed.push(part),
                },
            }
        }
        (filter, malformed)
    }

    fn level_of(&self, target: &str) -> LevelFilter {
        let module = short_target(target);
        let matches = |name: &str| {
            module.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.modules.iter().rev().find(|(name, _)| matches(name)).map_or(self.default, |(_, level)| *level)
    }

    fn highest(&self) -> LevelFilter {
        self.modules.iter().map(|(_, level)| *level).fold(self.default, |a, b| a.max(b))
    }
}

/// `nrk::net::tcp` is `net::tcp` to its users.
fn short_target(target: &str) -> &str {
    target.strip_prefix("nrk::").unwrap_or(target)
}

/// Starts logging by the filter `text` (the command line's `log=`).
pub fn init(text: Option<&str>) {
    let (filter, malformed) = Filter::parse(text.unwrap_or("warn"));
    log::set_max_level(filter.highest());
    *LOGGER.filter.write() = filter;
    // Fails only when called twice, which changes nothing.
    let _ = log::set_logger(&LOGGER);
    for part in malformed {
        log::warn!("log: `{part}` is not LEVEL or MODULE=LEVEL");
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.filter.read().level_of(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = crate::arch::now();
        let (seconds, micros) = (now / 1_000_000_000, now / 1000 % 1_000_000);
        let (level, target) = (record.level(), short_target(record.target()));
        let line = format_args!("[{seconds:4}.{micros:06}] {level:5} {target}: {}\n", record.args());
        crate::arch::console::print(line);
        keep(&mut self.ring.lock(), line);
    }

    fn flush(&self) {}
}

fn keep(ring: &mut Vec<u8>, line: fmt::Arguments<'_>) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl Write for Sink<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            if self.0.try_reserve(text.len()).is_ok() {
                self.0.extend_from_slice(text.as_bytes());
            }
            Ok(())
        }
    }
    // The sink does not fail.
    let _ = Sink(ring).write_fmt(line);
    if ring.len() > RING {
        let surplus = ring.len() - RING / 2;
        ring.drain(..surplus);
    }
}

/// Copies the kept log from `offset` on into `out`. Returns the number of bytes: for syslog(2).
pub fn read(offset: usize, out: &mut [u8]) -> usize {
    let ring = LOGGER.ring.lock();
    let rest = ring.get(offset..).unwrap_or(&[]);
    let len = rest.len().min(out.len());
    out[..len].copy_from_slice(&rest[..len]);
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_matching_module_decides() {
        let (filter, malformed) = Filter::parse("info,net=trace,net::tcp=error,fs=loud");
        assert_eq!(malformed, ["fs=loud"]);
        assert_eq!(filter.level_of("nrk::net::udp"), LevelFilter::Trace);
        assert_eq!(filter.level_of("nrk::net::tcp::socket"), LevelFilter::Error);
        assert_eq!(filter.level_of("nrk::network"), LevelFilter::Info);
        assert_eq!(filter.highest(), LevelFilter::Trace);
    }

    #[test]
    fn the_ring_keeps_the_end() {
        let mut ring = Vec::new();
        for n in 0..20_000 {
            keep(&mut ring, format_args!("line {n}\n"));
        }
        assert!(ring.len() <= RING);
        assert!(ring.ends_with(b"line 19999\n"));
    }
}
