//! The real-time clock (MC146818 data sheet): the date at boot.

#[cfg(target_os = "none")]
use x86_64::instructions::port::Port;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const PM: u8 = 1 << 7;

#[cfg(target_os = "none")]
fn read(register: u8) -> u8 {
    // SAFETY: the index and data ports of the clock; bit 7 of the index keeps non-maskable interrupts as they are (on).
    unsafe {
        Port::<u8>::new(0x70).write(register);
        Port::<u8>::new(0x71).read()
    }
}

/// Seconds since the Unix epoch. The clock is taken to keep UTC in this century.
#[cfg(target_os = "none")]
pub fn seconds_since_epoch() -> u64 {
    // Two equal readings outside of an update are consistent; a clock that never comes to rest is given up on.
    let mut last = [0; 6];
    for _ in 0..1000 {
        if read(STATUS_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let reading = [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR].map(read);
        if reading == last {
            break;
        }
        last = reading;
    }
    decode(last, read(STATUS_B))
}

/// The time that the registers [seconds, minutes, hours, day, month, year] mean under status register B.
fn decode(registers: [u8; 6], status: u8) -> u64 {
    let number =
        |value: u8| u64::from(if status & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) });
    let [seconds, minutes, hours, day, month, year] = registers;
    let mut hour = number(hours & !PM);
    if status & HOURS_24 == 0 {
        hour = hour % 12 + if hours & PM != 0 { 12 } else { 0 };
    } else {
        hour = number(hours);
    }
    let days = days_since_epoch(2000 + number(year), number(month).clamp(1, 12), number(day).max(1));
    ((days * 24 + hour) * 60 + number(minutes)) * 60 + number(seconds)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, from 1970 on. Counts years from March, so that the
/// leap day is the last of its year.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    let days_before_year = 365 * year + year / 4 - year / 100 + year / 400;
    const DAYS_TO_EPOCH: u64 = 719_468;
    days_before_year + days_before_month + day - 1 - DAYS_TO_EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_seconds() {
        assert_eq!(days_since_epoch(1970, 1, 1), 0);
        assert_eq!(days_since_epoch(2000, 2, 29), 11_016);
        assert_eq!(days_since_epoch(2100, 3, 1), 47_541);
        // 2026-11-23 02:47:09 UTC.
        let binary = decode([9, 47, 2, 23, 11, 26], BINARY | HOURS_24);
        assert_eq!(binary, 1_795_402_029);
        assert_eq!(decode([0x09, 0x47, 0x02, 0x23, 0x11, 0x26], HOURS_24), binary);
    }

    #[test]
    fn twelve_hour_clocks_are_understood() {
        let at = |hour| decode([0, 0, hour, 1, 1, 0x26], 0) % 86_400;
        assert_eq!(at(0x12), 0);
        assert_eq!(at(0x01), 3600);
        assert_eq!(at(0x12 | PM), 12 * 3600);
        assert_eq!(at(0x11 | PM), 23 * 3600);
    }

    #[test]
    fn registers_full_of_ones_are_a_date_too() {
        decode([0xff; 6], 0);
        decode([0xff; 6], 0xff);
    }
}
