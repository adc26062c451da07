//! Places in rings.
//!
//! Whoever fills a ring marks each entry with the generation of the present round. Whoever empties it finds an
//! entry filled when its mark is that of the round that he is in. Memory starts as zeroes, so the first generation is one.

/// A place in a ring of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    index: usize,
    size: usize,
    generation: bool,
}

impl Cursor {
    /// The first place of a ring of `size` entries.
    pub fn new(size: usize) -> Self {
        Self { index: 0, size, generation: true }
    }

    /// The entry's number.
    pub fn index(self) -> usize {
        self.index
    }

    /// The mark of a filled entry, in this round.
    pub fn generation(self) -> bool {
        self.generation
    }

    /// Goes on by one entry.
    pub fn advance(&mut self) {
        self.index += 1;
        if self.index == self.size {
            self.index = 0;
            self.generation = !self.generation;
        }
    }

    /// How many entries `index` is ahead; `None` when there is no such entry.
    pub fn distance_to(self, index: usize) -> Option<usize> {
        (index < self.size).then(|| (index + self.size - self.index) % self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_flips_with_every_round() {
        let mut cursor = Cursor::new(3);
        let mut seen = alloc::vec::Vec::new();
        for _ in 0..7 {
            seen.push((cursor.index(), cursor.generation()));
            cursor.advance();
        }
        let (one, two) = (true, false);
        assert_eq!(seen, [(0, one), (1, one), (2, one), (0, two), (1, two), (2, two), (0, one)]);
    }

    #[test]
    fn distances_go_around_the_ring() {
        let mut cursor = Cursor::new(4);
        (0..3).for_each(|_| cursor.advance());
        assert_eq!([3, 0, 2, 4].map(|index| cursor.distance_to(index)), [Some(0), Some(1), Some(3), None]);
    }
}
