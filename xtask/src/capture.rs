//! What a guest sent, judged by tshark from a record that QEMU's `filter-dump` made.
//!
//! A tap takes frames with a header in front of them, in which virtio-net and vmxnet3 say where a TCP or UDP checksum is to be
//! filled in. QEMU before 8.0 records that header as a part of the frame; later ones leave it out, and record frames
//! with an unfinished checksum. Neither is for tshark: [`records`](self::records) tells what would be on a cable.

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
/// sent again.
pub fn check(file: &Path, mac: &str, network: Network) -> Result<()> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", "-"]);
    for option in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"] {
        command.args(["-o", option]);
    }
    command.arg("-Y").arg(filter(mac, network));
    let mut tshark = Watched::start(command, true)?;
    let cable = BufWriter::new(tshark.child().stdin.take().context("no standard input")?);
    let from = BufReader::new(File::open(file).context("QEMU recorded nothing")?);
    // When tshark ends early, its own words say more than the broken pipe.
    let written = records::tidy(from, cable, mac);
    let lines = tshark.succeed(PATIENCE)?;
    ensure!(written? > 0, "the guest sent nothing");
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

/// The display filter. An ICMP error quotes a packet of the other side, whose faults are not the guest's. A TCP checksum of
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
        faults.push("!icmp && tcp.analysis.retransmission");
        faults.push("!icmp && tcp.analysis.fast_retransmission");
        faults.push("!icmp && tcp.analysis.spurious_retransmission");
    }
    let faults: Vec<String> = faults.iter().map(|fault| format!("({fault})")).collect();
    format!("eth.src == {mac} && ({})", faults.join(" || "))
}

#[cfg(test)]
mod tests {
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

    /// Judges frames, in the format of pcap; true if tshark is content.
    fn is_sound(frames: &[Vec<u8>]) -> bool {
        let mut bytes = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].map(u32::to_le_bytes).concat();
        for frame in frames {
            let length = frame.len() as u32;
            bytes.extend([0, 0, length, length].map(u32::to_le_bytes).concat());
            bytes.extend(frame);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("frames.pcap");
        std::fs::write(&file, bytes).unwrap();
        match check(&file, MAC, Network::Clean) {
            Ok(()) => true,
            Err(error) if error.to_string().contains("the guest sent 1 packets") => false,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn possible() -> bool {
        host::find_program("tshark").is_some()
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
