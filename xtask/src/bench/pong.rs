//! The client that waits for a server: it knocks until the first PONG (`xtask await-pong`, started in a namespace).
//!
//! A single connection attempt would wait a second for a lost SYN or ARP request to be repeated, so a new attempt
//! begins every few milliseconds, whatever became of the earlier ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::namespace::{GUEST_ADDRESS, Namespace};

/// Printed when the first attempt begins.
pub const KNOCKING: &str = "knocking";
/// Printed when the server has answered.
pub const ANSWERED: &str = "PONG";
/// redis-server's port.
const PORT: u16 = 6379;
/// Between two attempts.
const INTERVAL: Duration = Duration::from_millis(5);
/// Until an attempt is given up; as many attempts are under way as fit into this.
const PATIENCE: Duration = Duration::from_millis(300);

/// The command that runs [`wait`] in a namespace.
pub fn command(namespace: &Namespace) -> Result<Command> {
    let mut command = namespace.enter(std::env::current_exe().context("cannot find xtask itself")?);
    command.arg("await-pong").arg(format!("{GUEST_ADDRESS}:{PORT}"));
    Ok(command)
}

/// Knocks at a redis-server until it answers.
pub fn wait(address: SocketAddr) -> Result<()> {
    println!("{KNOCKING}");
    let (tell, told) = mpsc::channel();
    loop {
        let tell = tell.clone();
        thread::spawn(move || {
            if attempt(address).is_ok() {
                // Another attempt may have won meanwhile.
                let _ = tell.send(());
            }
        });
        if told.recv_timeout(INTERVAL).is_ok() {
            println!("{ANSWERED}");
            return Ok(());
        }
    }
}

fn attempt(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(&answer == b"+PONG", "this is no redis-server");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_comes_late_is_found() {
        let place = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = place.local_addr().unwrap();
        drop(place);
        let waiting = thread::spawn(move || wait(address));
        thread::sleep(Duration::from_millis(30));
        let server = TcpListener::bind(address).unwrap();
        thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 6];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(b"+PONG\r\n").unwrap();
            }
        });
        waiting.join().unwrap().unwrap();
    }
}
