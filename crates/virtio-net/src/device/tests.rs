//! The driver against the model of the device.

use alloc::vec::Vec;

use hw::nic::{RxChecksum, StartError};
use hw::pci::{PciConfig, PciError};
use proptest::prelude::*;

use super::*;
use crate::fake::{Fake, MAC, MSIX_CAPABILITY, plain};
use crate::spec::status;

const HEADER: usize = header::LENGTH;

fn start(fake: &Fake) -> VirtioNet {
    VirtioNet::start(fake.pci.device()).unwrap()
}

fn start_error(fake: &Fake) -> StartError {
    let error = VirtioNet::start(fake.pci.device()).err().expect("the start fails");
    assert_eq!(fake.memory.live(), 0, "nothing is left behind");
    error
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

fn send(nic: &mut VirtioNet, bytes: &[u8]) -> Result<(), TxError> {
    nic.transmit(bytes.len(), Offload::None, &mut |buffer| buffer.copy_from_slice(bytes))
}

fn pending(fake: &Fake) -> Events {
    Events::from_bits_retain(fake.irq.take_pending())
}

#[test]
fn a_device_starts_with_what_it_offers() {
    let fake = Fake::new();
    let nic = start(&fake);
    assert_eq!(nic.mac().0, MAC);
    assert!(nic.link_up());
    assert_eq!(
        nic.capabilities(),
        Capabilities { mtu: 1500, tx_checksum: true, rx_checksum: true, rx_depth: 8, tx_depth: 8 }
    );
    let model = fake.model();
    assert_eq!(model.accepted, Features::all().bits());
    assert_eq!(model.status, 0xf);
    assert_eq!(model.notifications, [queues::RECEIVE], "the device hears of its receive buffers");
}

#[test]
fn without_optional_features_there_are_defaults() {
    let fake = Fake::new();
    fake.model().offered = Features::VERSION_1;
    let mut nic = start(&fake);
    assert!(nic.mac().is_station() && nic.mac().0 != MAC);
    assert!(nic.link_up() && !nic.capabilities().tx_checksum && nic.capabilities().mtu == 1500);
    assert_eq!(
        nic.transmit(60, Offload::Checksum { start: 34, offset: 6 }, &mut |_| ()),
        Err(TxError::Offload)
    );
    assert!(fake.model().deliver(plain(1), &frame(60, 1)));
    assert_eq!(nic.receive().as_deref(), Some(&frame(60, 1)[..]));
}

#[test]
fn an_impossible_mtu_is_declined() {
    let fake = Fake::new();
    fake.model().config[net::MTU..net::MTU + 2].copy_from_slice(&[67, 0]);
    let nic = start(&fake);
    assert_eq!(nic.capabilities().mtu, 1500);
    assert_eq!(fake.model().accepted & Features::MTU.bits(), 0);
}

#[test]
fn received_frames_are_handed_out_in_order() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for round in 0..50u8 {
        for seed in 0..8 {
            assert!(fake.model().deliver(plain(1), &frame(60 + usize::from(seed) * 200, seed ^ round)));
        }
        assert!(!fake.model().deliver(plain(1), &frame(60, 0)), "the ring is empty");
        for seed in 0..8 {
            assert_eq!(nic.receive().unwrap()[..], frame(60 + usize::from(seed) * 200, seed ^ round));
        }
        assert!(nic.receive().is_none());
        nic.flush();
    }
    assert_eq!((nic.statistics().rx_packets, nic.statistics().rx_dropped), (400, 0));
    assert_eq!(nic.fault(), None);
}

#[test]
fn frames_that_are_kept_do_not_starve_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut kept = Vec::new();
    for seed in 0..100 {
        assert!(fake.model().deliver(plain(1), &frame(64, seed)), "frame {seed}");
        kept.push(nic.receive().unwrap());
    }
    for (seed, kept) in kept.iter().enumerate() {
        assert_eq!(kept[..], frame(64, seed as u8));
    }
}

#[test]
fn frames_survive_the_driver() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().deliver(plain(1), &frame(64, 9));
    let kept = nic.receive().unwrap();
    drop(nic);
    assert_eq!(kept[..], frame(64, 9));
    drop(kept);
    assert_eq!(fake.memory.live(), 0);
}

#[test]
fn the_header_tells_what_is_known_of_the_checksum() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for (flags, expected) in [(0, RxChecksum::Unknown), (1, RxChecksum::Good), (2, RxChecksum::Good)] {
        let mut header = plain(1);
        header[0] = flags;
        fake.model().deliver(header, &frame(60, 0));
        assert_eq!(nic.receive().unwrap().checksum(), expected);
    }
}

#[test]
fn a_frame_in_several_buffers_is_put_together() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for round in 0..20 {
        fake.model().deliver_in_pieces(&frame(1000, round), 200);
        fake.model().deliver(plain(1), &frame(60, round));
        assert_eq!(nic.receive().unwrap()[..], frame(1000, round));
        assert_eq!(nic.receive().unwrap()[..], frame(60, round));
        assert!(nic.receive().is_none());
    }
    assert_eq!(fake.model().ring(0).waiting(), 8, "all buffers went back");
}

#[test]
fn runts_are_counted_and_skipped() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().deliver(plain(1), &frame(13, 0));
    fake.model().deliver(plain(1), &frame(14, 0));
    assert_eq!(nic.receive().unwrap().len(), 14);
    assert_eq!(nic.statistics().rx_errors, 1);
}

#[test]
fn nothing_but_runts_does_not_keep_the_core() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    (0..8).for_each(|_| assert!(fake.model().deliver(plain(1), b"runt")));
    assert!(nic.receive().is_none());
    assert_eq!(nic.statistics().rx_errors, 8);
}

#[test]
fn sent_frames_reach_the_device_with_one_notification_per_batch() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().notifications.clear();
    for seed in 0..3 {
        send(&mut nic, &frame(100, seed)).unwrap();
    }
    nic.flush();
    nic.flush();
    assert_eq!(fake.model().notifications, [queues::TRANSMIT]);
    let sent = fake.model().sent();
    assert_eq!(sent.len(), 3);
    for (seed, (header, bytes)) in sent.iter().enumerate() {
        assert_eq!(header[..], [0; HEADER]);
        assert_eq!(bytes[..], frame(100, seed as u8));
    }
}

#[test]
fn a_checksum_is_left_to_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    nic.transmit(60, Offload::Checksum { start: 34, offset: 16 }, &mut |bytes| bytes.fill(5)).unwrap();
    let (header, bytes) = fake.model().sent().remove(0);
    assert_eq!(header, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
    assert_eq!(bytes, [5; 60]);
}

#[test]
fn frames_that_cannot_be_sent_are_refused() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut never = |_: &mut [u8]| panic!("nothing is written");
    let outside = Offload::Checksum { start: 50, offset: 16 };
    assert_eq!(nic.transmit(13, Offload::None, &mut never), Err(TxError::Length));
    assert_eq!(nic.transmit(1519, Offload::None, &mut never), Err(TxError::Length));
    assert_eq!(nic.transmit(60, outside, &mut never), Err(TxError::Offload));
    assert_eq!(nic.statistics().tx_dropped, 3);
    send(&mut nic, &frame(1518, 0)).unwrap();
    assert_eq!(fake.model().sent()[0].1, frame(1518, 0));
}

#[test]
fn a_full_queue_refuses_and_reports_when_there_is_room_again() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for round in 0..50 {
        while nic.can_transmit() {
            send(&mut nic, &frame(60, round)).unwrap();
        }
        assert_eq!(send(&mut nic, &frame(60, 0)), Err(TxError::Full));
        assert!(!nic.enable_interrupts());
        assert_eq!(fake.model().sent().len(), 8);
        let pending = pending(&fake);
        assert_eq!(nic.acknowledge(pending), Events::TX, "round {round}");
        assert!(nic.can_transmit());
    }
}

#[test]
fn room_that_was_made_before_interrupts_are_on_is_reported_once() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    while nic.can_transmit() {
        send(&mut nic, &frame(60, 0)).unwrap();
    }
    nic.disable_interrupts();
    fake.model().sent();
    assert_eq!(fake.irq.raised(), 0);
    assert!(nic.enable_interrupts());
    assert!(!nic.enable_interrupts(), "nobody waits any more");
}

#[test]
fn sending_causes_no_interrupts_while_there_is_room() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    nic.enable_interrupts();
    for seed in 0..100 {
        send(&mut nic, &frame(60, seed)).unwrap();
        nic.flush();
        fake.model().sent();
    }
    assert_eq!(fake.irq.raised(), 0);
}

#[test]
fn receiving_interrupts_once_and_costs_no_register_access() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    assert!(!nic.enable_interrupts());
    fake.model().deliver(plain(1), &frame(60, 0));
    fake.model().deliver(plain(1), &frame(60, 1));
    assert_eq!(fake.irq.raised(), 1);
    // The model's lock is held: any register access would hang this test.
    let model = fake.model();
    let events = nic.acknowledge(Events::RX);
    nic.disable_interrupts();
    assert!(events == Events::RX && nic.receive().is_some() && nic.receive().is_some());
    drop(model);
    fake.model().ring(0).want_notification(false);
    nic.flush();
    assert!(!nic.enable_interrupts());
}

#[test]
fn work_that_arrives_before_interrupts_are_on_is_reported() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().deliver(plain(1), &frame(60, 0));
    assert_eq!(fake.irq.raised(), 0);
    assert!(nic.enable_interrupts());
    nic.receive().unwrap();
    assert!(!nic.enable_interrupts());
    fake.model().deliver(plain(1), &frame(60, 0));
    assert_eq!(fake.irq.raised(), 1);
}

#[test]
fn link_changes_are_reported_once() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().set_link(false);
    assert_eq!(nic.acknowledge(pending(&fake)), Events::LINK);
    assert!(!nic.link_up());
    fake.model().change_config();
    assert_eq!(nic.acknowledge(pending(&fake)), Events::empty());
    fake.model().set_link(true);
    assert_eq!(nic.acknowledge(pending(&fake)), Events::LINK);
    assert!(nic.link_up());
}

#[test]
fn without_msix_the_pin_is_used_and_its_cause_read() {
    let fake = Fake::new();
    fake.irq.limit_vectors(0);
    let mut nic = start(&fake);
    nic.enable_interrupts();
    fake.model().deliver(plain(1), &frame(60, 0));
    assert_eq!(nic.acknowledge(pending(&fake)), Events::RX | Events::TX);
    assert_eq!(nic.acknowledge(Events::all()), Events::empty(), "reading cleared the cause");
    fake.model().set_link(false);
    assert_eq!(nic.acknowledge(pending(&fake)), Events::LINK);
}

#[test]
fn a_device_with_a_single_vector_shares_it() {
    let fake = Fake::new();
    fake.pci.config.write_u16(u16::from(MSIX_CAPABILITY) + 2, 0);
    let mut nic = start(&fake);
    nic.enable_interrupts();
    fake.model().deliver(plain(1), &frame(60, 0));
    assert_eq!(pending(&fake), Events::all());
    assert_eq!(nic.acknowledge(Events::all()), Events::RX | Events::TX);
}

#[test]
fn a_device_that_breaks_the_rules_is_stopped() {
    type Case = (DeviceFault, fn(&Fake));
    let cases: [Case; 6] = [
        (DeviceFault::Index, |fake| fake.model().ring(0).complete(8, 60)),
        (DeviceFault::Index, |fake| fake.model().ring(0).set_used_index(9)),
        (DeviceFault::Length, |fake| fake.model().ring(0).complete(0, 2049)),
        (DeviceFault::Length, |fake| fake.model().ring(0).complete(0, HEADER as u32 - 1)),
        (DeviceFault::Incomplete, |fake| {
            fake.model().deliver(plain(2), &frame(60, 0));
        }),
        (DeviceFault::Incomplete, |fake| {
            fake.model().deliver(plain(0), &frame(60, 0));
        }),
    ];
    for (fault, misbehave) in cases {
        let fake = Fake::new();
        let mut nic = start(&fake);
        misbehave(&fake);
        assert!(nic.receive().is_none());
        assert_eq!(nic.fault(), Some(fault));
        assert_eq!(fake.model().status, 0, "the device was reset");
        assert_eq!(fake.pci.config.read_u16(4) & 4, 0, "and may not reach memory");
        assert_eq!(send(&mut nic, &frame(60, 0)), Err(TxError::Broken));
        assert!(!nic.link_up() && !nic.can_transmit() && !nic.enable_interrupts() && nic.receive().is_none());
        assert_eq!(nic.acknowledge(Events::all()), Events::empty());
    }
}

#[test]
fn a_buffer_used_twice_stops_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let id = fake.model().ring(1).used_index().into();
    send(&mut nic, &frame(60, 0)).unwrap();
    (1..8).for_each(|seed| send(&mut nic, &frame(60, seed)).unwrap());
    fake.model().ring(1).complete_all(&[(id, 0), (id, 0)]);
    assert!(!nic.can_transmit());
    assert_eq!(nic.fault(), Some(DeviceFault::Duplicate));
}

#[test]
fn a_device_that_asks_for_a_reset_or_vanishes_is_a_fault() {
    for (status, fault) in [(0xf | status::NEEDS_RESET, DeviceFault::NeedsReset), (0xff, DeviceFault::Gone)] {
        let fake = Fake::new();
        let mut nic = start(&fake);
        fake.model().status = status;
        fake.model().change_config();
        assert_eq!(nic.acknowledge(pending(&fake)), Events::LINK);
        assert_eq!((nic.fault(), nic.link_up()), (Some(fault), false));
    }
}

#[test]
fn a_device_that_cannot_be_started_says_why() {
    type Case = (StartError, fn(&Fake));
    let cases: [Case; 10] = [
        (StartError::TimedOut("the reset of the device"), |fake| fake.model().never_resets = true),
        (StartError::Unsupported("the device refuses the features that it offers"), |fake| {
            fake.model().refuses_features = true;
        }),
        (StartError::Unsupported("a device from before virtio 1"), |fake| {
            fake.model().offered.remove(Features::VERSION_1);
        }),
        (StartError::Unsupported("a device without the virtio 1 interface"), |fake| {
            fake.pci.config.write_u8(0x34, 0);
        }),
        (StartError::Unsupported("the device has no room for an interrupt vector"), |fake| {
            fake.model().refuses_vectors = true;
        }),
        (StartError::BadValue("hardware address"), |fake| fake.model().config[0] = 1),
        (StartError::BadValue("queue_size"), |fake| fake.model().queues[1].size = 0),
        (StartError::BadValue("queue_notify_off"), |fake| fake.pci.config.write_u32(0x50, 0x1000)),
        (StartError::Pci(PciError::BadCapability), |fake| fake.pci.config.write_u32(0x8c, 0x4000)),
        (StartError::Pci(PciError::BadCapability), |fake| fake.pci.config.write_u32(0x90, 8)),
    ];
    for (expected, spoil) in cases {
        let fake = Fake::new();
        spoil(&fake);
        assert_eq!(start_error(&fake), expected);
        assert_eq!(fake.pci.config.read_u16(4) & 4, 0, "bus mastering is off");
    }
}

#[test]
fn every_failing_allocation_is_an_error_that_leaves_nothing_behind() {
    for allowed in 0..4 {
        let fake = Fake::new();
        fake.memory.limit_allocations(allowed);
        assert_eq!(start_error(&fake), StartError::NoMemory);
    }
}

#[test]
fn odd_queue_sizes_are_cut_to_powers_of_two() {
    let fake = Fake::new();
    fake.model().queues[0].size = 1000;
    fake.model().queues[1].size = u16::MAX;
    let mut nic = start(&fake);
    assert_eq!((nic.capabilities().rx_depth, nic.capabilities().tx_depth), (512, 512));
    let sizes = fake.model().queues.each_ref().map(|queue| queue.size);
    assert_eq!(sizes, [512, 512]);
    assert!(fake.model().deliver(plain(1), &frame(60, 0)) && nic.receive().is_some());
}

#[test]
fn a_configuration_that_never_rests_does_not_hang_the_start() {
    let fake = Fake::new();
    fake.model().restless = true;
    assert_eq!(start(&fake).mac().0, MAC);
}

#[test]
fn a_stopped_driver_leaves_the_device_reset_and_restartable() {
    let fake = Fake::new();
    drop(start(&fake));
    assert_eq!((fake.model().status, fake.memory.live()), (0, 0));
    let mut nic = start(&fake);
    assert!(fake.model().deliver(plain(1), &frame(60, 0)) && nic.receive().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    Pieces(usize),
    Receive,
    Forget,
    Send(usize),
    DeviceSends,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (14..1500usize).prop_map(Step::Deliver),
        (14..1500usize).prop_map(Step::Pieces),
        Just(Step::Receive),
        Just(Step::Forget),
        (14..1518usize).prop_map(Step::Send),
        Just(Step::DeviceSends),
        Just(Step::Flush),
    ]
}

proptest! {
    /// The model: two first-in first-out queues of frames. Interrupts are never lost.
    #[test]
    fn frames_arrive_and_leave_as_from_two_queues(steps in prop::collection::vec(step(), 1..200)) {
        let fake = Fake::new();
        let mut nic = start(&fake);
        let (mut arriving, mut leaving) = (Vec::new(), Vec::new());
        let mut kept = Vec::new();
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Deliver(length) => {
                    if fake.model().deliver(plain(1), &frame(length, seed as u8)) {
                        arriving.push(frame(length, seed as u8));
                    }
                }
                Step::Pieces(length) if fake.model().ring(0).waiting() >= 2 => {
                    fake.model().deliver_in_pieces(&frame(length, seed as u8), 1000);
                    arriving.push(frame(length, seed as u8));
                }
                Step::Receive => match nic.receive() {
                    Some(received) => {
                        prop_assert_eq!(&received[..], &arriving.remove(0)[..]);
                        kept.push(received);
                    }
                    None => prop_assert!(arriving.is_empty()),
                },
                Step::Forget => kept.clear(),
                Step::Send(length) => {
                    if send(&mut nic, &frame(length, seed as u8)).is_ok() {
                        leaving.push(frame(length, seed as u8));
                    }
                }
                Step::DeviceSends => {
                    let sent: Vec<_> = fake.model().sent().into_iter().map(|(_, bytes)| bytes).collect();
                    prop_assert_eq!(&sent, &leaving);
                    leaving.clear();
                }
                Step::Flush => nic.flush(),
                Step::Pieces(_) => {}
            }
            prop_assert_eq!(nic.fault(), None);
        }
    }
}
