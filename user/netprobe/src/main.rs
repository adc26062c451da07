//! The partner of the network tests: ordinary networking code, for the guest's side and for the host's.
//!
//! - `netprobe serve HOST:UDP TCP` in a guest: sends the datagrams `pkt 1`, `pkt 2`, ... to HOST:UDP and echoes what comes
//!   to the port TCP, both for ever;
//! - `netprobe connections HOST:PORT COUNT ROUNDS` on the host: COUNT connections at once to a redis-server, each used once,
//!   then closed; ROUNDS times.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(20);
/// Until the next attempt when there is no address yet.
const RETRY: Duration = Duration::from_millis(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", host, port] => serve(host, port),
        ["connections", server, count, rounds] => connections(server, count, rounds),
        _ => Err(Error::other("usage: netprobe serve HOST:PORT PORT | connections HOST:PORT COUNT ROUNDS")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("netprobe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<usize, Error> {
    text.parse().map_err(|_| Error::other(format!("{text} is not a number")))
}

fn address(text: &str) -> Result<SocketAddr, Error> {
    text.to_socket_addrs()?.next().ok_or_else(|| Error::other(format!("{text} has no address")))
}

fn serve(host: &str, port: &str) -> Result<(), Error> {
    let host = address(host)?;
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening on {}", listener.local_addr()?);
    thread::spawn(move || {
        if let Err(error) = send_numbers(host) {
            println!("netprobe: sending to {host}: {error}");
        }
    });
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            if let Err(error) = echo(connection) {
                println!("netprobe: echo: {error}");
            }
        });
    }
    Ok(())
}

/// Sends `pkt 1`, `pkt 2`, ... A number that cannot be sent, as there is no network yet, is tried again.
fn send_numbers(host: SocketAddr) -> Result<(), Error> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for number in 1u64.. {
        while let Err(error) = socket.send_to(format!("pkt {number}\n").as_bytes(), host) {
            match error.kind() {
                ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => thread::sleep(RETRY),
                // The answer to an earlier one: nobody listens at the moment.
                ErrorKind::ConnectionRefused => {}
                _ => return Err(error),
            }
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}

fn echo(mut connection: TcpStream) -> Result<(), Error> {
    let mut block = vec![0; 64 << 10];
    loop {
        match connection.read(&mut block)? {
            0 => return Ok(()),
            count => connection.write_all(&block[..count])?,
        }
    }
}

fn connections(server: &str, count: &str, rounds: &str) -> Result<(), Error> {
    let (server, count, rounds) = (address(server)?, number(count)?, number(rounds)?);
    for round in 1..=rounds {
        let mut open = (0..count).map(|_| connect(server)).collect::<Result<Vec<_>, _>>()?;
        // All ask before the first is answered to.
        open.iter_mut().try_for_each(|connection| connection.write_all(b"PING\r\n"))?;
        open.iter_mut().try_for_each(await_pong)?;
        // The server is told that no more comes, and has closed its end when the stream ends.
        open.iter_mut().try_for_each(|connection| connection.shutdown(std::net::Shutdown::Write))?;
        open.iter_mut().try_for_each(await_end)?;
        println!("round {round}: {count} connections");
    }
    Ok(())
}

fn connect(server: SocketAddr) -> Result<TcpStream, Error> {
    let connection = TcpStream::connect_timeout(&server, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn await_pong(connection: &mut TcpStream) -> Result<(), Error> {
    let mut answer = [0; 7];
    connection.read_exact(&mut answer)?;
    if answer == *b"+PONG\r\n" { Ok(()) } else { Err(Error::other("the server answers something else")) }
}

fn await_end(connection: &mut TcpStream) -> Result<(), Error> {
    match connection.read(&mut [0; 16])? {
        0 => Ok(()),
        _ => Err(Error::other("the server says more than was asked")),
    }
}
