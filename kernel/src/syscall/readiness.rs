//! The condition that poll(2) tests is the condition that wakes: for every kind of file, whatever happens to it. Whenever a file
//! becomes ready for something, who waits for that has been woken.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::net as abi;
use proptest::prelude::*;

use crate::fs::epoll::{Epoll, Event};
use crate::fs::eventfd::EventFd;
use crate::fs::{File, OpenFile, OpenFlags, pipe};
use crate::net::Stack;
use crate::net::socket::message::PeerCredentials;
use crate::net::socket::{Kind, Socket, SocketAddress};
use crate::net::tcp::Shutdown;
use crate::net::wire::Endpoint;
use crate::process::Credentials;
use crate::sched::Events;
use crate::sched::fixture::Waiter;
use crate::uaccess::{ReadBuf, WriteBuf};

const LENGTHS: [usize; 5] = [1, 8, 4096, 20_000, 200_000];

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, usize),
    /// Adds to a counter so much that it is full.
    Fill(usize),
    Shutdown(usize, bool),
    SendBuffer(usize, u32),
    PipeSize(usize),
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (file, length) = (0_usize..4, (0..LENGTHS.len()).prop_map(|at| LENGTHS[at]));
    prop_oneof![
        8 => (file.clone(), length.clone()).prop_map(|(file, length)| Step::Read(file, length)),
        8 => (file.clone(), length).prop_map(|(file, length)| Step::Write(file, length)),
        2 => file.clone().prop_map(Step::Fill),
        1 => (file.clone(), any::<bool>()).prop_map(|(file, read)| Step::Shutdown(file, read)),
        1 => (file.clone(), 0_u32..400_000).prop_map(|(file, size)| Step::SendBuffer(file, size)),
        1 => file.clone().prop_map(Step::PipeSize),
        1 => file.prop_map(Step::Close),
    ]
}

impl Step {
    fn take(self, files: &mut [Option<Arc<OpenFile>>]) {
        let (Self::Read(at, _)
        | Self::Write(at, _)
        | Self::Fill(at)
        | Self::Shutdown(at, _)
        | Self::SendBuffer(at, _)
        | Self::PipeSize(at)
        | Self::Close(at)) = self;
        let Some(file) = files.get(at).cloned().flatten() else { return };
        let socket = Socket::of(&*file.file);
        let done = match self {
            Self::Read(_, length) => file.read(&mut ReadBuf::kernel(&mut vec![0; length])).map(drop),
            Self::Write(_, length) => file.write(&mut WriteBuf::kernel(&vec![0; length])).map(drop),
            Self::Fill(_) => file.write(&mut WriteBuf::kernel(&(u64::MAX - 1).to_ne_bytes())).map(drop),
            Self::Shutdown(_, read) => socket.and_then(|socket| {
                socket.protocol.shutdown(if read { Shutdown::Read } else { Shutdown::Write })
            }),
            Self::SendBuffer(_, size) => socket.map(|socket| {
                socket.protocol.change_options(&mut |options| options.send_buffer = Some(size as usize));
            }),
            Self::PipeSize(_) => file.file.set_pipe_size(1 << 18).map(drop),
            Self::Close(_) => {
                files[at] = None;
                Ok(())
            }
        };
        // What fails changes nothing, and is as good as any other step.
        let _ = done;
    }
}

fn open(file: Arc<dyn File>) -> Option<Arc<OpenFile>> {
    Some(OpenFile::new(file, OpenFlags::RDWR))
}

fn unix(socket_type: u32) -> Vec<Option<Arc<OpenFile>>> {
    let kind = Kind { family: abi::AF_UNIX, socket_type, protocol: 0 };
    let me = PeerCredentials { pid: 1, uid: 0, gid: 0 };
    Socket::pair(kind, me).unwrap().map(|end| open(Arc::new(end))).into()
}

/// Two that send to each other over the loopback.
fn udp() -> Vec<Option<Arc<OpenFile>>> {
    let (stack, who) = (Stack::new(crate::arch::now), Credentials::root());
    let kind = Kind { family: abi::AF_INET, socket_type: abi::SOCK_DGRAM, protocol: 0 };
    let ends = [(); 2].map(|()| Socket::new(&stack, kind, &who).unwrap());
    let any = SocketAddress::Inet(Endpoint::new(core::net::Ipv4Addr::LOCALHOST, 0));
    ends.iter().for_each(|end| end.protocol.bind(&any, &who).unwrap());
    let names = [0, 1].map(|at: usize| ends[at].protocol.local());
    ends[0].protocol.connect(&names[1], &who).unwrap();
    ends[1].protocol.connect(&names[0], &who).unwrap();
    ends.map(|end| open(Arc::new(end))).into()
}

/// A counter, an epoll instance that watches it, and one that watches that.
fn watched(mode: u32) -> Vec<Option<Arc<OpenFile>>> {
    let (inner, outer) = (Arc::new(Epoll::new()), Arc::new(Epoll::new()));
    let (counter, middle) = (open(Arc::new(EventFd::new(0, false))), open(inner.clone()));
    let event = |events: Events| Event { events: events.bits() | mode, data: 0 };
    inner.add(3, counter.as_ref().unwrap(), event(Events::IN)).unwrap();
    outer.add(4, middle.as_ref().unwrap(), event(Events::IN)).unwrap();
    vec![counter, middle, open(outer)]
}

fn kinds() -> Vec<Vec<Option<Arc<OpenFile>>>> {
    vec![
        pipe::create().map(open).into(),
        vec![open(Arc::new(EventFd::new(0, false)))],
        vec![open(Arc::new(EventFd::new(3, true)))],
        unix(abi::SOCK_STREAM),
        unix(abi::SOCK_DGRAM),
        unix(abi::SOCK_SEQPACKET),
        udp(),
        watched(0),
    ]
}

/// Who waits for a file, for what, and what it was ready for then.
struct Waiting<'a> {
    file: &'a OpenFile,
    events: Events,
    waiter: Waiter<'a>,
    before: Events,
}

impl<'a> Waiting<'a> {
    /// As poll(2): joins the queue, then looks.
    fn new(file: &'a OpenFile, events: Events) -> Self {
        let waiter = Waiter::new(file.file.wait_queue().unwrap(), events);
        Self { file, events: events | Events::ERR | Events::HUP, waiter, before: file.file.poll() }
    }

    /// Of what it waits for, what is so now and was not: without a wake.
    fn missed(&self) -> Events {
        let new = self.file.file.poll().difference(self.before) & self.events;
        if self.waiter.was_woken() { Events::empty() } else { new }
    }
}

proptest! {
    #[test]
    fn who_waits_for_a_file_is_woken_when_poll_says_that_it_is_ready(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        for (kind, mut files) in kinds().into_iter().enumerate() {
            for step in &steps {
                // Who waits keeps the file open, but not the one that is closed.
                let mut kept = files.clone();
                if let Step::Close(at) = step
                    && let Some(closed) = kept.get_mut(*at)
                {
                    *closed = None;
                }
                let waiting: Vec<_> = kept
                    .iter()
                    .flatten()
                    .flat_map(|file| [Events::IN, Events::OUT, Events::RDHUP].map(|events| Waiting::new(file, events)))
                    .collect();
                step.clone().take(&mut files);
                for one in &waiting {
                    prop_assert_eq!(one.missed(), Events::empty(), "kind {}, {:?}", kind, step);
                }
            }
        }
    }
}
