//! Random numbers: ChaCha20, seeded by the processor and the boot loader, reseeded never (the seed is 256 bits).

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::percore::PerCore;
use crate::sync::SpinLock;

static GENERATORS: PerCore<SpinLock<Option<ChaCha20Rng>>> = crate::per_core!(SpinLock::new(None));

/// Fills `bytes` with cryptographically strong random bytes: `getrandom(2)`, `AT_RANDOM`, `/dev/urandom`.
pub fn fill(bytes: &mut [u8]) {
    let mut generator = GENERATORS.here().lock();
    generator.get_or_insert_with(|| ChaCha20Rng::from_seed(crate::arch::random_seed())).fill_bytes(bytes);
}

/// A random number.
pub fn next_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
