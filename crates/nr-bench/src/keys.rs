//! The keys that a thread asks for.

use crate::KEYS;

/// How keys are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    /// All alike.
    Uniform,
    /// The k-th most popular one in proportion to k^-0.99, as in YCSB (Cooper et al., SoCC 2010).
    Zipf,
}

/// Zipf keys are drawn from so many samples, made beforehand.
const SAMPLES: usize = 1 << 14;

/// An endless stream of keys and random numbers.
pub struct Keys {
    state: u64,
    samples: Option<Box<[u16]>>,
}

impl Keys {
    /// The stream of a thread.
    pub fn new(pattern: Pattern, thread: u64) -> Self {
        let mut keys = Self {
            state: 0x9e37_79b9_7f4a_7c15 ^ (thread + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9),
            samples: None,
        };
        if pattern == Pattern::Zipf {
            keys.samples = Some(keys.zipf());
        }
        keys
    }

    /// Samples of the Zipf distribution over all keys, the popular ones scattered.
    fn zipf(&mut self) -> Box<[u16]> {
        let weights = (1..=KEYS).map(|rank| (rank as f64).powf(-0.99));
        let sums: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let total = sums[sums.len() - 1];
        let sample = |_| {
            let point = (self.random() >> 11) as f64 / (1u64 << 53) as f64 * total;
            let rank = sums.partition_point(|&sum| sum < point) as u64;
            (rank * 7919 % KEYS) as u16
        };
        (0..SAMPLES).map(sample).collect()
    }

    /// xorshift64* (Vigna 2016).
    #[inline(always)]
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A key and a random number.
    #[inline(always)]
    pub fn next(&mut self) -> (u64, u64) {
        let random = self.random();
        let key = match &self.samples {
            None => ((random & 0xffff_ffff) * KEYS) >> 32,
            Some(samples) => samples[random as usize % SAMPLES].into(),
        };
        (key, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most_popular(pattern: Pattern) -> usize {
        let mut counts = vec![0; KEYS as usize];
        let mut keys = Keys::new(pattern, 0);
        (0..100_000).for_each(|_| counts[keys.next().0 as usize] += 1);
        counts.into_iter().max().unwrap()
    }

    #[test]
    fn uniform_keys_are_about_equally_popular_and_zipf_keys_are_not() {
        assert!(most_popular(Pattern::Uniform) < 40);
        assert!(most_popular(Pattern::Zipf) > 5_000);
    }
}
