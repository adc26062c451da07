//! The stack with which a program starts: System V ABI for x86-64, section 3.4.1; getauxval(3).
//!
//! From high to low addresses: the path of the executable, the environment's strings, the arguments' strings, the platform's name, 16
//! random bytes, padding; then, with the stack pointer at `argc`: `argc`, pointers to the arguments, null, pointers to the
//! environment, null, the auxiliary vector.

use alloc::vec::Vec;

use zerocopy::IntoBytes;

use super::arguments::{Arguments, Strings};
use crate::errno::Errno;
use crate::process::pace::Pace;

/// Keys of the auxiliary vector, `AT_*`.
pub mod key {
    #![allow(missing_docs, reason = "the names are getauxval(3)'s")]
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// `AT_PLATFORM`
const PLATFORM: &[u8] = b"x86_64\0";

/// What goes on the stack.
pub struct Contents<'a> {
    /// Arguments and environment.
    pub arguments: &'a Arguments,
    /// The path by which the program was called: `AT_EXECFN`.
    pub path: &'a [u8],
    /// `AT_RANDOM`
    pub random: [u8; 16],
    /// The rest of the auxiliary vector, without its end: key and value.
    pub auxiliary: &'a [(u64, u64)],
}

/// A stack that is laid out.
#[derive(Debug)]
pub struct Stack {
    /// The initial stack pointer.
    pub pointer: u64,
    /// What lies from there to the top.
    pub bytes: Vec<u8>,
    /// First and past-the-last address of the arguments' strings.
    pub argv: (u64, u64),
    /// Those of the environment's.
    pub envp: (u64, u64),
    /// The auxiliary vector, for /proc/PID/auxv.
    pub auxiliary: Vec<u64>,
}

/// Lays `contents` out below `top`, a multiple of 16.
///
/// # Errors
/// `ENOMEM`; `E2BIG` when there is no room below `top`.
pub async fn build(pace: &mut Pace<'_>, top: u64, contents: &Contents<'_>) -> Result<Stack, Errno> {
    let Arguments { argv, envp } = contents.arguments;
    let mut place = Place(top);
    // Linux leaves a null word at the very top.
    place.take(size_of::<u64>())?;
    let path_at = place.take(contents.path.len() + 1)?;
    let envp_at = place.take(envp.bytes().len())?;
    let argv_at = place.take(argv.bytes().len())?;
    place.align();
    let platform_at = place.take(PLATFORM.len())?;
    let random_at = place.take(contents.random.len())?;
    place.align();

    let mut auxiliary = Vec::new();
    auxiliary.try_reserve(2 * contents.auxiliary.len() + 8).map_err(|_| Errno::ENOMEM)?;
    auxiliary.extend(contents.auxiliary.iter().flat_map(|&(key, value)| [key, value]));
    auxiliary.extend([key::RANDOM, random_at, key::EXECFN, path_at, key::PLATFORM, platform_at]);
    auxiliary.extend([key::NULL, 0]);

    let words = 1 + argv.len() + 1 + envp.len() + 1 + auxiliary.len();
    place.take(words * size_of::<u64>())?;
    place.align();
    let pointer = place.0;

    let mut bytes = Vec::new();
    let size = (top - pointer) as usize;
    bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    bytes.extend_from_slice((argv.len() as u64).as_bytes());
    append_pointers(pace, &mut bytes, argv_at, argv).await?;
    append_pointers(pace, &mut bytes, envp_at, envp).await?;
    bytes.extend_from_slice(auxiliary.as_bytes());
    pace.pause().await?;
    bytes.resize(size, 0);
    pace.pause().await?;
    let mut put = |at: u64, data: &[u8]| {
        let start = (at - pointer) as usize;
        bytes[start..start + data.len()].copy_from_slice(data);
    };
    put(random_at, &contents.random);
    put(platform_at, PLATFORM);
    put(argv_at, argv.bytes());
    put(envp_at, envp.bytes());
    put(path_at, contents.path);
    let (argv, envp) =
        ((argv_at, argv_at + argv.bytes().len() as u64), (envp_at, envp_at + envp.bytes().len() as u64));
    Ok(Stack { pointer, bytes, argv, envp, auxiliary })
}

/// Goes down from the top.
struct Place(u64);

impl Place {
    fn take(&mut self, len: usize) -> Result<u64, Errno> {
        self.0 = self.0.checked_sub(len as u64).ok_or(Errno::E2BIG)?;
        Ok(self.0)
    }

    fn align(&mut self) {
        self.0 &= !15;
    }
}

async fn append_pointers(
    pace: &mut Pace<'_>,
    bytes: &mut Vec<u8>,
    base: u64,
    strings: &Strings,
) -> Result<(), Errno> {
    for offset in strings.offsets() {
        bytes.extend_from_slice((base + offset as u64).as_bytes());
        pace.charge(1).await?;
    }
    bytes.extend_from_slice(0u64.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::pace::without_pause;

    const TOP: u64 = 0x7fff_f000;

    fn arguments(argv: &[&str], envp: &[&str]) -> Arguments {
        let mut arguments = Arguments::default();
        argv.iter().for_each(|s| arguments.argv.push(s.as_bytes()).unwrap());
        envp.iter().for_each(|s| arguments.envp.push(s.as_bytes()).unwrap());
        arguments
    }

    /// Reads a stack as the C library's start code does.
    struct Reader<'a>(&'a Stack);

    impl Reader<'_> {
        fn word(&self, index: usize) -> u64 {
            u64::from_le_bytes(self.0.bytes[8 * index..8 * index + 8].try_into().unwrap())
        }

        fn string(&self, at: u64) -> String {
            let bytes = &self.0.bytes[(at - self.0.pointer) as usize..];
            let end = bytes.iter().position(|&b| b == 0).unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        }
    }

    #[test]
    fn start_code_finds_arguments_environment_and_auxiliary_vector() {
        let arguments = arguments(&["prog", "-x"], &["A=1", "B=", "C=3"]);
        let contents = Contents {
            arguments: &arguments,
            path: b"./prog",
            random: [9; 16],
            auxiliary: &[(key::PAGESZ, 4096)],
        };
        let stack = without_pause(build(&mut Pace::of_start(), TOP, &contents)).unwrap().unwrap();
        assert_eq!(stack.pointer % 16, 0);
        assert_eq!(stack.pointer + stack.bytes.len() as u64, TOP);
        let reader = Reader(&stack);
        assert_eq!(reader.word(0), 2);
        assert_eq!(
            (reader.string(reader.word(1)), reader.string(reader.word(2))),
            ("prog".into(), "-x".into())
        );
        assert_eq!(reader.word(3), 0);
        let environment: Vec<_> = (4..7).map(|i| reader.string(reader.word(i))).collect();
        assert_eq!(environment, ["A=1", "B=", "C=3"]);
        assert_eq!(reader.word(7), 0);
        let auxiliary: Vec<_> = (0..5).map(|i| (reader.word(8 + 2 * i), reader.word(9 + 2 * i))).collect();
        assert_eq!(auxiliary[0], (key::PAGESZ, 4096));
        assert_eq!(auxiliary[4], (key::NULL, 0));
        let value = |key| auxiliary.iter().find(|a| a.0 == key).unwrap().1;
        assert_eq!(reader.string(value(key::EXECFN)), "./prog");
        assert_eq!(reader.string(value(key::PLATFORM)), "x86_64");
        let random = (value(key::RANDOM) - stack.pointer) as usize;
        assert_eq!(stack.bytes[random..random + 16], [9; 16]);
        assert_eq!(reader.string(stack.argv.0), "prog");
        assert_eq!(stack.envp.1 - stack.envp.0, 11);
    }

    #[test]
    fn an_empty_argument_list_is_fine_and_no_room_is_an_error() {
        let empty = Arguments::default();
        let contents = Contents { arguments: &empty, path: b"", random: [0; 16], auxiliary: &[] };
        assert_eq!(
            Reader(&without_pause(build(&mut Pace::of_start(), TOP, &contents)).unwrap().unwrap()).word(0),
            0
        );
        assert_eq!(
            without_pause(build(&mut Pace::of_start(), 64, &contents)).unwrap().unwrap_err(),
            Errno::E2BIG
        );
    }
}
