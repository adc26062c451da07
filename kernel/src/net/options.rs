//! Options of a socket, as setsockopt(2), socket(7), tcp(7) and ip(7) name them. Times are in nanoseconds.

const SECOND: u64 = 1_000_000_000;

/// Largest buffer that a program may ask for (Linux: `rmem_max`, `wmem_max`), before doubling.
pub const BUFFER_MAX: usize = 4 << 20;
/// Least size of a buffer.
pub const BUFFER_MIN: usize = 2304;

/// What a program has set on a socket; an accepted connection begins with those of its listener.
#[derive(Clone, Debug)]
pub struct Options {
    /// `SO_REUSEADDR`: bind although connections of that port are still around.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: share the port with other sockets of the same user.
    pub reuse_port: bool,
    /// `SO_BROADCAST`: may send to all.
    pub broadcast: bool,
    /// `SO_KEEPALIVE`: probe a silent peer.
    pub keep_alive: bool,
    /// `SO_OOBINLINE`; urgent data is always in line here.
    pub oob_inline: bool,
    /// `SO_PASSCRED`: received messages tell who sent them.
    pub pass_credentials: bool,
    /// `SO_TIMESTAMP`: received datagrams tell when they came.
    pub timestamp: bool,
    /// `SO_LINGER`: time that close waits for data to be acknowledged; 0 resets.
    pub linger: Option<u64>,
    /// `SO_RCVBUF` in bytes, already doubled as Linux does; `None` until set.
    pub receive_buffer: Option<usize>,
    /// `SO_SNDBUF`, likewise.
    pub send_buffer: Option<usize>,
    /// `SO_RCVTIMEO`; 0 waits for ever.
    pub receive_timeout: u64,
    /// `SO_SNDTIMEO`, likewise.
    pub send_timeout: u64,
    /// `SO_RCVLOWAT`: bytes before a socket counts as readable.
    pub receive_low: usize,
    /// `SO_BINDTODEVICE`: index of the only link to use.
    pub device: Option<u32>,
    /// `SO_PRIORITY`; there is one queue, so it only is remembered.
    pub priority: u32,
    /// `TCP_NODELAY`: no waiting for more data to send (Nagle).
    pub no_delay: bool,
    /// `TCP_CORK`: only full segments, until taken off or 200 ms have passed.
    pub cork: bool,
    /// `TCP_QUICKACK`: acknowledge at once; `None` until set.
    pub quick_ack: Option<bool>,
    /// `TCP_KEEPIDLE`: silence before the first probe.
    pub keep_idle: u64,
    /// `TCP_KEEPINTVL`: between probes.
    pub keep_interval: u64,
    /// `TCP_KEEPCNT`: unanswered probes that end the connection.
    pub keep_count: u32,
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged; 0: about a quarter of an hour.
    pub user_timeout: u64,
    /// `TCP_DEFER_ACCEPT`: a listener's connections wait so long for data before they can be accepted.
    pub defer_accept: DeferAccept,
    /// `TCP_SYNCNT`: retransmissions of the first segment.
    pub syn_count: u32,
    /// `IP_TTL`.
    pub ttl: u8,
    /// `IP_MULTICAST_TTL`.
    pub multicast_ttl: u8,
    /// `IP_TOS`.
    pub tos: u8,
    /// `IP_PKTINFO`: received datagrams tell where they arrived.
    pub packet_info: bool,
    /// `IP_RECVTTL`: received datagrams tell their time to live.
    pub receive_ttl: bool,
    /// `IP_RECVERR`: errors are reported even when not connected.
    pub receive_errors: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reuse_address: false,
            reuse_port: false,
            broadcast: false,
            keep_alive: false,
            oob_inline: false,
            pass_credentials: false,
            timestamp: false,
            linger: None,
            receive_buffer: None,
            send_buffer: None,
            receive_timeout: 0,
            send_timeout: 0,
            receive_low: 1,
            device: None,
            priority: 0,
            no_delay: false,
            cork: false,
            quick_ack: None,
            keep_idle: 7200 * SECOND,
            keep_interval: 75 * SECOND,
            keep_count: 9,
            user_timeout: 0,
            defer_accept: DeferAccept::default(),
            syn_count: 6,
            ttl: super::wire::DEFAULT_TTL,
            multicast_ttl: 1,
            tos: 0,
            packet_info: false,
            receive_ttl: false,
            receive_errors: false,
        }
    }
}

/// A time of `TCP_DEFER_ACCEPT`: whole periods of retransmission, which double from one second to two minutes (Linux:
/// `secs_to_retrans`). None: connections are not deferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeferAccept(u8);

impl DeferAccept {
    /// At least so many seconds; zero and negative ones mean not at all.
    pub fn from_seconds(seconds: i32) -> Self {
        let enough = |periods: &u8| i64::from(Self(*periods).seconds()) >= i64::from(seconds);
        Self((0..u8::MAX).find(enough).unwrap_or(u8::MAX))
    }

    /// The time.
    pub fn seconds(self) -> u32 {
        (0..u32::from(self.0)).map(|period| (1 << period.min(7)).min(120)).sum()
    }

    /// The time in nanoseconds; `None` for not at all.
    pub fn nanoseconds(self) -> Option<u64> {
        (self.0 > 0).then(|| u64::from(self.seconds()) * SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_is_deferred_for_whole_periods() {
        let told = |seconds| DeferAccept::from_seconds(seconds).seconds();
        assert_eq!([-5, 0, 1, 2, 3, 4, 60, 130, 250].map(told), [0, 0, 1, 3, 3, 7, 63, 247, 367]);
        assert_eq!(told(i32::MAX), 127 + 248 * 120);
        assert_eq!(DeferAccept::from_seconds(0).nanoseconds(), None);
    }
}
