//! A bad network: a relay between a guest and its tap that loses, delays, reorders, repeats and damages frames.
//!
//! QEMU sends each frame as a datagram to a Unix socket (`-netdev dgram`), and so does socat, which holds the tap. The relay
//! stands between the two. What happens to the n-th frame of each direction follows from the seed alone. (Not every
//! Linux has netem; this needs no more than the tap.)
//!
//! ```text
//! guest -- QEMU (guest) <--> (from-guest) relay (from-tap) <--> (tap) socat -- tap0
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::namespace::{Namespace, TAP};
use crate::random::Random;
use crate::watched::Watched;

/// The longest frame, with room to spare.
const FRAME: usize = 9216;
/// An Ethernet header, which is not damaged: a wrong address is but a lost frame.
const HEADER: usize = 14;
/// How long a direction that has nothing to do may take to notice that the relay ends.
const IDLE: Duration = Duration::from_millis(50);
/// How long a receiver may be stuck before a frame for it is lost.
const STUCK: Duration = Duration::from_secs(1);
/// How long socat may take to open the tap.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to frames; the numbers are of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Frames that are lost.
    pub lost: usize,
    /// Frames that arrive twice.
    pub repeated: usize,
    /// Frames of which one bit behind the Ethernet header is turned.
    pub damaged: usize,
    /// Frames that arrive late, behind later ones.
    pub reordered: usize,
    /// How long each frame takes.
    pub delay: Duration,
    /// How much longer one that is late takes, at most.
    pub late: Duration,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What happens to one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fate {
    copies: usize,
    /// A byte, and the bit in it.
    damage: Option<(usize, u8)>,
    reordered: bool,
    delay: Duration,
}

impl Faults {
    /// The fate of the next frame. Always takes as many numbers, so that one fate does not depend on another.
    fn fate(&self, random: &mut Random, length: usize) -> Fate {
        let mut happens = |of_thousand: usize| random.below(1000) < of_thousand;
        let (lost, repeated, damaged) = (happens(self.lost), happens(self.repeated), happens(self.damaged));
        let reordered = happens(self.reordered);
        let (place, bit, late) = (random.bits(), random.byte() % 8, random.bits());
        let body = length.saturating_sub(HEADER);
        let damage = (damaged && body > 0).then(|| (HEADER + (place % body as u64) as usize, 1 << bit));
        let late = Duration::from_nanos(late % (self.late.as_nanos() as u64).max(1));
        Fate {
            copies: usize::from(!lost) + usize::from(!lost && repeated),
            damage,
            reordered,
            delay: self.delay + if reordered { late } else { Duration::ZERO },
        }
    }
}

/// What a relay did.
#[derive(Debug, Default)]
pub struct Counts {
    passed: AtomicU64,
    lost: AtomicU64,
    repeated: AtomicU64,
    damaged: AtomicU64,
    reordered: AtomicU64,
}

impl Counts {
    fn note(&self, fate: &Fate) {
        let add = |counter: &AtomicU64, happened: bool| {
            counter.fetch_add(u64::from(happened), Ordering::Relaxed);
        };
        add(&self.passed, true);
        add(&self.lost, fate.copies == 0);
        add(&self.repeated, fate.copies > 1);
        add(&self.damaged, fate.copies > 0 && fate.damage.is_some());
        add(&self.reordered, fate.copies > 0 && fate.reordered);
    }

    /// Whether each kind of fault has happened.
    pub fn all_happened(&self) -> bool {
        [&self.lost, &self.repeated, &self.damaged, &self.reordered]
            .iter()
            .all(|counter| counter.load(Ordering::Relaxed) > 0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} frames, {} lost, {} repeated, {} damaged, {} reordered",
            get(&self.passed),
            get(&self.lost),
            get(&self.repeated),
            get(&self.damaged),
            get(&self.reordered)
        )
    }
}

/// A running relay; it ends when this is dropped.
pub struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counts: Arc<Counts>,
    _socat: Watched,
    folder: TempDir,
}

impl Relay {
    /// Starts a relay on the tap of a namespace, in which nothing else may hold the tap.
    pub fn start(namespace: &Namespace, faults: Faults) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nrk-relay-").tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let guest_side = bind(&path("from-guest"))?;
        let tap_side = bind(&path("from-tap"))?;
        let socat = hold_tap(namespace, &path("from-tap"), &path("tap"))?;
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let ways = [
            (guest_side.try_clone()?, tap_side.try_clone()?, path("tap"), faults.seed),
            (tap_side, guest_side, path("guest"), !faults.seed),
        ];
        let threads = ways.map(|(from, to, receiver, seed)| {
            let way = Way { from, to, receiver, faults, random: Random(seed), counts: counts.clone() };
            let stop = stop.clone();
            thread::spawn(move || way.run(&stop))
        });
        Ok(Self { stop, threads: threads.into(), counts, _socat: socat, folder })
    }

    /// QEMU's `-netdev` for the guest, without its id.
    pub fn netdev(&self) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (own, other) = (path("guest"), path("from-guest"));
        format!("dgram,local.type=unix,local.path={own},remote.type=unix,remote.path={other}")
    }

    /// What it has done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so already.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn bind(path: &Path) -> Result<UnixDatagram> {
    let socket = UnixDatagram::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
    socket.set_write_timeout(Some(STUCK))?;
    Ok(socket)
}

/// Starts what carries frames between the tap and a socket, one datagram each.
fn hold_tap(namespace: &Namespace, relay: &Path, own: &Path) -> Result<Watched> {
    let mut command = namespace.enter("socat");
    command.args(["-d", "-d"]).arg(format!("TUN,tun-name={TAP},tun-type=tap,iff-no-pi"));
    command.arg(format!("UNIX-SENDTO:{},bind={}", relay.display(), own.display()));
    let socat = Watched::start(command, false)?;
    socat.expect("starting data transfer loop", PATIENCE)?;
    Ok(socat)
}

/// One direction.
struct Way {
    from: UnixDatagram,
    to: UnixDatagram,
    receiver: PathBuf,
    faults: Faults,
    random: Random,
    counts: Arc<Counts>,
}

/// Frames on their way, by the time at which they arrive and the order in which they came.
type Travelling = BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>;

impl Way {
    fn run(mut self, stop: &AtomicBool) {
        let (mut travelling, mut number, mut buffer) = (Travelling::new(), 0, vec![0; FRAME]);
        while !stop.load(Ordering::Relaxed) {
            let wait = self.deliver(&mut travelling);
            // Zero would mean for ever.
            let wait = wait.max(Duration::from_micros(1));
            let frame = self.from.set_read_timeout(Some(wait)).and_then(|()| self.from.recv(&mut buffer));
            if let Ok(length) = frame {
                self.take(&buffer[..length], &mut number, &mut travelling);
            }
        }
    }

    /// Sends what is due; returns how long until the next is.
    fn deliver(&self, travelling: &mut Travelling) -> Duration {
        while let Some(Reverse((due, _, frame))) = travelling.peek() {
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return left.min(IDLE);
            }
            // Without a receiver, before QEMU's start and after its end, a frame is lost as on a cable.
            let _ = self.to.send_to(frame, &self.receiver);
            travelling.pop();
        }
        IDLE
    }

    fn take(&mut self, frame: &[u8], number: &mut u64, travelling: &mut Travelling) {
        let fate = self.faults.fate(&mut self.random, frame.len());
        self.counts.note(&fate);
        let due = Instant::now() + fate.delay;
        let mut frame = frame.to_vec();
        if let Some((place, bit)) = fate.damage {
            frame[place] ^= bit;
        }
        for _ in 0..fate.copies {
            *number += 1;
            travelling.push(Reverse((due, *number, frame.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULTS: Faults = Faults {
        lost: 100,
        repeated: 100,
        damaged: 100,
        reordered: 100,
        delay: Duration::from_millis(1),
        late: Duration::from_millis(5),
        seed: 3,
    };

    fn fates(faults: Faults) -> Vec<Fate> {
        let mut random = Random(faults.seed);
        (0..1000).map(|_| faults.fate(&mut random, 60)).collect()
    }

    #[test]
    fn a_seed_repeats_its_schedule_and_every_fault_happens_about_as_often_as_asked() {
        let fates = fates(FAULTS);
        assert_eq!(fates, self::fates(FAULTS));
        let count = |test: fn(&Fate) -> bool| fates.iter().filter(|fate| test(fate)).count();
        for happened in [
            count(|fate| fate.copies == 0),
            count(|fate| fate.copies == 2),
            count(|fate| fate.damage.is_some()),
            count(|fate| fate.reordered),
        ] {
            assert!((60..140).contains(&happened), "{happened} of 1000, not about 100");
        }
    }

    #[test]
    fn damage_spares_the_ethernet_header_and_lateness_has_a_limit() {
        for fate in fates(FAULTS) {
            assert!(fate.damage.is_none_or(|(place, bit)| (HEADER..60).contains(&place) && bit != 0));
            assert!(fate.delay >= FAULTS.delay && fate.delay < FAULTS.delay + FAULTS.late);
        }
        let mut random = Random(0);
        let all = Faults { damaged: 1000, ..FAULTS };
        assert!((0..100).all(|_| all.fate(&mut random, HEADER).damage.is_none()));
    }

    #[test]
    fn without_faults_all_arrives_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (from, to) = (bind(&path("from")).unwrap(), UnixDatagram::unbound().unwrap());
        let (sender, receiver) = (UnixDatagram::unbound().unwrap(), bind(&path("receiver")).unwrap());
        let faults = Faults { delay: Duration::from_millis(2), ..Faults::default() };
        let counts = Arc::new(Counts::default());
        let way =
            Way { from, to, receiver: path("receiver"), faults, random: Random(0), counts: counts.clone() };
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || way.run(&stop)
        });
        for n in 0..100u8 {
            sender.send_to(&[n; 60], path("from")).unwrap();
        }
        let mut buffer = [0; 100];
        for n in 0..100u8 {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 60);
            assert_eq!(buffer[0], n);
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!(counts.to_string().starts_with("100 frames, 0 lost"), "{counts}");
        assert!(!counts.all_happened());
    }
}
