//! The driver against the model of the device.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hw::Message;
use hw::nic::RxChecksum;
use hw::pci::{PciConfig, PciError};
use proptest::prelude::*;

use super::*;
use crate::fake::{Fake, MAC, MSIX_CAPABILITY};
use crate::registers::pt;

const IMR_RECEIVE: usize = pt::IMR;
const IMR_TRANSMIT: usize = pt::IMR + pt::STRIDE;

fn start(fake: &Fake) -> Vmxnet3 {
    Vmxnet3::start(fake.pci.device()).unwrap()
}

fn start_error(fake: &Fake) -> StartError {
    let error = Vmxnet3::start(fake.pci.device()).err().expect("the start fails");
    assert_eq!(fake.memory.live(), 0, "nothing is left behind");
    assert_eq!(fake.pci.config.read_u16(4) & 4, 0, "bus mastering is off");
    error
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

fn send(nic: &mut Vmxnet3, bytes: &[u8]) -> Result<(), TxError> {
    nic.transmit(bytes.len(), Offload::None, &mut |buffer| buffer.copy_from_slice(bytes))
}

fn pending(fake: &Fake) -> Events {
    Events::from_bits_retain(fake.irq.take_pending())
}

fn told(fake: &Fake, register: usize) -> usize {
    fake.model().told(register)
}

/// Takes MSI-X away from the device.
fn without_msix(fake: &Fake) {
    fake.pci.config.write_u8(MSIX_CAPABILITY.into(), 0);
}

#[test]
fn a_device_starts_with_interrupts_off() {
    let fake = Fake::new();
    let nic = start(&fake);
    assert_eq!(nic.mac().0, MAC);
    assert!(nic.link_up() && nic.capabilities().tx_checksum);
    assert!(fake.model().active);
    assert!(fake.model().deliver(&frame(60, 0)));
    fake.model().set_link(false);
    assert_eq!(fake.irq.raised(), 0);
}

#[test]
fn received_frames_are_handed_out_in_order_all_around_the_rings() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut delivered = 0u32;
    for round in 0..20 {
        for _ in 0..=round * 13 {
            assert!(fake.model().deliver(&frame(60 + delivered as usize % 1400, delivered as u8)));
            delivered += 1;
        }
        for index in delivered - round * 13 - 1..delivered {
            assert_eq!(nic.receive().unwrap()[..], frame(60 + index as usize % 1400, index as u8));
        }
        assert!(nic.receive().is_none());
        nic.flush();
    }
    assert_eq!(nic.statistics().rx_packets, u64::from(delivered));
}

#[test]
fn a_full_ring_loses_frames_and_goes_on() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for _ in 0..5 {
        let delivered = (0..1100).filter(|_| fake.model().deliver(&frame(60, 1))).count();
        assert_eq!(delivered, 1023);
        assert_eq!(core::iter::from_fn(|| nic.receive()).count(), 1023);
    }
}

#[test]
fn frames_that_are_kept_do_not_starve_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut kept = Vec::new();
    for seed in 0..1000u32 {
        assert!(fake.model().deliver(&frame(64, seed as u8)), "frame {seed}");
        kept.push(nic.receive().unwrap());
    }
    for (seed, kept) in kept.iter().enumerate() {
        assert_eq!(kept[..], frame(64, seed as u8));
    }
}

#[test]
fn the_device_hears_of_buffers_only_when_it_wants() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let before = told(&fake, pt::RXPROD);
    for wanted in [false, true] {
        if wanted {
            fake.model().want_producer();
        }
        fake.model().deliver(&frame(60, 0));
        nic.receive().unwrap();
        nic.flush();
        nic.flush();
        assert_eq!(told(&fake, pt::RXPROD) - before, usize::from(wanted));
    }
}

#[test]
fn buffers_that_the_device_leaves_out_go_back_to_it() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for seed in 0..500u32 {
        fake.model().leave_out();
        fake.model().leave_out();
        assert!(fake.model().deliver(&frame(60, seed as u8)));
        assert_eq!(nic.receive().unwrap()[..], frame(60, seed as u8));
    }
    assert_eq!(nic.fault(), None);
}

#[test]
fn damaged_frames_and_those_in_pieces_are_counted_and_skipped() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    {
        let mut model = fake.model();
        model.deliver(&frame(13, 0));
        for (index, words) in [(1, [0xc000, 60 | 1 << 14]), (2, [0x8000, 2048]), (3, [0x4000, 60])] {
            model.leave_out();
            model.report_received([words[0] | index, words[1], 0]);
        }
        model.deliver(&frame(60, 9));
    }
    assert_eq!(nic.receive().unwrap()[..], frame(60, 9));
    assert_eq!((nic.statistics().rx_errors, nic.fault()), (4, None));
}

#[test]
fn nothing_but_damaged_frames_does_not_keep_the_core() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    (0..1023).for_each(|_| assert!(fake.model().deliver(b"runt")));
    assert!(nic.receive().is_none());
    assert_eq!(nic.statistics().rx_errors, 1023);
}

#[test]
fn a_verified_checksum_is_passed_on() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().deliver_with(&frame(60, 0), 0x00ad_0000);
    fake.model().deliver_with(&frame(60, 0), 0);
    assert_eq!(nic.receive().unwrap().checksum(), RxChecksum::Good);
    assert_eq!(nic.receive().unwrap().checksum(), RxChecksum::Unknown);
}

#[test]
fn a_device_that_breaks_the_rules_is_stopped() {
    type Case = (DeviceFault, fn(&Fake));
    let cases: [Case; 5] = [
        (DeviceFault::Index, |fake| fake.model().report_received([1024 | 0xc000, 60, 0])),
        (DeviceFault::Index, |fake| fake.model().report_received([1 << 16 | 0xc000, 60, 0])),
        (DeviceFault::Length, |fake| fake.model().report_received([0xc000, 2049, 0])),
        (DeviceFault::Duplicate, |fake| {
            fake.model().report_received([0xc000, 60, 0]);
            fake.model().report_received([0xc000, 60, 0]);
        }),
        (DeviceFault::Duplicate, |fake| fake.model().report_received([800 | 0xc000, 60, 0])),
    ];
    for (fault, misbehave) in cases {
        let fake = Fake::new();
        let mut nic = start(&fake);
        misbehave(&fake);
        assert!(core::iter::from_fn(|| nic.receive()).count() <= 1);
        assert_eq!(nic.fault(), Some(fault));
        assert!(!fake.model().active, "the device was reset");
        assert_eq!(fake.pci.config.read_u16(4) & 4, 0, "and may not reach memory");
        assert_eq!(send(&mut nic, &frame(60, 0)), Err(TxError::Broken));
        assert!(!nic.link_up() && !nic.can_transmit() && !nic.enable_interrupts() && nic.receive().is_none());
        assert_eq!(nic.acknowledge(Events::all()), Events::empty());
    }
}

#[test]
fn wrong_reports_of_sent_frames_stop_the_device() {
    for (report, fault) in
        [(256, DeviceFault::Index), (255, DeviceFault::Duplicate), (0xfff, DeviceFault::Index)]
    {
        let fake = Fake::new();
        let mut nic = start(&fake);
        (0..255).for_each(|seed| send(&mut nic, &frame(60, seed)).unwrap());
        fake.model().report_sent(report);
        assert!(!nic.can_transmit());
        assert_eq!(nic.fault(), Some(fault));
    }
}

#[test]
fn a_frame_reported_sent_twice_stops_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    (0..255).for_each(|seed| send(&mut nic, &frame(60, seed)).unwrap());
    fake.model().report_sent(3);
    fake.model().report_sent(3);
    assert!(!nic.can_transmit());
    assert_eq!(nic.fault(), Some(DeviceFault::Duplicate));
}

#[test]
fn sent_frames_reach_the_device_with_one_register_write_per_batch() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for seed in 0..3 {
        send(&mut nic, &frame(100, seed)).unwrap();
    }
    nic.flush();
    nic.flush();
    assert_eq!(told(&fake, pt::TXPROD), 1);
    let expected: Vec<_> = (0..3).map(|seed| (frame(100, seed), None)).collect();
    assert_eq!(fake.model().send(), expected);
}

#[test]
fn a_checksum_is_left_to_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    nic.transmit(60, Offload::Checksum { start: 34, offset: 16 }, &mut |bytes| bytes.fill(5)).unwrap();
    assert_eq!(fake.model().send(), [(alloc::vec![5; 60], Some((34, 50)))]);
}

#[test]
fn frames_that_cannot_be_sent_are_refused() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut never = |_: &mut [u8]| panic!("nothing is written");
    let far = Offload::Checksum { start: 1020, offset: 16 };
    assert_eq!(nic.transmit(13, Offload::None, &mut never), Err(TxError::Length));
    assert_eq!(nic.transmit(1519, Offload::None, &mut never), Err(TxError::Length));
    assert_eq!(nic.transmit(1100, far, &mut never), Err(TxError::Offload));
    assert_eq!(nic.statistics().tx_dropped, 3);
}

#[test]
fn a_full_ring_refuses_and_reports_when_there_is_room_again() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for round in 0..5 {
        while nic.can_transmit() {
            send(&mut nic, &frame(60, round)).unwrap();
        }
        assert_eq!(send(&mut nic, &frame(60, 0)), Err(TxError::Full));
        assert!(!nic.enable_interrupts());
        assert_eq!(fake.model().send().len(), 255);
        assert_eq!(nic.acknowledge(pending(&fake)), Events::TX, "round {round}");
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
    fake.model().send();
    assert!(nic.enable_interrupts());
    assert!(!nic.enable_interrupts(), "nobody waits any more");
}

#[test]
fn sending_causes_no_interrupts_while_there_is_room() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    nic.enable_interrupts();
    for seed in 0..1000u32 {
        send(&mut nic, &frame(60, seed as u8)).unwrap();
        nic.flush();
        fake.model().send();
    }
    assert_eq!((fake.irq.raised(), told(&fake, IMR_TRANSMIT)), (0, 0));
}

#[test]
fn receiving_interrupts_once_and_costs_one_register_write() {
    for auto_masks in [true, false] {
        let fake = Fake::new();
        fake.model().auto_masks = auto_masks;
        let mut nic = start(&fake);
        for _ in 0..5 {
            assert!(!nic.enable_interrupts());
            let before = told(&fake, IMR_RECEIVE);
            fake.model().deliver(&frame(60, 0));
            assert_eq!(nic.acknowledge(pending(&fake)), Events::RX);
            nic.disable_interrupts();
            fake.model().deliver(&frame(60, 1));
            assert_eq!(told(&fake, IMR_RECEIVE) - before, usize::from(!auto_masks));
            // The model's lock is held: any register access would hang this test.
            let model = fake.model();
            assert!(nic.receive().is_some() && nic.receive().is_some() && nic.receive().is_none());
            nic.flush();
            drop(model);
            assert!(pending(&fake).is_empty(), "masked");
        }
    }
}

#[test]
fn work_that_arrives_before_interrupts_are_on_is_reported() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().deliver(&frame(60, 0));
    assert!(nic.enable_interrupts());
    nic.receive().unwrap();
    assert!(!nic.enable_interrupts());
}

#[test]
fn link_changes_are_reported_once_by_every_kind_of_interrupt() {
    let kinds: [fn(&Fake); 3] = [
        |_| (),
        |fake| {
            without_msix(fake);
            fake.pci.config.add_capability(0x84, &[5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        },
        without_msix,
    ];
    for (kind, prepare) in kinds.into_iter().enumerate() {
        let fake = Fake::new();
        prepare(&fake);
        let mut nic = start(&fake);
        if kind == 1 {
            let config = &fake.pci.config;
            let message =
                Message { address: config.read_u32(0x88).into(), data: config.read_u16(0x90).into() };
            fake.model().message = Some(message);
        }
        for up in [false, true, false, true] {
            nic.enable_interrupts();
            fake.model().set_link(up);
            let events = nic.acknowledge(pending(&fake));
            assert!(events.contains(Events::LINK), "kind {kind}, {up}");
            assert_eq!(nic.link_up(), up);
        }
        nic.enable_interrupts();
        fake.model().deliver(&frame(60, 0));
        let events = nic.acknowledge(pending(&fake));
        assert_eq!(events, Events::RX, "kind {kind}");
    }
}

#[test]
fn an_interrupt_by_the_pin_of_another_device_is_nothing() {
    let fake = Fake::new();
    without_msix(&fake);
    let mut nic = start(&fake);
    nic.enable_interrupts();
    fake.model().deliver(&frame(60, 0));
    assert_eq!(nic.acknowledge(pending(&fake)), Events::RX);
    assert_eq!(nic.acknowledge(Events::all()), Events::empty());
}

#[test]
fn with_a_shared_vector_waiting_for_room_does_not_silence_received_frames() {
    let fake = Fake::new();
    without_msix(&fake);
    let mut nic = start(&fake);
    while nic.can_transmit() {
        send(&mut nic, &frame(60, 0)).unwrap();
    }
    nic.disable_interrupts();
    fake.model().send();
    assert!(nic.enable_interrupts());
    fake.irq.take_pending();
    assert_eq!(nic.acknowledge(Events::all()), Events::empty());
    nic.disable_interrupts();
    assert!(!nic.enable_interrupts());
    fake.model().deliver(&frame(60, 0));
    assert_eq!(nic.acknowledge(pending(&fake)), Events::RX);
}

#[test]
fn an_error_of_a_queue_is_a_fault_only_when_it_is_stopped() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    nic.enable_interrupts();
    fake.model().queue_error(false);
    assert_eq!(nic.acknowledge(pending(&fake)), Events::empty());
    assert_eq!(nic.fault(), None);
    nic.enable_interrupts();
    fake.model().queue_error(true);
    assert_eq!(nic.acknowledge(pending(&fake)), Events::LINK);
    assert_eq!(nic.fault(), Some(DeviceFault::NeedsReset));
}

#[test]
fn a_device_that_vanishes_is_a_fault() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().gone = true;
    assert_eq!(nic.acknowledge(Events::LINK), Events::LINK);
    assert_eq!((nic.fault(), nic.link_up()), (Some(DeviceFault::Gone), false));
}

#[test]
fn a_device_that_cannot_be_started_says_why() {
    type Case = (StartError, fn(&Fake));
    let cases: [Case; 6] = [
        (StartError::Unsupported("a device without revision 1"), |fake| fake.model().gone = true),
        (StartError::Unsupported("a device without revision 1"), |fake| fake.model().revisions = [6, 1]),
        (StartError::BadValue("hardware address"), |fake| fake.model().mac = [0xff; 6]),
        (StartError::Unsupported("the device refuses its configuration"), |fake| {
            fake.model().refuses = true;
        }),
        (StartError::BadValue("size of a register window"), |fake| {
            fake.pci.config.add_memory_bar(1, 0xfebd_1000, 0x100);
        }),
        (StartError::Pci(PciError::BadCapability), |fake| {
            fake.pci.config.write_u32(u16::from(MSIX_CAPABILITY) + 4, 0x2002);
        }),
    ];
    for (expected, spoil) in cases {
        let fake = Fake::new();
        spoil(&fake);
        assert_eq!(start_error(&fake), expected);
    }
}

#[test]
fn every_failing_allocation_is_an_error_that_leaves_nothing_behind() {
    for allowed in 0..8 {
        let fake = Fake::new();
        fake.memory.limit_allocations(allowed);
        assert_eq!(start_error(&fake), StartError::NoMemory);
    }
}

#[test]
fn a_stopped_driver_leaves_the_device_off_and_restartable() {
    let fake = Fake::new();
    drop(start(&fake));
    assert!(!fake.model().active);
    assert_eq!(fake.memory.live(), 0);
    let mut nic = start(&fake);
    assert!(fake.model().deliver(&frame(60, 0)));
    assert!(nic.receive().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    LeaveOut,
    Receive(usize),
    Forget,
    Send(usize, usize),
    DeviceSends,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..100usize).prop_map(Step::Deliver),
        Just(Step::LeaveOut),
        (1..100usize).prop_map(Step::Receive),
        Just(Step::Forget),
        (1..100usize, 14..1518usize).prop_map(|(count, length)| Step::Send(count, length)),
        Just(Step::DeviceSends),
        Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The model: two first-in first-out queues of frames.
    #[test]
    fn frames_arrive_and_leave_as_from_two_queues(steps in prop::collection::vec(step(), 1..60)) {
        let fake = Fake::new();
        let mut nic = start(&fake);
        let (mut arriving, mut leaving) = (VecDeque::new(), Vec::new());
        let mut kept = Vec::new();
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Deliver(count) => for index in 0..count {
                    let frame = frame(60 + index, seed as u8);
                    if fake.model().deliver(&frame) {
                        arriving.push_back(frame);
                    }
                },
                Step::LeaveOut if arriving.is_empty() => {
                    let mut model = fake.model();
                    model.leave_out();
                    prop_assert!(model.deliver(&frame(60, seed as u8)));
                    arriving.push_back(frame(60, seed as u8));
                }
                Step::LeaveOut => {}
                Step::Receive(count) => for _ in 0..count {
                    let received = nic.receive();
                    prop_assert_eq!(received.as_deref().map(<[u8]>::to_vec), arriving.pop_front());
                    kept.extend(received);
                },
                Step::Forget => kept.clear(),
                Step::Send(count, length) => for index in 0..count {
                    let frame = frame(length, (seed + index) as u8);
                    if send(&mut nic, &frame).is_ok() {
                        leaving.push((frame, None));
                    }
                },
                Step::DeviceSends => {
                    prop_assert_eq!(fake.model().send(), core::mem::take(&mut leaving));
                }
                Step::Flush => nic.flush(),
            }
            prop_assert_eq!(nic.fault(), None);
        }
    }
}
