//! The kernel-side mains of the integration tests; `test=NAME` on the command line selects one.
//!
//! A main that passes prints `NAME: ok` and ends with status 0; a panic or fault says what is wrong. To add a test, add a line to
//! [`MAINS`] and write its host side in `kernel/tests/`.

mod network;

use alloc::vec::Vec;
use core::time::Duration;

use crate::arch;
use crate::arch::faults;
use crate::memory::PAGE_SIZE;
use crate::sched::timer::sleep_until;
use crate::{Machine, memory, println};

/// A test that runs with all of the kernel at hand.
type Main = fn(&'static Machine);

/// Tests of faults before there is memory, by name.
static EARLY_MAINS: &[(&str, fn())] =
    &[("s00_pfault_early", || s00_pfault_early()), ("s00_gpfault_early", || s00_gpfault_early())];

static MAINS: &[(&str, Main)] = &[
    ("s00_exit", |_| s00_exit()),
    ("s01_pfault", |_| s01_pfault()),
    ("s01_gpfault", |_| s01_gpfault()),
    ("s01_panic", |_| s01_panic()),
    ("s01_double_fault", |_| faults::overflow_stack()),
    ("s01_alloc", |_| s01_alloc()),
    ("s01_time", |_| s01_time()),
    ("s01_timer", |_| s01_timer()),
    ("s02_acpi_smoke", s02_acpi_smoke),
    ("s03_virtio_smoltcp", network::serve_reversed_lines),
    ("s03_e1000_smoltcp", network::serve_reversed_lines),
    ("s03_vmxnet3_smoltcp", network::serve_reversed_lines),
];

/// An address in the user half at which nothing is mapped.
const UNMAPPED: u64 = 0x4000_dead_beef;

/// Runs the early test that the raw command line selects, if it does.
pub fn run_early(command_line: &[u8]) {
    let words = command_line.split(|byte| byte.is_ascii_whitespace());
    let Some(name) = words.filter_map(|word| word.strip_prefix(b"test=")).next() else { return };
    if let Some((_, main)) = EARLY_MAINS.iter().find(|(known, _)| known.as_bytes() == name) {
        main();
    }
}

/// Runs the test `name`; ends the machine.
pub fn run(name: &str, machine: &'static Machine) -> ! {
    let Some((name, main)) = MAINS.iter().find(|(known, _)| *known == name) else {
        println!("kernel: there is no test `{name}`");
        arch::exit(127);
    };
    main(machine);
    println!("{name}: ok");
    arch::exit(0)
}

// Each fault has a frame of its own, by whose name and line the backtrace is checked; the number keeps equal functions apart.

#[inline(never)]
fn s00_pfault_early() {
    core::hint::black_box(0);
    faults::read(UNMAPPED);
}

#[inline(never)]
fn s00_gpfault_early() {
    core::hint::black_box(1);
    faults::general_protection();
}

#[inline(never)]
fn s01_pfault() {
    core::hint::black_box(2);
    faults::read(UNMAPPED);
}

#[inline(never)]
fn s01_gpfault() {
    core::hint::black_box(3);
    faults::general_protection();
}

/// A report names both ends of what was inlined.
#[inline(never)]
fn s01_panic() {
    fail_inlined();
}

#[inline(always)]
fn fail_inlined() {
    panic!("on purpose");
}

/// The exit status of the kernel arrives at the host.
fn s00_exit() {
    println!("s00_exit: ok");
    arch::exit(9);
}

/// Allocations of every size are distinct, keep their content, and give their memory back.
fn s01_alloc() {
    let free = || memory::statistics().free;
    let round = || {
        let mut blocks: Vec<Vec<u8>> =
            (0..2000usize).map(|n| alloc::vec![n as u8; 1 + n * 37 % 20_000]).collect();
        for (n, block) in blocks.iter().enumerate() {
            assert!(block.iter().all(|&byte| byte == n as u8), "block {n} was overwritten");
        }
        let mut keep = false;
        blocks.retain(|_| {
            keep = !keep;
            keep
        });
        let large = alloc::vec![7u8; 8 << 20];
        assert!(large.iter().step_by(PAGE_SIZE).all(|&byte| byte == 7));
    };
    const ROUNDS: u64 = 20;
    // The first rounds fill the caches, whose content then varies a little; a leak would grow with the rounds.
    (0..3).for_each(|_| round());
    let before = free();
    (0..ROUNDS).for_each(|_| round());
    let lost = before.saturating_sub(free());
    assert!(lost < ROUNDS / 2, "{lost} frames are gone after {ROUNDS} rounds");
}

/// Time goes on, and at the rate of an independent clock.
fn s01_time() {
    let mut last = arch::now();
    for _ in 0..100_000 {
        let now = arch::now();
        assert!(now >= last, "time went back from {last} to {now}");
        last = now;
    }
    let wall = arch::now() + arch::wall_clock_offset();
    const YEAR_2020: u64 = 1_577_836_800_000_000_000;
    assert!(wall > YEAR_2020, "the date is {wall} ns after the epoch");
    let (reference, ours) = arch::clock::compare(Duration::from_millis(200));
    let error = ours.abs_diff(reference);
    assert!(error < reference / 100, "{ours} ns by our clock are {reference} ns by the timer");
}

/// Timers fire in order, not early, and an idle core is woken by them.
fn s01_timer() {
    use alloc::sync::Arc;
    let order = Arc::new(crate::sync::SpinLock::new(Vec::new()));
    let start = arch::now();
    for milliseconds in [30u64, 10, 20] {
        let order = order.clone();
        crate::sched::spawn(arch::core_id(), crate::sched::Priority::Normal, async move {
            let deadline = start + milliseconds * 1_000_000;
            sleep_until(deadline).await;
            assert!(arch::now() >= deadline, "the timer of {milliseconds} ms was early");
            order.lock().push(milliseconds);
        });
    }
    loop {
        crate::sched::run_until_idle();
        if order.lock().len() == 3 {
            break;
        }
        crate::sched::timer::arm();
        arch::wait_for_interrupt();
    }
    assert_eq!(*order.lock(), [10, 20, 30]);
}

/// The firmware's tables were found and make sense.
fn s02_acpi_smoke(machine: &Machine) {
    let tables = &machine.tables;
    assert!(!tables.cores.is_empty(), "no core in the MADT");
    assert!(!tables.io_apics.is_empty(), "no I/O APIC in the MADT");
    assert!(tables.hpet.is_some(), "no HPET");
    assert!(tables.pci_config.is_some(), "no PCI configuration window");
    println!("cores: {}, nodes with memory: {}", tables.cores.len(), tables.memory.len());
}
