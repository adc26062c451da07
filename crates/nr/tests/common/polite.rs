//! How the tests wait.

use nr::Hooks;

/// Gives the processor up after a while, for hosts with fewer cores than the test has threads.
pub struct Polite;

impl Hooks for Polite {
    fn relax(&self, round: u32) {
        if round % 64 == 63 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}
