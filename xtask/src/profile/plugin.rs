//! The plugin that counts: built, handed to QEMU, switched, and its counts read.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::accel::Accelerator;
use crate::cmdline::FIXED_ADDRESSES;
use crate::progress::Step;
use crate::qemu::Machine;
use crate::{process, toolchain, workspace};

/// The number of the only profile, where there is one for all.
pub const WHOLE: usize = 1;
/// The most profiles that one guest can be counted into.
pub const MOST: usize = 7;
/// In the switch: not before the first instruction in user mode.
const FROM_USER_MODE: u8 = 0x80;

/// A plugin that is ready for a guest.
#[derive(Debug, Clone)]
pub struct Plugin {
    code: PathBuf,
    out: PathBuf,
    switch: PathBuf,
}

/// What a block of instructions executed, called by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Which profile it was counted into.
    pub profile: usize,
    /// The first instructions of the functions that call each other, the outermost first. The block is in the last, or in one that
    /// it led to without a call.
    pub stack: Vec<u64>,
    /// The block's first instruction.
    pub address: u64,
    /// How many instructions were executed in it.
    pub instructions: u64,
}

/// Builds the plugin; returns its path.
pub fn build() -> Result<PathBuf> {
    let _lock = workspace::lock("qemu-profile")?;
    let step = Step::new("building the plugin that counts");
    let folder = workspace::target().join("plugin");
    let mut cargo = toolchain::cargo();
    cargo.args(["build", "--release", "--package", "qemu-profile", "--target-dir"]).arg(&folder);
    process::run(&mut cargo, &step).context("the plugin does not build")?;
    Ok(folder.join("release/libqemu_profile.so"))
}

impl Plugin {
    /// Builds it; its files are in `folder`. It counts nothing yet.
    pub fn prepare(folder: &Path) -> Result<Self> {
        let code = build()?;
        let plugin = Self { code, out: folder.join("counts"), switch: folder.join("switch") };
        fs::write(&plugin.switch, [0])?;
        Ok(plugin)
    }

    /// The machine with its guest counted: translated, with a clock that does not see what counting costs, and with programs at
    /// the same addresses each time.
    pub fn watch(&self, mut machine: Machine) -> Machine {
        machine.accelerator = Accelerator::Paced;
        machine.extra.extend(self.options());
        let mut words = OsString::from(FIXED_ADDRESSES);
        words.push(" ");
        words.push(&machine.cmdline);
        machine.cmdline = words;
        machine
    }

    fn options(&self) -> [OsString; 2] {
        let mut words = OsString::from("file=");
        for (key, path) in [("", &self.code), (",out=", &self.out), (",switch=", &self.switch)] {
            words.push(key);
            words.push(path);
        }
        ["-plugin".into(), words]
    }

    /// From now on, counts go into the profile of this number, from 1 to [`MOST`].
    pub fn count_into(&self, profile: usize) -> Result<()> {
        match u8::try_from(profile) {
            Ok(number @ 1..) if profile <= MOST => self.set(number),
            _ => bail!("there is no profile {profile}"),
        }
    }

    /// Counts all from the first instruction in user mode on.
    pub fn count_from_user_mode(&self) -> Result<()> {
        self.set(FROM_USER_MODE | WHOLE as u8)
    }

    /// Counts nothing from now on.
    pub fn stop_counting(&self) -> Result<()> {
        self.set(0)
    }

    fn set(&self, switch: u8) -> Result<()> {
        let file = fs::OpenOptions::new().write(true).open(&self.switch)?;
        Ok(file.write_all_at(&[switch], 0)?)
    }

    /// What was counted; QEMU has ended.
    pub fn counts(&self) -> Result<Vec<Count>> {
        let text = fs::read_to_string(&self.out)
            .context("QEMU left no counts: it was killed, or takes no plugins")?;
        parse(&text)
    }
}

/// Reads the format of `qemu_profile::tree::Recorder::write`.
fn parse(text: &str) -> Result<Vec<Count>> {
    let mut counts = Vec::new();
    // By index of the node: the stack that ends with it.
    let mut stacks = vec![Vec::new()];
    for line in text.lines() {
        let (kind, numbers) = line.split_once(' ').unwrap_or((line, ""));
        let numbers: Vec<u64> = numbers
            .split(' ')
            .map(|number| u64::from_str_radix(number, 16))
            .collect::<Result<_, _>>()
            .with_context(|| format!("not the plugin's: {line}"))?;
        let stack = |node: u64| stacks.get(node as usize).with_context(|| format!("no such node: {line}"));
        match (kind, &numbers[..]) {
            ("processor", _) => stacks.truncate(1),
            ("node", &[parent, entry]) => {
                let mut stack = stack(parent)?.clone();
                stack.push(entry);
                stacks.push(stack);
            }
            ("count", &[profile, node, address, instructions, times]) => counts.push(Count {
                profile: profile as usize,
                stack: stack(node)?.clone(),
                address,
                instructions: instructions * times,
            }),
            _ => bail!("not the plugin's: {line}"),
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_with_their_callers() {
        let text =
            "processor 0\nnode 0 10\nnode 1 20\ncount 1 2 25 3 a\nprocessor 1\nnode 0 30\ncount 2 1 30 1 1\n";
        let count = |profile, stack: &[u64], address, instructions| Count {
            profile,
            stack: stack.to_vec(),
            address,
            instructions,
        };
        let expected = [count(1, &[0x10, 0x20], 0x25, 30), count(2, &[0x30], 0x30, 1)];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_not_the_plugins_is_refused() {
        for bad in ["count 1 0 1", "node 7 1", "hello", "count 1 9 1 1 1", "node x 1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_watched_guest_is_translated_and_does_not_see_what_counting_costs() {
        let machine = Machine {
            accelerator: Accelerator::Kvm,
            cmdline: "init=/bin/a -- b".into(),
            ..Machine::new("/kernel".as_ref(), "/status".as_ref()).unwrap()
        };
        let plugin = Plugin { code: "/l".into(), out: "/o".into(), switch: "/s".into() };
        let line = plugin.watch(machine).by_hand();
        for words in [
            "-accel tcg,thread=single -icount shift=0,sleep=on ",
            "-plugin file=/l,out=/o,switch=/s",
            "'norandmaps init=/bin/a -- b'",
        ] {
            assert!(line.contains(words), "no {words:?} in {line}");
        }
    }

    #[test]
    fn the_switch_is_set_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let switch = folder.path().join("switch");
        fs::write(&switch, [0]).unwrap();
        let plugin = Plugin { code: "/l".into(), out: "/o".into(), switch };
        plugin.count_into(7).unwrap();
        assert_eq!(fs::read(&plugin.switch).unwrap(), [7]);
        assert!(plugin.count_into(0).is_err() && plugin.count_into(8).is_err());
        plugin.count_from_user_mode().unwrap();
        assert_eq!(fs::read(&plugin.switch).unwrap(), [0x81]);
        plugin.stop_counting().unwrap();
        assert_eq!(fs::read(&plugin.switch).unwrap(), [0]);
    }
}
