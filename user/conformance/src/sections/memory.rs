//! Address space: mmap(2), munmap(2), mprotect(2), mremap(2), madvise(2), brk(2), msync(2).

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::{
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED,
    MREMAP_FIXED, MREMAP_MAYMOVE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, SIGBUS, SIGSEGV, siginfo_t,
};
use user_sys::child::{exit_now, in_child};
use user_sys::map::{mmap, peek, poke};
use user_sys::{Child, Ended, Handler, Map, PAGE, Res, must, sys};

use crate::fixture::{file_with, pipe, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("memory":
    anonymous, anonymous_errors, fixed, hints, unmap_holes, unmap_errors, protect, protect_parts,
    protect_errors, fault_details, none, remap, remap_in_place, remap_errors, dont_need, advise, brk,
    brk_limit, resident, large_and_lazy, execute, stack_grows, copy_on_write, overlap_replaces, limit,
    locks, kernel_writes, large_range, killed_while_paging_in,
);

pub const READ_WRITE: i32 = PROT_READ | PROT_WRITE;

pub const PRIVATE: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

/// Fresh private pages without special neighbours.
#[track_caller]
pub fn fresh(pages: usize) -> usize {
    match mmap(0, pages * PAGE, READ_WRITE, PRIVATE, -1, 0) {
        Ok(address) => address,
        Err(errno) => panic!("mmap: {}", user_sys::errno_name(errno)),
    }
}

/// What became of a child that reads a byte there.
pub fn read_at(address: usize) -> String {
    describe(address, || i32::from(peek(address)))
}

/// What became of a child that writes a byte there.
pub fn write_at(address: usize) -> String {
    describe(address, || {
        poke(address, 1);
        0
    })
}

static EXPECTED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn report(signal: i32, info: *mut siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passed it, for a fault.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let right = address == EXPECTED.load(SeqCst);
    exit_now(200 + i32::from(signal == SIGBUS) * 20 + i32::from(right) * 10 + code.clamp(0, 9));
}

/// Runs `access` in a child: `ok VALUE`, or the signal with its code, and whether the address was right.
pub fn describe(address: usize, access: impl FnOnce() -> i32) -> String {
    let ended = in_child(|| {
        EXPECTED.store(address, SeqCst);
        for signal in [SIGSEGV, SIGBUS] {
            must(Handler::install_function(signal, report as *const () as usize, libc::SA_SIGINFO, &[]));
        }
        access()
    });
    match ended {
        Ended::Exited(code @ 200..=239) => {
            let name = if code >= 220 { "SIGBUS" } else { "SIGSEGV" };
            let address = if code / 10 % 2 == 1 { "right address" } else { "wrong address" };
            format!("{name} code {} {address}", code % 10)
        }
        Ended::Exited(value) => format!("ok {value}"),
        other => other.to_string(),
    }
}

fn anonymous(t: Transcript) {
    let at = fresh(3);
    t.say("aligned", at % PAGE);
    t.say("zero", (0..3 * PAGE).all(|offset| peek(at + offset) == 0));
    poke(at + 2 * PAGE, 7);
    t.say("keeps what is written", peek(at + 2 * PAGE));
    t.say("length is rounded up", {
        let at = must_map(mmap(0, 1, READ_WRITE, PRIVATE, -1, 0));
        poke(at + PAGE - 1, 1);
        peek(at + PAGE - 1)
    });
    t.say("unmap", ok(sys!(munmap, at, 3 * PAGE)));
    t.say("then", read_at(at));
    t.say("fd and offset are ignored", ok(mmap(0, PAGE, READ_WRITE, PRIVATE, 99, PAGE)));
}

#[track_caller]
pub fn must_map(result: Res) -> usize {
    match result {
        Ok(address) => address,
        Err(errno) => panic!("mmap: {}", user_sys::errno_name(errno)),
    }
}

fn anonymous_errors(t: Transcript) {
    t.say("no length", ok(mmap(0, 0, READ_WRITE, PRIVATE, -1, 0)));
    t.say("neither private nor shared", ok(mmap(0, PAGE, READ_WRITE, MAP_ANONYMOUS, -1, 0)));
    t.say("offset not a page", ok(mmap(0, PAGE, READ_WRITE, PRIVATE, -1, 100)));
    t.say("all of the address space", ok(mmap(0, 1 << 47, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0)));
    t.say("length wraps", ok(mmap(0, usize::MAX, READ_WRITE, PRIVATE, -1, 0)));
    t.say("all but a page", ok(mmap(0, usize::MAX - 4095, READ_WRITE, PRIVATE, -1, 0)));
    t.say("length wraps to a page", ok(mmap(0, usize::MAX - 100, READ_WRITE, PRIVATE, -1, 0)));
}

fn fixed(t: Transcript) {
    let map = Map::new(4);
    poke(map.page(1), 1);
    poke(map.page(2), 2);
    let flags = PRIVATE | MAP_FIXED;
    t.say("at the address", mmap(map.page(1), PAGE, READ_WRITE, flags, -1, 0) == Ok(map.page(1)));
    t.say("replaces", (peek(map.page(1)), peek(map.page(2))));
    t.say("not aligned", ok(mmap(map.page(1) + 1, PAGE, READ_WRITE, flags, -1, 0)));
    t.say(
        "noreplace over something",
        ok(mmap(map.page(2), PAGE, READ_WRITE, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0)),
    );
    must(sys!(munmap, map.page(2), PAGE));
    t.say(
        "noreplace into a hole",
        mmap(map.page(2), PAGE, READ_WRITE, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0) == Ok(map.page(2)),
    );
    t.say("in the kernel's half", ok(mmap(0xffff_8000_0000_0000, PAGE, READ_WRITE, flags, -1, 0)));
    t.say("across the end", ok(mmap(0x7fff_ffff_f000, 2 * PAGE, READ_WRITE, flags, -1, 0)));
    t.say("last page of the user half", ok(mmap(0x7fff_ffff_f000, PAGE, READ_WRITE, flags, -1, 0)));
}

fn hints(t: Transcript) {
    let map = Map::new(4);
    let hole = map.page(1);
    must(sys!(munmap, hole, PAGE));
    t.say("free", mmap(hole, PAGE, READ_WRITE, PRIVATE, -1, 0) == Ok(hole));
    t.say("taken", mmap(hole, PAGE, READ_WRITE, PRIVATE, -1, 0).map(|at| at != hole));
    must(sys!(munmap, hole, PAGE));
    t.say("not aligned is rounded", mmap(hole + 5, PAGE, READ_WRITE, PRIVATE, -1, 0).map(|at| at % PAGE));
    t.say(
        "beyond the user half",
        mmap(0xffff_8000_0000_0000, PAGE, READ_WRITE, PRIVATE, -1, 0).map(|at| at < 1 << 47),
    );
}

fn unmap_holes(t: Transcript) {
    let map = Map::new(6);
    for index in 0..6 {
        poke(map.page(index), index as u8 + 1);
    }
    must(sys!(munmap, map.page(2), 2 * PAGE));
    t.say("around the hole", (peek(map.page(0)), peek(map.page(1)), peek(map.page(4)), peek(map.page(5))));
    t.say("in the hole", (read_at(map.page(2)), read_at(map.page(3))));
    t.say("across holes", ok(sys!(munmap, map.page(1), 4 * PAGE)));
    t.say("ends", (peek(map.page(0)), peek(map.page(5)), read_at(map.page(4))));
    t.say("nothing there", ok(sys!(munmap, map.page(1), PAGE)));
}

fn unmap_errors(t: Transcript) {
    let map = Map::new(1);
    t.say("no length", ok(sys!(munmap, map.start(), 0)));
    t.say("not aligned", ok(sys!(munmap, map.start() + 1, PAGE)));
    t.say("kernel's half", ok(sys!(munmap, 0xffff_8000_0000_0000_usize, PAGE)));
    t.say("wraps", ok(sys!(munmap, map.start(), usize::MAX - PAGE)));
    t.say("odd length is rounded up", (ok(sys!(munmap, map.start(), 5)), read_at(map.start() + 100)));
}

fn protect(t: Transcript) {
    let map = Map::new(1);
    poke(map.start(), 5);
    must(map.protect(PROT_READ));
    t.say("read-only", (read_at(map.start()), write_at(map.start())));
    must(map.protect(PROT_NONE));
    t.say("none", (read_at(map.start()), write_at(map.start())));
    must(map.protect(PROT_WRITE));
    t.say("write-only", write_at(map.start()));
    must(map.protect(READ_WRITE));
    t.say("back", (read_at(map.start()), write_at(map.start())));
}

fn protect_parts(t: Transcript) {
    let map = Map::new(5);
    (0..5).for_each(|index| poke(map.page(index), index as u8));
    must(sys!(mprotect, map.page(1), 3 * PAGE, PROT_READ));
    must(sys!(mprotect, map.page(2), PAGE, PROT_NONE));
    t.say("writes", (0..5).map(|index| write_at(map.page(index))).collect::<Vec<_>>());
    t.say("reads", (0..5).map(|index| read_at(map.page(index))).collect::<Vec<_>>());
    must(sys!(mprotect, map.page(0), 5 * PAGE, READ_WRITE));
    t.say("all again", (0..5).map(|index| write_at(map.page(index))).collect::<Vec<_>>());
    t.say("contents", (0..5).map(|index| peek(map.page(index))).collect::<Vec<_>>());
}

fn protect_errors(t: Transcript) {
    let map = Map::new(3);
    must(sys!(munmap, map.page(1), PAGE));
    t.say("not aligned", ok(sys!(mprotect, map.start() + 1, PAGE, PROT_READ)));
    t.say("no length", ok(sys!(mprotect, map.start(), 0, PROT_READ)));
    t.say("hole", ok(sys!(mprotect, map.page(1), PAGE, PROT_READ)));
    t.say("into a hole", ok(sys!(mprotect, map.page(0), 2 * PAGE, PROT_READ)));
    t.say("the part before it is changed", write_at(map.page(0)));
    t.say("kernel's half", ok(sys!(mprotect, 0xffff_8000_0000_0000_usize, PAGE, PROT_READ)));
    t.say("unknown bits", ok(sys!(mprotect, map.page(2), PAGE, 0x100)));
    t.say("length wraps", ok(sys!(mprotect, map.page(2), usize::MAX, PROT_READ)));
}

fn fault_details(t: Transcript) {
    let map = Map::new(1);
    t.say("null", read_at(0));
    t.say("before the range", read_at(map.start() - 1));
    t.say("after it", write_at(map.end()));
    must(sys!(munmap, map.start() - PAGE, 3 * PAGE));
    t.say("unmapped", read_at(map.start() + 77));
    let map = Map::new(1);
    must(map.protect(PROT_READ));
    t.say("read-only", write_at(map.start() + 77));
    std::mem::forget(map);
}

fn none(t: Transcript) {
    let at = must_map(mmap(0, 16 * PAGE, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    t.say("touched", (read_at(at), write_at(at)));
    must(sys!(mprotect, at + 4 * PAGE, PAGE, READ_WRITE));
    t.say("opened in the middle", (write_at(at + 4 * PAGE), read_at(at + 5 * PAGE)));
    t.say("system call into it", ok(sys!(read, file_with(c"file", b"x"), at, 1)));
}

fn remap(t: Transcript) {
    let map = Map::new(4);
    (0..4).for_each(|index| poke(map.page(index), index as u8 + 1));
    let grown = must_map(sys!(mremap, map.start(), 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE));
    t.say("moved to grow", grown != map.start());
    t.say("contents", (0..8).map(|index| peek(grown + index * PAGE)).collect::<Vec<_>>());
    t.say("old place", read_at(map.start()));
    let target = Map::new(8);
    poke(target.page(7), 9);
    t.say(
        "to a place",
        sys!(mremap, grown, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target.start())
            == Ok(target.start()),
    );
    t.say("contents there", (peek(target.page(3)), peek(target.page(7))));
    let fd = file_with(c"file", &[b'f'; 4 * PAGE]);
    let shared = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    let wider = must_map(sys!(mremap, shared, PAGE, 3 * PAGE, MREMAP_MAYMOVE));
    t.say("file mapping", (peek(wider), peek(wider + 2 * PAGE)));
}

fn remap_in_place(t: Transcript) {
    let map = Map::new(4);
    poke(map.page(0), 1);
    t.say("shrink", sys!(mremap, map.start(), 4 * PAGE, 2 * PAGE, 0) == Ok(map.start()));
    t.say("tail is gone", (read_at(map.page(1)), read_at(map.page(2))));
    t.say("grow into the gap", sys!(mremap, map.start(), 2 * PAGE, 4 * PAGE, 0) == Ok(map.start()));
    t.say("grown part is zero", (read_at(map.page(0)), read_at(map.page(3))));
    t.say("same size", sys!(mremap, map.start(), 4 * PAGE, 4 * PAGE, 0) == Ok(map.start()));
    t.say("no room", ok(sys!(mremap, map.start(), 4 * PAGE, 5 * PAGE, 0)));
}

fn remap_errors(t: Transcript) {
    let map = Map::new(3);
    t.say("not aligned", ok(sys!(mremap, map.start() + 1, PAGE, PAGE, 0)));
    t.say("no new length", ok(sys!(mremap, map.start(), PAGE, 0, 0)));
    t.say("unknown flag", ok(sys!(mremap, map.start(), PAGE, PAGE, 64)));
    t.say("fixed without moving", ok(sys!(mremap, map.start(), PAGE, PAGE, MREMAP_FIXED, 0x1000_0000)));
    t.say(
        "target overlaps",
        ok(sys!(mremap, map.start(), 2 * PAGE, 2 * PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, map.page(1))),
    );
    t.say(
        "target not aligned",
        ok(sys!(mremap, map.start(), PAGE, PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, 0x1000_0001)),
    );
    must(sys!(munmap, map.page(1), PAGE));
    t.say("nothing there", ok(sys!(mremap, map.page(1), PAGE, 2 * PAGE, MREMAP_MAYMOVE)));
    t.say("grow across a hole", ok(sys!(mremap, map.start(), 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE)));
}

fn dont_need(t: Transcript) {
    let map = Map::new(4);
    (0..4).for_each(|index| poke(map.page(index), 7));
    t.say("middle", ok(sys!(madvise, map.page(1), 2 * PAGE, MADV_DONTNEED)));
    t.say("zero again", (0..4).map(|index| peek(map.page(index))).collect::<Vec<_>>());
    poke(map.page(1), 8);
    t.say("usable again", peek(map.page(1)));
    t.say("untouched memory", ok(sys!(madvise, fresh(4), 4 * PAGE, MADV_DONTNEED)));
}

fn advise(t: Transcript) {
    let map = Map::new(4);
    for (name, advice) in [
        ("normal", 0),
        ("random", 1),
        ("sequential", 2),
        ("will need", 3),
        ("free", 8),
        ("do not fork", 10),
        ("do fork", 11),
    ] {
        t.say(name, ok(sys!(madvise, map.start(), 4 * PAGE, advice)));
    }
    t.say("unknown", ok(sys!(madvise, map.start(), PAGE, 12345)));
    t.say("not aligned", ok(sys!(madvise, map.start() + 1, PAGE, MADV_DONTNEED)));
    t.say("no length", ok(sys!(madvise, map.start(), 0, MADV_DONTNEED)));
    must(sys!(munmap, map.page(1), PAGE));
    t.say("hole", ok(sys!(madvise, map.start(), 4 * PAGE, MADV_DONTNEED)));
    poke(map.page(2), 9);
    must(sys!(madvise, map.page(2), PAGE, libc::MADV_WIPEONFORK));
    t.say("wiped in the child", (in_child(|| i32::from(peek(map.page(2)))), peek(map.page(2))));
    must(sys!(madvise, map.page(3), PAGE, libc::MADV_DONTFORK));
    t.say("not in the child", read_at(map.page(3)));
}

fn brk(t: Transcript) {
    let start = sys!(brk, 0).unwrap_or(0);
    t.say("known", start != 0);
    t.say("grow", sys!(brk, start + 3 * PAGE) == Ok(start + 3 * PAGE));
    poke(start + 2 * PAGE, 5);
    t.say("usable", peek(start + 2 * PAGE));
    t.say("odd size", sys!(brk, start + 100) == Ok(start + 100));
    must(sys!(brk, start + 3 * PAGE).map(|_| 0));
    t.say("zero after shrinking and growing", peek(start + 2 * PAGE));
    t.say("below the start", sys!(brk, PAGE) == Ok(start + 3 * PAGE));
    t.say("far too much", sys!(brk, 1_usize << 47) == Ok(start + 3 * PAGE));
    t.say("back", sys!(brk, start) == Ok(start));
    t.say("gone", read_at(start.next_multiple_of(PAGE) + 2 * PAGE));
}

fn brk_limit(t: Transcript) {
    let grow_under = |bytes: u64| {
        in_child(|| {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            must(sys!(prlimit64, 0, libc::RLIMIT_DATA, &limit, 0));
            let start = sys!(brk, 0).unwrap_or(0);
            status(sys!(brk, start + (1 << 20)) == Ok(start + (1 << 20)))
        })
    };
    t.say("with room", grow_under(1 << 30));
    t.say("without", grow_under(1 << 10));
}

fn resident(t: Transcript) {
    let map = Map::new(4);
    poke(map.page(1), 1);
    poke(map.page(3), 1);
    let mut present = [9_u8; 4];
    t.say("mincore", ok(sys!(mincore, map.start(), 4 * PAGE, &mut present)));
    t.say("touched ones", present.iter().map(|byte| byte & 1).collect::<Vec<_>>());
    t.say("not aligned", ok(sys!(mincore, map.start() + 1, PAGE, &mut present)));
    t.say("hole", ok(sys!(mincore, map.end(), 2_usize << 40, &mut present)));
    t.say("wrong pointer", ok(sys!(mincore, map.start(), PAGE, 1)));
}

fn large_and_lazy(t: Transcript) {
    let len = 64 << 30;
    let at = must_map(mmap(0, len, READ_WRITE, PRIVATE | MAP_NORESERVE, -1, 0));
    for offset in [0, len / 3, len / 2, len - 1] {
        poke(at + offset, 1);
    }
    t.say("64 GiB, four pages touched", (peek(at), peek(at + len - 1), peek(at + 4096)));
    t.say("protected apart", ok(sys!(mprotect, at + len / 4, len / 4, PROT_NONE)));
    t.say("unmapped", ok(sys!(munmap, at, len)));
    let none = must_map(mmap(0, 1 << 40, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0));
    t.say("1 TiB of nothing", ok(sys!(munmap, none, 1_usize << 40)));
}

fn execute(t: Transcript) {
    let map = Map::new(1);
    // mov eax, 42; ret
    for (offset, byte) in [0xb8_u8, 42, 0, 0, 0, 0xc3].into_iter().enumerate() {
        poke(map.start() + offset, byte);
    }
    let call = || {
        // SAFETY: the page holds a function of this type.
        let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(map.start()) };
        function()
    };
    t.say("not executable", describe(map.start(), call));
    must(map.protect(PROT_READ | PROT_EXEC));
    t.say("executable", describe(map.start(), call));
}

fn stack_grows(t: Transcript) {
    fn descend(depth: usize) -> usize {
        let frame = [depth as u8; 4096];
        if depth == 0 {
            0
        } else {
            descend(depth - 1) + usize::from(std::hint::black_box(&frame)[17] == depth as u8)
        }
    }
    t.say("four MiB", descend(1000));
    t.say(
        "no end",
        in_child(|| {
            must(Handler::install_function(SIGSEGV, libc::SIG_DFL, 0, &[]));
            descend(usize::MAX) as i32
        }),
    );
}

fn copy_on_write(t: Transcript) {
    let map = Map::new(32);
    (0..32).for_each(|index| poke(map.page(index), 1));
    let children: Vec<Child> = (0..4)
        .map(|number: u8| {
            let start = map.start();
            Child::spawn(move || {
                (0..32).for_each(|index| poke(start + index * PAGE, 10 + number));
                status((0..32).all(|index| peek(start + index * PAGE) == 10 + number))
            })
        })
        .collect();
    t.say("each sees its own", children.into_iter().map(Child::wait).collect::<Vec<_>>());
    t.say("parent sees its own", (0..32).all(|index| peek(map.page(index)) == 1));
    t.say("system call writes into a shared page", {
        let fd = file_with(c"file", &[5; 10]);
        let child = in_child(|| {
            must(sys!(pread64, fd, map.page(3), 10, 0));
            i32::from(peek(map.page(3)))
        });
        (child, peek(map.page(3)))
    });
}

fn overlap_replaces(t: Transcript) {
    let map = Map::new(6);
    (0..6).for_each(|index| poke(map.page(index), index as u8 + 1));
    let fd = file_with(c"file", &[b'f'; 4 * PAGE]);
    must_map(mmap(map.page(1), 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0));
    must_map(mmap(map.page(2), PAGE, READ_WRITE, PRIVATE | MAP_FIXED, -1, 0));
    t.say("layers", (0..6).map(|index| peek(map.page(index))).collect::<Vec<_>>());
    t.say("rights", (0..6).map(|index| write_at(map.page(index)).starts_with("ok")).collect::<Vec<_>>());
}

fn limit(t: Transcript) {
    t.say(
        "address space",
        in_child(|| {
            let limit = libc::rlimit { rlim_cur: 256 << 20, rlim_max: 256 << 20 };
            must(sys!(prlimit64, 0, libc::RLIMIT_AS, &limit, 0));
            let small = mmap(0, 16 << 20, READ_WRITE, PRIVATE, -1, 0).is_ok();
            let large = mmap(0, 512 << 20, READ_WRITE, PRIVATE, -1, 0);
            i32::from(small) + large.map_or_else(user_sys::Errno::into_raw, |_| 0) * 2
        }),
    );
}

fn locks(t: Transcript) {
    let map = Map::new(4);
    t.say("mlock", ok(sys!(mlock, map.start(), 2 * PAGE)));
    t.say("munlock", ok(sys!(munlock, map.start(), 2 * PAGE)));
    t.say("hole", ok(sys!(munlock, map.end() + PAGE, 1_usize << 40)));
}

fn kernel_writes(t: Transcript) {
    let fd = file_with(c"file", &[7; 3 * PAGE]);
    let map = Map::new(3);
    t.say("into untouched pages", sys!(pread64, fd, map.start(), 3 * PAGE, 0));
    t.say("content", (peek(map.page(0)), peek(map.end() - 1)));
    must(map.protect(PROT_READ));
    t.say("into read-only pages", sys!(pread64, fd, map.start(), PAGE, 0));
    must(sys!(mprotect, map.page(1), PAGE, READ_WRITE));
    t.say("across a border, from a pipe", {
        let (reader, writer) = pipe(0);
        must(write(writer, &[8; 100]));
        sys!(read, reader, map.page(2) - 50, 100)
    });
    t.say("from there, to a pipe", {
        let (_reader, writer) = pipe(0);
        sys!(write, writer, map.end() - 50, 100)
    });
    t.say("buffer that ends in nothing", sys!(pwrite64, fd, map.end() - 10, 10, 0));
}

/// Bytes of a range that no kernel goes through in one piece.
const LARGE: usize = 64 << 20;

fn large_range(t: Transcript) {
    let at = must_map(mmap(0, LARGE, READ_WRITE, PRIVATE, -1, 0));
    // A page and a gap far inside, where pieces may meet.
    let (page, gap) = (at + LARGE / 2, at + LARGE / 4);
    must(sys!(munmap, gap, PAGE));
    t.say("a gap ends paging in", ok(sys!(madvise, at, LARGE, 23)));
    t.say("paged in up to there", {
        let mut present = [0_u8; 1];
        (ok(sys!(mincore, gap - PAGE, PAGE, &mut present)), present[0] & 1)
    });
    must_map(mmap(gap, PAGE, READ_WRITE, PRIVATE | libc::MAP_FIXED, -1, 0));
    t.say("paged in", ok(sys!(madvise, at, LARGE, 23)));
    let mut present = vec![0_u8; LARGE / PAGE];
    must(sys!(mincore, at, LARGE, &mut present[..]));
    t.say("pages", present.iter().filter(|&&page| page & 1 != 0).count());
    for (index, place) in [at, gap, page, at + LARGE - 1].into_iter().enumerate() {
        poke(place, index as u8 + 1);
    }
    let places = || [at, gap, page, at + LARGE - 1].map(peek).to_vec();
    t.say("protect", ok(sys!(mprotect, at, LARGE, PROT_READ)));
    t.say("a child's", in_child(|| i32::from(places() != [1, 2, 3, 4])));
    t.say("not writable", (write_at(at), write_at(page), write_at(at + LARGE - 1)));
    t.say("discard", (ok(sys!(madvise, gap, LARGE / 2, libc::MADV_DONTNEED)), places()));
    t.say("unmap", ok(sys!(munmap, at, LARGE)));
    t.say("gone", (read_at(at), read_at(page), read_at(at + LARGE - 1)));
    t.say("twice", ok(sys!(munmap, at, LARGE)));
    t.say("protect nothing", ok(sys!(mprotect, at, LARGE, PROT_READ)));
    t.say("discard nothing", ok(sys!(madvise, at, LARGE, libc::MADV_DONTNEED)));
}

fn killed_while_paging_in(t: Transcript) {
    let child = user_sys::Child::spawn(|| {
        loop {
            let at = must_map(mmap(0, LARGE, READ_WRITE, PRIVATE | libc::MAP_POPULATE, -1, 0));
            must(sys!(munmap, at, LARGE));
        }
    });
    must(sys!(nanosleep, &user_sys::millis(50), 0));
    must(child.kill(libc::SIGKILL));
    t.say("ends", child.wait());
}
