//! Damaged copies of this program are executed: execve must fail with an errno, or the new program die or
//! end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use user_sys::{Child, Ended, Rng, must, sys};

use crate::scratch::Scratch;
use crate::{Options, Verdict, aftermath};

/// Bytes from the start that are damaged: the ELF header and the program headers lie in them.
const HEADERS: usize = 1024;

/// Seconds after which a copy that loops is ended.
const PATIENCE: u32 = 2;

/// Values that a field takes more often than chance would have it.
const EXTREMES: [u64; 9] = [
    0,
    1,
    0xff,
    0xffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
    0xffff_8000_0000_0000,
    0x0000_7fff_ffff_f000,
];

/// N copies from SEED on.
pub fn run(options: &Options) -> Verdict {
    options.refuse_root_on_host()?;
    let (seed, count) = (options.number(0, 1)?, options.number(1, 200)?);
    let image = fs::read("/proc/self/exe").map_err(|error| format!("own image: {error}"))?;
    let scratch = Scratch::enter()?;
    let mut rng = Rng::new(seed as u64);
    let (mut refused, mut died, mut ran) = (0, 0, 0);
    for round in 0..count {
        write_victim(&mut rng, &image, round).map_err(|error| format!("victim: {error}"))?;
        match execute(options.in_guest) {
            Ended::Exited(REFUSED) => refused += 1,
            Ended::Exited(_) => ran += 1,
            Ended::Killed(_) => died += 1,
            other => return Err(format!("seed {seed}, round {round}: {other}")),
        }
    }
    drop(scratch);
    println!("badelf: seed {seed}, {count} copies: {refused} refused, {died} killed, {ran} ran all the same");
    aftermath::check()
}

/// The file that is executed, in the current directory.
const VICTIM: &str = "victim";

/// Writes a damaged copy: cut short, or with bytes, bits or whole fields of its headers changed.
///
/// The body is the same every time, so only the first copy is written in full.
fn write_victim(rng: &mut Rng, image: &[u8], round: usize) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let cut = rng.below(5) == 0;
    if cut || round == 0 || fs::metadata(VICTIM)?.len() != image.len() as u64 {
        let length = if !cut { image.len() } else { cut_length(rng, image.len()) };
        let _ = fs::remove_file(VICTIM);
        fs::write(VICTIM, &image[..length])?;
        fs::set_permissions(VICTIM, fs::Permissions::from_mode(0o755))?;
    }
    let mut headers = image[..HEADERS].to_vec();
    damage(rng, &mut headers);
    let length = fs::metadata(VICTIM)?.len() as usize;
    fs::OpenOptions::new().write(true).open(VICTIM)?.write_all_at(&headers[..HEADERS.min(length)], 0)
}

/// Mostly within the headers, else anywhere.
fn cut_length(rng: &mut Rng, length: usize) -> usize {
    if rng.below(3) > 0 { rng.below(HEADERS) } else { rng.below(length) }
}

/// One to four changes.
fn damage(rng: &mut Rng, headers: &mut [u8]) {
    for _ in 0..=rng.below(4) {
        let reach = rng.pick(&[64, 64 + 56, 64 + 56 * 4, HEADERS]);
        match rng.below(3) {
            0 => headers[rng.below(reach)] ^= 1 << rng.below(8),
            1 => headers[rng.below(reach)] = rng.next_u64() as u8,
            _ => {
                let at = rng.below(reach / 8) * 8;
                headers[at..at + 8].copy_from_slice(&rng.pick(&EXTREMES).to_ne_bytes());
            }
        }
    }
}

/// Exit status of a child whose execve failed with an errno.
const REFUSED: i32 = 99;

/// Executes the victim as `victim noop` in a child.
fn execute(in_guest: bool) -> Ended {
    Child::spawn(|| {
        if !in_guest {
            let limit = libc::rlimit { rlim_cur: 4 << 30, rlim_max: 4 << 30 };
            must(sys!(prlimit64, 0, libc::RLIMIT_AS, &limit, 0));
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        must(sys!(prlimit64, 0, libc::RLIMIT_CORE, &none, 0));
        close_standard_descriptors();
        must(sys!(alarm, PATIENCE));
        let arguments = [c"victim".as_ptr(), c"noop".as_ptr(), std::ptr::null()];
        // Only an error comes back.
        let _ = sys!(execve, c"./victim", &arguments, 0);
        REFUSED
    })
    .wait()
}

/// A copy that runs all the same says `ok`: that is not for our output.
fn close_standard_descriptors() {
    if let Ok(null) = sys!(open, c"/dev/null", libc::O_RDWR) {
        (0..3).for_each(|fd| {
            let _ = sys!(dup2, null, fd);
        });
    }
}
