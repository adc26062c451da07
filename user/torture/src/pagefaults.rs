//! Faults of every kind, with the contents checked: first touch, copy on write, files, several threads at
//! once.

use std::time::Instant;
use std::{fs, thread};

use user_sys::map::{mmap, peek, poke};
use user_sys::{Child, Ended, PAGE, Rng, must, sys};

use crate::{Options, Verdict, aftermath};

/// Pages of the range that is touched.
const PAGES: usize = 8192;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// One kind after the other.
pub fn run(_options: &Options) -> Verdict {
    first_touch()?;
    copy_on_write()?;
    file_pages()?;
    threads_at_once()?;
    give_back_and_take()?;
    aftermath::check()
}

fn map(pages: usize, flags: i32, fd: i32) -> Result<usize, String> {
    mmap(0, pages * PAGE, READ_WRITE, flags, fd, 0)
        .map_err(|errno| format!("mmap: {}", user_sys::errno_name(errno)))
}

fn unmap(at: usize, pages: usize) {
    must(sys!(munmap, at, pages * PAGE));
}

/// The byte that page `index` is given.
fn mark(index: usize) -> u8 {
    (index * 7 + 1) as u8
}

/// All pages in random order: zero before, what was written after.
fn first_touch() -> Verdict {
    let at = map(PAGES, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    let mut order: Vec<usize> = (0..PAGES).collect();
    let mut rng = Rng::new(1);
    (1..PAGES).rev().for_each(|index| order.swap(index, rng.below(index + 1)));
    let start = Instant::now();
    for &index in &order {
        let byte = at + index * PAGE + rng.below(PAGE);
        if peek(byte) != 0 {
            return Err(format!("fresh page {index} is not zero"));
        }
        poke(at + index * PAGE, mark(index));
    }
    println!("pagefaults: first touch {} ns a page", start.elapsed().as_nanos() / PAGES as u128);
    match (0..PAGES).find(|&index| peek(at + index * PAGE) != mark(index)) {
        Some(index) => Err(format!("page {index} lost what was written")),
        None => {
            unmap(at, PAGES);
            Ok(())
        }
    }
}

/// Child and parent write the same pages at the same time; neither sees the other's.
fn copy_on_write() -> Verdict {
    let at = map(1024, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    (0..1024).for_each(|index| poke(at + index * PAGE, mark(index)));
    let child = Child::spawn(|| i32::from(!write_and_check(at, 100)));
    let right = write_and_check(at, 200);
    let ended = child.wait();
    unmap(at, 1024);
    match (right, ended) {
        (true, Ended::Exited(0)) => Ok(()),
        other => Err(format!("copy on write: parent and child {other:?}")),
    }
}

fn write_and_check(at: usize, value: u8) -> bool {
    let before = (0..1024).all(|index| peek(at + index * PAGE) == mark(index));
    (0..1024).for_each(|index| poke(at + index * PAGE, value));
    before && (0..1024).all(|index| peek(at + index * PAGE) == value)
}

/// Private and shared mappings of a file show its bytes; only the shared one changes them.
fn file_pages() -> Verdict {
    let path = format!("/tmp/torture.{}.pages", std::process::id());
    let bytes: Vec<u8> = (0..256 * PAGE).map(|at| (at / PAGE) as u8).collect();
    fs::write(&path, &bytes).map_err(|error| format!("{path}: {error}"))?;
    let name = std::ffi::CString::new(path.clone()).map_err(|error| error.to_string())?;
    let fd = must(sys!(open, &*name, libc::O_RDWR, 0));
    let (private, shared) = (map(256, libc::MAP_PRIVATE, fd)?, map(256, libc::MAP_SHARED, fd)?);
    let same = (0..256).all(|index| {
        peek(private + index * PAGE + 99) == index as u8 && peek(shared + index * PAGE) == index as u8
    });
    (0..256).step_by(2).for_each(|index| poke(private + index * PAGE, 0xaa));
    (1..256).step_by(2).for_each(|index| poke(shared + index * PAGE, 0xbb));
    let back = fs::read(&path).map_err(|error| error.to_string())?;
    let _ = fs::remove_file(&path);
    let right = (0..256).all(|index| back[index * PAGE] == if index % 2 == 0 { index as u8 } else { 0xbb });
    unmap(private, 256);
    unmap(shared, 256);
    must(sys!(close, fd));
    if same && right { Ok(()) } else { Err(format!("file pages: read {same}, written {right}")) }
}

/// Four threads touch the same fresh pages; each page is given out once.
fn threads_at_once() -> Verdict {
    for round in 0..20 {
        let at = map(64, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        let touch =
            move |thread: usize| (0..64).for_each(|index| poke(at + index * PAGE + thread, thread as u8 + 1));
        let threads: Vec<_> = (0..4).map(|thread| thread::spawn(move || touch(thread))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned()))?;
        let whole =
            (0..64).all(|index| (0..4).all(|thread| peek(at + index * PAGE + thread) == thread as u8 + 1));
        unmap(at, 64);
        if !whole {
            return Err(format!("round {round}: a write of one of four threads is lost"));
        }
    }
    Ok(())
}

/// Gives pages back and takes them again, more often than the memory would last if they leaked.
fn give_back_and_take() -> Verdict {
    let at = map(1024, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    for round in 0..100 {
        for index in 0..1024 {
            if peek(at + index * PAGE) != 0 {
                return Err(format!("round {round}: page {index} came back with old bytes"));
            }
            poke(at + index * PAGE, 1);
        }
        must(sys!(madvise, at, 1024 * PAGE, libc::MADV_DONTNEED));
    }
    unmap(at, 1024);
    Ok(())
}
