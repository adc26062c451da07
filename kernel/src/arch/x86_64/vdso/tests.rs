//! The image is loaded as a program's loader would, looked into by hand, and called.

use core::arch::x86_64::_rdtsc;
use std::collections::BTreeMap;

use super::*;
use crate::memory::PAGE_SIZE;

fn word(at: usize, bytes: usize) -> usize {
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(&image()[at..at + bytes]);
    u64::from_le_bytes(word) as usize
}

fn string(at: usize) -> &'static str {
    let end = image()[at..].iter().position(|&byte| byte == 0).unwrap();
    core::str::from_utf8(&image()[at..at + end]).unwrap()
}

/// The ELF hash (System V ABI, "Hash Table").
fn elf_hash(name: &str) -> usize {
    let step = |hash: u32, byte: u8| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    };
    name.bytes().fold(0, step) as usize
}

/// The dynamic section, found through the program headers.
fn dynamic() -> BTreeMap<usize, usize> {
    let headers = (0..word(56, 2)).map(|index| word(32, 8) + index * word(54, 2));
    let header = headers.clone().find(|&at| word(at, 4) == 2).expect("PT_DYNAMIC");
    let load = headers.clone().find(|&at| word(at, 4) == 1).expect("PT_LOAD");
    assert_eq!((word(load + 16, 8), word(load + 32, 8)), (0, image().len()));
    let (offset, size) = (word(header + 8, 8), word(header + 32, 8));
    (offset..offset + size).step_by(16).map(|at| (word(at, 8), word(at + 8, 8))).collect()
}

/// The value of `name` in version `LINUX_2.6`, found as a loader does: hash, chain, name, version.
fn symbol(name: &str) -> Option<usize> {
    let dynamic = dynamic();
    let [hash, names, symbols] = [4, 5, 6].map(|tag| dynamic[&tag]);
    let buckets = word(hash, 4);
    let chains = hash + 8 + 4 * buckets;
    let mut index = word(hash + 8 + 4 * (elf_hash(name) % buckets), 4);
    while index != 0 {
        let at = symbols + 24 * index;
        if string(names + word(at, 4)) == name {
            assert_eq!(version_name(word(dynamic[&0x6fff_fff0] + 2 * index, 2)), "LINUX_2.6");
            assert_ne!(word(at + 6, 2), 0, "defined");
            return Some(word(at + 8, 8));
        }
        index = word(chains + 4 * index, 4);
    }
    None
}

fn version_name(wanted: usize) -> &'static str {
    let dynamic = dynamic();
    let (mut at, names) = (dynamic[&0x6fff_fffc], dynamic[&5]);
    for _ in 0..dynamic[&0x6fff_fffd] {
        let name = string(names + word(at + word(at + 12, 4), 4));
        assert_eq!(word(at + 8, 4), elf_hash(name));
        if word(at + 4, 2) == wanted {
            return name;
        }
        at += word(at + 16, 4);
    }
    panic!("no version {wanted}");
}

/// The image in executable memory behind a data page.
struct Loaded(usize);

impl Loaded {
    fn new(parameters: Parameters) -> Self {
        // SAFETY: a fresh mapping, large enough for what is copied into it.
        unsafe {
            let memory = libc::mmap(
                core::ptr::null_mut(),
                2 * PAGE_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(memory, libc::MAP_FAILED);
            let data = memory.cast::<u8>();
            data.copy_from(parameters.to_bytes().as_ptr(), 32);
            data.add(PAGE_SIZE).copy_from(image().as_ptr(), image().len());
            assert_eq!(libc::mprotect(memory, 2 * PAGE_SIZE, libc::PROT_READ | libc::PROT_EXEC), 0);
            Self(data.addr() + PAGE_SIZE)
        }
    }

    fn call(&self, name: &str, one: usize, two: usize) -> i64 {
        type Function = extern "C" fn(usize, usize) -> i64;
        // SAFETY: the symbol is a function of at most two words (getcpu ignores the third), mapped executable.
        let function: Function = unsafe { core::mem::transmute(self.0 + symbol(name).unwrap()) };
        function(one, two)
    }

    fn clock(&self, clock: i32) -> u64 {
        let mut time = [0u64; 2];
        assert_eq!(self.call("__vdso_clock_gettime", clock as usize, time.as_mut_ptr().addr()), 0);
        assert!(time[1] < 1_000_000_000);
        time[0] * 1_000_000_000 + time[1]
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(core::ptr::without_provenance_mut(self.0 - PAGE_SIZE), 2 * PAGE_SIZE) };
    }
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { _rdtsc() }
}

const WALL: u64 = 1_700_000_000_123_456_789;

/// A clock of about a third of a nanosecond per tick, which began a while ago.
fn parameters() -> Parameters {
    let (base, multiplier) = (tsc() / 2, (1 << 32) / 3);
    Parameters { base, multiplier, wall_offset: WALL, core_in_tsc_aux: false }
}

impl Parameters {
    fn now(&self) -> u64 {
        ((u128::from(tsc() - self.base) * u128::from(self.multiplier)) >> 32) as u64
    }
}

fn host_clock(clock: i32) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is valid.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[test]
fn the_image_is_one_page_and_names_all_functions() {
    assert!(image().len() <= PAGE_SIZE && image().as_ptr().addr().is_multiple_of(PAGE_SIZE));
    assert_eq!(&image()[..7], b"\x7fELF\x02\x01\x01");
    assert_eq!((word(16, 2), word(18, 2)), (3, 62));
    for name in ["clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres"] {
        let strong = symbol(&format!("__vdso_{name}")).unwrap();
        assert!(strong < image().len() && strong.is_multiple_of(16));
        assert_eq!(symbol(name), Some(strong));
    }
    assert_eq!(symbol("__vdso_nothing"), None);
    assert_eq!(string(dynamic()[&5] + dynamic()[&14]), "linux-vdso.so.1");
}

#[test]
fn clocks_are_computed_from_the_tsc() {
    let parameters = parameters();
    let vdso = Loaded::new(parameters);
    for (clock, offset) in [(0, WALL), (1, 0), (4, 0), (5, WALL), (6, 0), (7, 0), (11, WALL)] {
        let before = parameters.now() + offset;
        let time = vdso.clock(clock);
        assert!((before..=parameters.now() + offset).contains(&time), "clock {clock}: {time}");
    }
}

#[test]
fn other_calls_agree_with_the_clock() {
    let parameters = parameters();
    let vdso = Loaded::new(parameters);
    let before = parameters.now() + WALL;
    let mut time = [0u64; 2];
    assert_eq!(vdso.call("__vdso_gettimeofday", time.as_mut_ptr().addr(), 0), 0);
    let microseconds = time[0] * 1_000_000 + time[1];
    assert!(
        time[1] < 1_000_000 && (before / 1000..=(parameters.now() + WALL) / 1000).contains(&microseconds)
    );
    let mut zone = [7u32; 2];
    assert_eq!(vdso.call("__vdso_gettimeofday", 0, zone.as_mut_ptr().addr()), 0);
    assert_eq!(zone, [0, 0]);
    let mut stored = 0u64;
    let seconds = vdso.call("__vdso_time", (&raw mut stored).addr(), 0) as u64;
    assert!(seconds == stored && (before / 1_000_000_000..=before / 1_000_000_000 + 60).contains(&seconds));
    assert!(vdso.call("__vdso_time", 0, 0) as u64 >= seconds);
    assert_eq!(vdso.call("__vdso_clock_getres", 1, time.as_mut_ptr().addr()), 0);
    assert_eq!(time, [0, 1]);
    assert_eq!(vdso.call("__vdso_clock_getres", 0, 0), 0);
}

#[test]
fn without_a_usable_tsc_the_system_call_answers() {
    let vdso = Loaded::new(Parameters::default());
    for clock in [0, 1, 2, 7] {
        let before = host_clock(clock);
        let time = vdso.clock(clock);
        assert!((before..=host_clock(clock)).contains(&time), "clock {clock}");
    }
    let mut seconds = 0u64;
    assert!(
        vdso.call("__vdso_time", (&raw mut seconds).addr(), 0) as u64 == seconds && seconds > 1_600_000_000
    );
    let mut time = [0u64; 2];
    assert_eq!(vdso.call("__vdso_gettimeofday", time.as_mut_ptr().addr(), 0), 0);
    assert!(time[0] >= seconds);
    let (mut core, mut node) = (u32::MAX, u32::MAX);
    assert_eq!(vdso.call("__vdso_getcpu", (&raw mut core).addr(), (&raw mut node).addr()), 0);
    assert!(core < 4096 && node < 64);
}

#[test]
fn clocks_that_it_does_not_know_go_to_the_kernel() {
    let vdso = Loaded::new(parameters());
    let before = host_clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    assert!(vdso.clock(libc::CLOCK_PROCESS_CPUTIME_ID) >= before);
    let mut time = [0u64; 2];
    for clock in [12, 13, 1000, i32::MAX] {
        assert_eq!(vdso.call("__vdso_clock_gettime", clock as usize, time.as_mut_ptr().addr()), -22);
    }
}

#[test]
fn the_core_comes_from_tsc_aux() {
    // The host's kernel keeps core and node there in the same way.
    let vdso = Loaded::new(Parameters { core_in_tsc_aux: true, ..parameters() });
    // SAFETY: the call has no preconditions.
    let host_core = || unsafe { libc::sched_getcpu() } as u32;
    let (mut core, mut node) = (u32::MAX, u32::MAX);
    let before = loop {
        let before = host_core();
        assert_eq!(vdso.call("__vdso_getcpu", (&raw mut core).addr(), (&raw mut node).addr()), 0);
        if host_core() == before {
            break before;
        }
    };
    assert!(core == before && node < 64);
    assert_eq!(vdso.call("__vdso_getcpu", 0, 0), 0);
}
