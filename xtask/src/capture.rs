//! What a guest sent, judged by tshark from a record that QEMU's `filter-dump` made.
//!
//! A tap takes frames with a header in front of them, in which virtio-net and vmxnet3 say where a TCP or UDP checksum is to be
//! filled in. QEMU before 8.0 records that header as a part of the frame; later ones leave it out, and record frames
//! with an unfinished checksum. Neither is for tshark: `records` tells what would be on a cable.

mod records;

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::watched::Watched;

/// How long tshark may read.
const PATIENCE: Duration = Duration::from_secs(300);
/// As many packets as an error shows.
const SHOWN: usize = 20;

/// What kind of network the guest had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// One on which nothing is lost: nothing needs to be sent again.
    Clean,
    /// One that loses or damages frames, or whose other end sends nonsense.
    Bad,
}

/// An error that shows packets of the station `mac` that are malformed, have a wrong checksum, or, on a clean network, were
/// sent again without need.
pub fn check(file: &Path, mac: &str, network: Network) -> Result<()> {
    let lines = ask(file, mac, &filter(mac, network), &[])?;
    let is_packet = |line: &&str| line.starts_with(|first: char| first.is_ascii_digit());
    let packets: Vec<&str> = lines.iter().map(|line| line.trim()).filter(is_packet).collect();
    ensure!(
        packets.is_empty(),
        "the guest sent {} packets that are wrong:\n{}",
        packets.len(),
        packets[..packets.len().min(SHOWN)].join("\n")
    );
    Ok(())
}

/// The payloads of the datagrams that the station `mac` sent to a UDP port, in the order in which they went over the cable. The guest
/// may still be running.
pub fn datagrams(file: &Path, mac: &str, port: u16) -> Result<Vec<Vec<u8>>> {
    let filter = format!("eth.src == {mac} && udp.dstport == {port}");
    let lines = ask(file, mac, &filter, &["-T", "fields", "-e", "udp.payload"])?;
    Ok(lines.iter().filter_map(|line| from_hexadecimal(line.trim())).collect())
}

/// The bytes that a text of pairs of digits means, `None` if it is none.
fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What tshark prints about those packets of the record that pass its display filter; the station `mac` sent some.
fn ask(file: &Path, mac: &str, filter: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", "-"]);
    for option in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"] {
        command.args(["-o", option]);
    }
    command.args(["-Y", filter]).args(arguments);
    let mut tshark = Watched::start(command, true)?;
    let cable = BufWriter::new(tshark.child().stdin.take().context("no standard input")?);
    let from = BufReader::new(File::open(file).context("QEMU recorded nothing")?);
    // When tshark ends early, its own words say more than the broken pipe.
    let written = records::tidy(from, cable, mac);
    let lines = tshark.succeed(PATIENCE)?;
    ensure!(written? > 0, "the guest sent nothing");
    Ok(lines)
}

/// The display filter. On a clean network a segment is sent again without need if the record shows that it was acknowledged before
/// ("spurious"), or if the peer had less than a second for its answer; a busy machine may keep it waiting for longer
/// (RFC 6298: a retransmission timer runs for a second or more). An ICMP error quotes a packet of the other side, whose faults are not the guest's. A TCP checksum of
/// 0xffff is as good as 0, which tshark wants to see: QEMU's e1000 never writes 0, as it must not for UDP.
fn filter(mac: &str, network: Network) -> String {
    let mut faults = vec![
        "icmp.checksum.status == \"Bad\"",
        "arp && _ws.malformed",
        "!icmp && _ws.malformed",
        "!icmp && ip.checksum.status == \"Bad\"",
        "!icmp && tcp.checksum.status == \"Bad\" && tcp.checksum != 0xffff",
        "!icmp && udp.checksum.status == \"Bad\"",
    ];
    if network == Network::Clean {
        faults.push("!icmp && tcp.analysis.retransmission && (!tcp.analysis.rto || tcp.analysis.rto < 0.95)");
        faults.push("!icmp && tcp.analysis.fast_retransmission");
        faults.push("!icmp && tcp.analysis.spurious_retransmission");
    }
    let faults: Vec<String> = faults.iter().map(|fault| format!("({fault})")).collect();
    format!("eth.src == {mac} && ({})", faults.join(" || "))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::host;
    use crate::qemu::MAC;

    /// The right checksums of the datagram of [`frame`].
    const IP: u16 = 0x2271;
    const UDP: u16 = 0x8337;
    /// The sum of its pseudo-header.
    const PSEUDO: u16 = 0x587a;

    /// A UDP datagram from MAC with the given IP and UDP checksums, in an Ethernet frame.
    fn frame(ip: u16, udp: u16) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(MAC.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        frame.extend([0x08, 0x00, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17]);
        frame.extend(ip.to_be_bytes());
        frame.extend([172, 31, 0, 10, 172, 31, 0, 20]);
        frame.extend([0x22, 0xb8, 0x22, 0xb9, 0, 12]);
        frame.extend(udp.to_be_bytes());
        frame.extend(*b"ping");
        frame
    }

    /// A frame behind a header of `length` bytes that says where the checksum is.
    fn behind_header(length: usize, start: u16, offset: u16, frame: &[u8]) -> Vec<u8> {
        let header = [&[1, 0, 0, 0, 0, 0][..], &start.to_le_bytes(), &offset.to_le_bytes(), &[0, 0]].concat();
        [&header[..length], frame].concat()
    }

    /// Judges frames that came all at once; true if tshark is content.
    fn is_sound(frames: &[Vec<u8>]) -> bool {
        let frames: Vec<_> = frames.iter().map(|frame| (0, frame.clone())).collect();
        is_sound_over_time(&frames)
    }

    /// The same for frames with their times in milliseconds.
    fn is_sound_over_time(frames: &[(u32, Vec<u8>)]) -> bool {
        let (_folder, file) = record(frames);
        match check(&file, MAC, Network::Clean) {
            Ok(()) => true,
            Err(error) if error.to_string().contains("the guest sent 1 packets") => false,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// A file with frames in the format of pcap, in a folder that vanishes.
    fn record(frames: &[(u32, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let mut bytes = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
        for (time, frame) in frames {
            let length = frame.len() as u32;
            bytes.extend([time / 1000, time % 1000 * 1000, length, length].map(u32::to_le_bytes).concat());
            bytes.extend(frame);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("frames.pcap");
        std::fs::write(&file, bytes).unwrap();
        (folder, file)
    }

    fn possible() -> bool {
        host::find_program("tshark").is_some()
    }

    /// A TCP segment from MAC, or to it, with its acknowledgment number and payload; its own number is always 100.
    fn segment(from_us: bool, acknowledgment: u32, payload: &[u8]) -> Vec<u8> {
        let own: Vec<u8> = MAC.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let other = [2, 0, 0, 0, 0, 1];
        let (ends, ports) = ([[172, 31, 0, 10], [172, 31, 0, 20]], [80u16, 4000].map(u16::to_be_bytes));
        let (from, to) = if from_us { (0, 1) } else { (1, 0) };
        let mut frame = if from_us { [&other[..], &own].concat() } else { [&own[..], &other].concat() };
        let length = (40 + payload.len()) as u16;
        let mut ip = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0, 0, 64, 6, 0, 0]].concat();
        ip.extend([ends[from], ends[to]].concat());
        let checksum = !records::sum(0, &ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut tcp = [ports[from], ports[to]].concat();
        tcp.extend([100u32, acknowledgment].map(u32::to_be_bytes).concat());
        tcp.extend([0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
        tcp.extend(payload);
        let pseudo = [&ip[12..20], &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
        let checksum = !records::sum(records::sum(0, &pseudo).into(), &tcp);
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend(tcp);
        frame
    }

    #[test]
    fn what_is_sent_again_has_to_be_due() {
        if possible() {
            let (data, answer) = (segment(true, 100, b"0123456789"), segment(false, 110, b""));
            let sent_again = |time| [(0, data.clone()), (time, data.clone())];
            assert!(is_sound_over_time(&sent_again(1001)), "no answer for a second");
            assert!(!is_sound_over_time(&sent_again(300)), "too early");
            let in_vain = [(0, data.clone()), (500, answer), (1001, data.clone())];
            assert!(!is_sound_over_time(&in_vain), "the answer was there");
        }
    }

    #[test]
    fn wrong_checksums_and_cut_packets_are_found() {
        if possible() {
            let whole = frame(IP, UDP);
            assert!(is_sound(std::slice::from_ref(&whole)));
            for wrong in [frame(IP, UDP + 1), frame(IP + 1, UDP), whole[..40].to_vec()] {
                assert!(!is_sound(&[whole.clone(), wrong]));
            }
        }
    }

    #[test]
    fn datagrams_are_read_in_their_order() {
        if possible() {
            let frames = [b"ping", b"pong"].map(|text| {
                let mut frame = frame(IP, UDP);
                let start = frame.len() - text.len();
                frame[start..].copy_from_slice(text);
                (0, frame)
            });
            let (_folder, file) = record(&frames);
            assert_eq!(datagrams(&file, MAC, 0x22b9).unwrap(), [b"ping", b"pong"]);
            assert!(datagrams(&file, MAC, 1).unwrap().is_empty());
        }
    }

    #[test]
    fn a_checksum_left_to_the_device_is_right_where_the_device_finds_it() {
        if possible() {
            let unfinished = frame(IP, PSEUDO);
            assert!(is_sound(std::slice::from_ref(&unfinished)));
            for length in [10, 12] {
                assert!(is_sound(&[behind_header(length, 34, 6, &unfinished)]));
                assert!(!is_sound(&[behind_header(length, 34, 4, &unfinished)]));
                assert!(!is_sound(&[behind_header(length, 33, 6, &unfinished)]));
                assert!(!is_sound(&[behind_header(length, 34, 6, &frame(IP, PSEUDO + 1))]));
            }
        }
    }

    #[test]
    fn a_guest_that_said_nothing_was_not_judged() {
        if possible() {
            let stranger = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x06]].concat();
            let result = std::panic::catch_unwind(|| is_sound(&[stranger]));
            assert!(result.is_err());
        }
    }
}
