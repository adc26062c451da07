//! How late a process that sleeps is served, beside whatever others do.

use std::thread::sleep;
use std::time::{Duration, Instant};

use user_sys::{must, sys};

use crate::Verdict;

/// Naps of the sleeper, and how long each is.
const NAPS: usize = 20;
pub const NAP: Duration = Duration::from_millis(1);
/// Within which time half of the naps end, and all: a nap and a slice of one of the others.
const MEDIAN: Duration = Duration::from_millis(2);
pub const LONGEST: Duration = Duration::from_millis(5);

/// The user for whom the others run, where this process is root.
const NOBODY: i32 = 65534;

/// How long naps take, one after the other.
pub fn take() -> Vec<Duration> {
    let nap = |_| {
        let start = Instant::now();
        sleep(NAP);
        start.elapsed()
    };
    (0..NAPS).map(nap).collect()
}

/// Tells how long `naps` took `beside` others, and whether that is in time; the first may take as long as `first_limit`.
pub fn judge(test: &str, beside: &str, naps: &[Duration], first_limit: Duration) -> Verdict {
    let first = naps[0];
    let mut others = naps[1..].to_vec();
    others.sort();
    let (median, longest) = (others[others.len() / 2], others[others.len() - 1]);
    println!(
        "{test}: beside {beside} the first nap of {NAP:?} takes {first:?}, another {median:?}, at most {longest:?}"
    );
    let in_time = median <= MEDIAN && longest <= LONGEST && first <= first_limit;
    if in_time { Ok(()) } else { Err(format!("a nap took {median:?}, one {longest:?}, the first {first:?}")) }
}

/// Root's processes become those of a user who may do nothing special.
pub fn become_nobody() {
    if sys!(geteuid) == Ok(0) {
        must(sys!(setresuid, NOBODY, NOBODY, NOBODY));
    }
}
