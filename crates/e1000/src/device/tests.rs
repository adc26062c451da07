//! The driver against the model of the device.

use alloc::vec::Vec;

use hw::Message;
use hw::nic::RxChecksum;
use hw::pci::PciConfig;
use proptest::prelude::*;

use super::*;
use crate::fake::{Fake, MAC};

fn start(fake: &Fake) -> E1000 {
    E1000::start(fake.pci.device()).unwrap()
}

fn start_error(fake: &Fake) -> StartError {
    let error = E1000::start(fake.pci.device()).err().expect("the start fails");
    assert_eq!(fake.memory.live(), 0, "nothing is left behind");
    assert_eq!(fake.pci.config.read_u16(4) & 4, 0, "bus mastering is off");
    error
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

fn send(nic: &mut E1000, bytes: &[u8]) -> Result<(), TxError> {
    nic.transmit(bytes.len(), Offload::None, &mut |buffer| buffer.copy_from_slice(bytes))
}

fn pending(fake: &Fake) -> Events {
    Events::from_bits_retain(fake.irq.take_pending())
}

fn writes(fake: &Fake, register: usize) -> usize {
    fake.model().writes.get(&register).copied().unwrap_or(0)
}

#[test]
fn a_device_starts_with_interrupts_off_and_both_rings_on() {
    let fake = Fake::new();
    let nic = start(&fake);
    assert_eq!(nic.mac().0, MAC);
    assert!(nic.link_up() && nic.capabilities().tx_checksum);
    let mut model = fake.model();
    assert_eq!((model.get(RDLEN), model.get(TDLEN)), (4096, 4096));
    assert_eq!((model.get(RDT), model.get(TDT)), (255, 0));
    assert_ne!(model.get(CTRL) & ctrl::SLU, 0);
    assert!(model.deliver(&frame(60, 0)));
    assert_eq!(fake.irq.raised(), 0);
}

#[test]
fn without_a_filter_the_address_comes_from_the_eeprom() {
    let fake = Fake::new();
    fake.model().loads_filter = false;
    assert_eq!(start(&fake).mac().0, MAC);
    let model = fake.model();
    assert_eq!((model.get(RAL0), model.get(RAH0)), (0xe944_b456, 0x8000_d062));
}

#[test]
fn received_frames_are_handed_out_in_order_all_around_the_ring() {
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
    for _ in 0..3 {
        let delivered = (0..300).filter(|_| fake.model().deliver(&frame(60, 1))).count();
        assert_eq!(delivered, 255);
        assert_eq!(core::iter::from_fn(|| nic.receive()).count(), 255);
        nic.flush();
    }
}

#[test]
fn a_long_batch_replenishes_the_ring_on_its_way() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for seed in 0..1000u32 {
        assert!(fake.model().deliver(&frame(60, seed as u8)), "frame {seed}");
        assert_eq!(nic.receive().unwrap()[..], frame(60, seed as u8));
    }
    assert!(writes(&fake, RDT) < 20);
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
fn damaged_frames_and_those_in_pieces_are_counted_and_skipped() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    {
        let mut model = fake.model();
        model.deliver_with(&frame(60, 0), 3, 0x01);
        model.deliver_with(&frame(13, 0), 3, 0);
        model.deliver_in_pieces(&[&frame(2048, 0), &frame(100, 0)]);
        model.deliver(&frame(60, 9));
    }
    assert_eq!(nic.receive().unwrap()[..], frame(60, 9));
    assert_eq!(nic.statistics().rx_errors, 4);
    assert!(nic.receive().is_none());
}

#[test]
fn nothing_but_damaged_frames_does_not_keep_the_core() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    (0..255).for_each(|_| assert!(fake.model().deliver(b"runt")));
    assert!(nic.receive().is_none());
    assert_eq!(nic.statistics().rx_errors, 255);
}

#[test]
fn a_verified_checksum_is_passed_on() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().deliver_with(&frame(60, 0), 0x63, 0);
    fake.model().deliver_with(&frame(60, 0), 0x63, 0x20);
    assert_eq!(nic.receive().unwrap().checksum(), RxChecksum::Good);
    assert_eq!(nic.receive().unwrap().checksum(), RxChecksum::Unknown);
}

#[test]
fn a_length_beyond_the_buffer_stops_the_device() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().write_back(2049, 3, 0);
    assert!(nic.receive().is_none());
    assert_eq!(nic.fault(), Some(DeviceFault::Length));
    assert_eq!(fake.pci.config.read_u16(4) & 4, 0, "it may not reach memory");
    assert_eq!(fake.model().get(RCTL), 0);
    assert_eq!(send(&mut nic, &frame(60, 0)), Err(TxError::Broken));
    assert!(!nic.link_up() && !nic.can_transmit() && !nic.enable_interrupts() && nic.receive().is_none());
    assert_eq!(nic.acknowledge(Events::all()), Events::empty());
}

#[test]
fn a_device_that_calls_every_descriptor_done_gives_one_round_of_frames() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().mark_all_done(60);
    assert_eq!(core::iter::from_fn(|| nic.receive()).count(), RING);
    assert_eq!(nic.fault(), None);
    nic.flush();
    assert!(fake.model().deliver(&frame(60, 7)));
    assert_eq!(nic.receive().unwrap()[..], frame(60, 7));
}

#[test]
fn sent_frames_reach_the_device_with_one_register_write_per_batch() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let before = writes(&fake, TDT);
    for seed in 0..3 {
        send(&mut nic, &frame(100, seed)).unwrap();
    }
    assert_eq!(fake.model().sent().len(), 0);
    nic.flush();
    nic.flush();
    assert_eq!(writes(&fake, TDT), before + 1);
    let expected: Vec<_> = (0..3).map(|seed| frame(100, seed)).collect();
    assert_eq!(fake.model().sent(), expected);
}

#[test]
fn checksums_are_inserted_and_the_context_is_sent_only_when_it_changes() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut bytes = frame(60, 3);
    bytes[50..52].fill(0);
    let tcp = Offload::Checksum { start: 34, offset: 16 };
    for _ in 0..3 {
        nic.transmit(60, tcp, &mut |buffer| buffer.copy_from_slice(&bytes)).unwrap();
        send(&mut nic, &bytes).unwrap();
    }
    nic.flush();
    assert_eq!(fake.model().get(TDT), 7, "one context, six frames");
    let sent = fake.model().sent();
    assert_eq!(sent[1], bytes, "without offload a frame is left alone");
    for index in [0, 2, 4] {
        let words = sent[index][34..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "frame {index} sums up");
    }
}

#[test]
fn frames_that_cannot_be_sent_are_refused() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    let mut never = |_: &mut [u8]| panic!("nothing is written");
    let far = Offload::Checksum { start: 250, offset: 16 };
    assert_eq!(nic.transmit(13, Offload::None, &mut never), Err(TxError::Length));
    assert_eq!(nic.transmit(1519, Offload::None, &mut never), Err(TxError::Length));
    assert_eq!(nic.transmit(1000, far, &mut never), Err(TxError::Offload));
    assert_eq!(nic.statistics().tx_dropped, 3);
}

#[test]
fn a_full_ring_refuses_and_reports_when_there_is_room_again() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    for round in 0..5 {
        let mut queued = 0;
        while nic.can_transmit() {
            send(&mut nic, &frame(60, round)).unwrap();
            queued += 1;
        }
        assert_eq!(send(&mut nic, &frame(60, 0)), Err(TxError::Full));
        assert!(!nic.enable_interrupts());
        assert_eq!(fake.model().sent().len(), queued);
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
    fake.model().sent();
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
        fake.model().sent();
    }
    assert_eq!(fake.irq.raised(), 0);
}

#[test]
fn receiving_costs_no_register_access() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    assert!(!nic.enable_interrupts());
    fake.model().deliver(&frame(60, 0));
    fake.model().deliver(&frame(60, 1));
    assert_eq!(nic.acknowledge(pending(&fake)), Events::RX);
    assert_eq!(nic.acknowledge(Events::all()), Events::empty(), "reading cleared the cause");
    nic.disable_interrupts();
    // The model's lock is held: any register access would hang this test.
    let model = fake.model();
    assert!(nic.receive().is_some() && nic.receive().is_some() && nic.receive().is_none());
    drop(model);
    assert!(!nic.enable_interrupts());
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
fn link_changes_are_reported_once() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    nic.enable_interrupts();
    for up in [false, true] {
        fake.model().set_link(up);
        assert_eq!(nic.acknowledge(pending(&fake)), Events::LINK);
        assert_eq!(nic.link_up(), up);
    }
    fake.model().report(interrupt::LSC);
    assert_eq!(nic.acknowledge(pending(&fake)), Events::empty());
}

#[test]
fn msi_is_used_where_it_is_present() {
    let fake = Fake::new();
    fake.pci.config.add_capability(0xf0, &[5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut nic = start(&fake);
    let config = &fake.pci.config;
    assert_eq!(config.read_u16(0xf2) & 1, 1);
    let message = Message { address: config.read_u32(0xf4).into(), data: config.read_u16(0xfc).into() };
    fake.model().message = Some(message);
    nic.enable_interrupts();
    fake.model().deliver(&frame(60, 0));
    assert_eq!(nic.acknowledge(pending(&fake)), Events::RX);
}

#[test]
fn a_device_that_vanishes_is_a_fault() {
    let fake = Fake::new();
    let mut nic = start(&fake);
    fake.model().gone = true;
    assert_eq!(nic.acknowledge(Events::all()), Events::LINK);
    assert_eq!((nic.fault(), nic.link_up()), (Some(DeviceFault::Gone), false));
}

#[test]
fn a_device_that_cannot_be_started_says_why() {
    type Case = (StartError, fn(&Fake));
    let cases: [Case; 5] = [
        (StartError::TimedOut("the reset of the device"), |fake| fake.model().never_resets = true),
        (StartError::TimedOut("the reset of the device"), |fake| fake.model().gone = true),
        (StartError::TimedOut("the EEPROM"), |fake| {
            let mut model = fake.model();
            (model.loads_filter, model.no_eeprom) = (false, true);
        }),
        (StartError::BadValue("hardware address"), |fake| {
            let mut model = fake.model();
            (model.loads_filter, model.eeprom) = (false, [0xffff; 3]);
        }),
        (StartError::BadValue("size of the register window"), |fake| {
            fake.pci.config.add_memory_bar(0, 0xfeb8_0000, 0x1000);
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
    for allowed in 0..4 {
        let fake = Fake::new();
        fake.memory.limit_allocations(allowed);
        assert_eq!(start_error(&fake), StartError::NoMemory);
    }
}

#[test]
fn a_stopped_driver_leaves_the_device_off_and_restartable() {
    let fake = Fake::new();
    drop(start(&fake));
    assert_eq!((fake.model().get(RCTL), fake.memory.live()), (0, 0));
    let mut nic = start(&fake);
    assert!(fake.model().deliver(&frame(60, 0)));
    assert!(nic.receive().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    Receive(usize),
    Forget,
    Send { count: usize, length: usize, checksum: Option<u8> },
    DeviceSends,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..100usize).prop_map(Step::Deliver),
        (1..100usize).prop_map(Step::Receive),
        Just(Step::Forget),
        (1..100usize, 60..1518usize, prop::option::of(14..40u8))
            .prop_map(|(count, length, checksum)| Step::Send { count, length, checksum }),
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
        let (mut arriving, mut leaving) = (std::collections::VecDeque::new(), Vec::new());
        let mut kept = Vec::new();
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Deliver(count) => for index in 0..count {
                    let frame = frame(60 + index, seed as u8);
                    if fake.model().deliver(&frame) {
                        arriving.push_back(frame);
                    }
                },
                Step::Receive(count) => for _ in 0..count {
                    let received = nic.receive();
                    prop_assert_eq!(received.as_deref().map(<[u8]>::to_vec), arriving.pop_front());
                    kept.extend(received);
                },
                Step::Forget => kept.clear(),
                Step::Send { count, length, checksum } => for _ in 0..count {
                    // All zeroes sum up to all ones, wherever the sum is put.
                    let offload = checksum.map_or(Offload::None, |start| Offload::Checksum {
                        start: start.into(),
                        offset: 6,
                    });
                    if nic.transmit(length, offload, &mut |bytes| bytes.fill(0)).is_ok() {
                        let mut frame = alloc::vec![0; length];
                        if let Some(start) = checksum {
                            frame[usize::from(start) + 6..usize::from(start) + 8].fill(0xff);
                        }
                        leaving.push(frame);
                    }
                },
                Step::DeviceSends => {
                    nic.flush();
                    prop_assert_eq!(fake.model().sent(), core::mem::take(&mut leaving));
                }
                Step::Flush => nic.flush(),
            }
            prop_assert_eq!(nic.fault(), None);
        }
    }
}
