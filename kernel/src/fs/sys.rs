//! sysfs, mounted on /sys: the few files of it that server programs and C libraries read.

use core::fmt::Write;

use super::machine;
use super::pseudo::{Kind, PseudoFs, Spec, Text};
use crate::errno::Errno;

/// `SYSFS_MAGIC` of statfs(2).
const MAGIC: u32 = 0x6265_6572;

/// A new sysfs.
pub fn new() -> PseudoFs {
    PseudoFs::new("sysfs", MAGIC, &ROOT)
}

const fn directory(name: &'static str, entries: &'static [Spec<()>]) -> Spec<()> {
    Spec { name, mode: 0o555, kind: Kind::Directory(entries) }
}

const fn text(name: &'static str, show: fn(&(), &mut Text) -> Result<(), Errno>) -> Spec<()> {
    Spec { name, mode: 0o444, kind: Kind::Text(show) }
}

static ROOT: Spec<()> = directory(
    "",
    &[
        directory("block", &[]),
        directory("bus", &[]),
        directory("class", &[directory("net", &[])]),
        directory(
            "devices",
            &[directory("system", &[directory("cpu", CPU), directory("node", NODE), CLOCK])],
        ),
        directory("fs", &[directory("cgroup", &[])]),
        directory("kernel", &[directory("mm", &[directory("transparent_hugepage", HUGE_PAGES)])]),
    ],
);

const CPU: &[Spec<()>] = &[
    text("online", cores),
    text("possible", cores),
    text("present", cores),
    text("offline", |_, text| text.push(b"\n")),
    text("kernel_max", |_, text| Ok(writeln!(text, "{}", crate::arch::MAX_CORES - 1)?)),
];

const NODE: &[Spec<()>] = &[text("online", one_node), text("possible", one_node)];

const CLOCK: Spec<()> = directory(
    "clocksource",
    &[directory("clocksource0", &[text("current_clocksource", clock), text("available_clocksource", clock)])],
);

/// Large pages are used where they cost nothing, whatever a program advises.
const HUGE_PAGES: &[Spec<()>] = &[
    text("enabled", |_, text| text.push(b"always [madvise] never\n")),
    text("defrag", |_, text| text.push(b"always defer defer+madvise [madvise] never\n")),
    text("hpage_pmd_size", |_, text| Ok(writeln!(text, "{}", crate::memory::LARGE_PAGE_SIZE)?)),
];

fn cores(_: &(), text: &mut Text) -> Result<(), Errno> {
    let last = machine::get().cores - 1;
    Ok(if last == 0 { writeln!(text, "0") } else { writeln!(text, "0-{last}") }?)
}

fn one_node(_: &(), text: &mut Text) -> Result<(), Errno> {
    text.push(b"0\n")
}

fn clock(_: &(), text: &mut Text) -> Result<(), Errno> {
    text.push(b"tsc\n")
}
