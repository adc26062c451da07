//! Network partners: what the other end of a test runs, in the guest or outside it.
//!
//! Checksums are CRC-32 (IEEE 802.3, as in zlib), so that any tool can compute the other side's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::{Options, Verdict};

/// Bytes that move at once.
const BLOCK: usize = 64 << 10;

fn broken(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// `udpsend HOST PORT N`: the datagrams `pkt 1` to `pkt N`.
pub fn udpsend(options: &Options) -> Verdict {
    let target = format!("{}:{}", options.text(0, "HOST")?, options.text(1, "PORT")?);
    options.text(2, "N")?;
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(broken("bind"))?;
    for number in 1..=options.number(2, 0)? {
        socket.send_to(format!("pkt {number}").as_bytes(), &target).map_err(broken("send"))?;
    }
    Ok(())
}

/// Listens on every address.
fn listen(options: &Options) -> Result<TcpListener, String> {
    let listener =
        TcpListener::bind(format!("0.0.0.0:{}", options.text(0, "PORT")?)).map_err(broken("bind"))?;
    println!("listening on {}", listener.local_addr().map_err(broken("getsockname"))?);
    Ok(listener)
}

/// Serves each connection on a thread of its own, for ever.
fn serve(options: &Options, session: fn(TcpStream) -> std::io::Result<()>) -> Verdict {
    for connection in listen(options)?.incoming() {
        let connection = connection.map_err(broken("accept"))?;
        thread::Builder::new()
            .spawn(move || session(connection).unwrap_or_else(|error| println!("connection: {error}")))
            .map_err(broken("thread"))?;
    }
    Ok(())
}

/// `tcpecho PORT`: sends back what comes.
pub fn tcpecho(options: &Options) -> Verdict {
    serve(options, |mut connection| {
        let mut block = vec![0; BLOCK];
        loop {
            match connection.read(&mut block)? {
                0 => return Ok(()),
                count => connection.write_all(&block[..count])?,
            }
        }
    })
}

/// `tcprev PORT`: sends back each line reversed.
pub fn tcprev(options: &Options) -> Verdict {
    serve(options, |connection| {
        let mut writer = connection.try_clone()?;
        let mut line = Vec::new();
        let mut reader = BufReader::new(connection);
        while reader.read_until(b'\n', &mut line)? > 0 {
            writer.write_all(&reversed(&line))?;
            line.clear();
        }
        Ok(())
    })
}

/// The line with its bytes reversed and its newline, if it has one, at the end.
fn reversed(line: &[u8]) -> Vec<u8> {
    let (text, newline) = line.split_at(line.len() - usize::from(line.last() == Some(&b'\n')));
    text.iter().rev().chain(newline).copied().collect()
}

/// The connection of `tcpsource` and `tcpsink`: to HOST:PORT, or the first that comes to PORT.
fn one_connection(options: &Options) -> Result<TcpStream, String> {
    let place = options.text(0, "PORT")?;
    match place.contains(':') {
        true => TcpStream::connect(place).map_err(broken("connect")),
        false => listen(options)?.accept().map(|(connection, _)| connection).map_err(broken("accept")),
    }
}

/// The byte at offset `at` of the stream that `tcpsource` sends.
fn stream_byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// `tcpsource [HOST:]PORT BYTES`: sends so many bytes and closes.
pub fn tcpsource(options: &Options) -> Verdict {
    options.text(1, "BYTES")?;
    let total = options.number(1, 0)?;
    let mut connection = one_connection(options)?;
    let (mut sent, mut crc) = (0, Crc::new());
    while sent < total {
        let block: Vec<u8> = (sent..total.min(sent + BLOCK)).map(stream_byte).collect();
        connection.write_all(&block).map_err(broken("write"))?;
        crc.add(&block);
        sent += block.len();
    }
    println!("tcpsource: {sent} bytes, crc32 {:08x}", crc.value());
    Ok(())
}

/// `tcpsink [HOST:]PORT`: receives until the end.
pub fn tcpsink(options: &Options) -> Verdict {
    let mut connection = one_connection(options)?;
    let (mut received, mut crc, mut block) = (0, Crc::new(), vec![0; BLOCK]);
    loop {
        match connection.read(&mut block).map_err(broken("read"))? {
            0 => break,
            count => {
                crc.add(&block[..count]);
                received += count;
            }
        }
    }
    println!("tcpsink: {received} bytes, crc32 {:08x}", crc.value());
    Ok(())
}

/// CRC-32 of IEEE 802.3, a byte at a time from a table.
#[derive(Clone, Debug)]
struct Crc(u32);

/// The remainders of all single bytes, for the reflected polynomial 0xEDB88320.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

impl Crc {
    fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)]);
    }

    fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_one() {
        let mut crc = Crc::new();
        crc.add(b"12345");
        crc.add(b"6789");
        assert_eq!(crc.value(), 0xcbf4_3926);
    }

    #[test]
    fn a_line_is_reversed_without_its_newline() {
        assert_eq!(reversed(b"abc\n"), b"cba\n");
        assert_eq!(reversed(b"abc"), b"cba");
        assert_eq!(reversed(b"\n"), b"\n");
    }
}
