//! Which accelerator QEMU uses: KVM where it can really run a guest, else TCG.
//!
//! That /dev/kvm opens says little: nested virtualization may hang, or emulate the guest's supervisor mode and know only a
//! part of the instructions. So a tiny guest is started with it once: a PVH kernel that saves and restores its
//! extended state, as every kernel does, and ends QEMU. The answer is kept in target/accelerator until the machine boots anew.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{exit, process, workspace};

/// Forces an accelerator: `kvm` or `tcg`.
const FORCE: &str = "NRK_ACCEL";
/// The probe takes a tenth of a second where KVM works.
const PATIENCE: Duration = Duration::from_secs(5);

/// An accelerator of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The CPU's own virtualization.
    Kvm,
    /// QEMU's translator.
    Tcg,
    /// QEMU's translator, with a clock that counts the guest's instructions: one a nanosecond. While the guest is idle, the clock
    /// leaps to its next deadline.
    Counting,
    /// The same, but the clock follows the real time while the guest is idle, so that it can be talked with. What slows the
    /// translator down does not slow the guest down, and so has no deadline expire.
    Paced,
}

impl Accelerator {
    /// The one that was asked for, if one was.
    fn forced() -> Result<Option<Self>> {
        match std::env::var(FORCE).as_deref() {
            Ok("kvm") => Ok(Some(Self::Kvm)),
            Ok("tcg") => Ok(Some(Self::Tcg)),
            Ok(other) if !other.is_empty() => bail!("{FORCE}={other} is unknown: kvm or tcg"),
            _ => Ok(None),
        }
    }

    /// The one for a guest that gdb waits for: translated, for KVM would write breakpoints into memory that is not mapped yet, and
    /// each step would end in an interrupt.
    pub fn for_debugging() -> Result<Self> {
        Ok(Self::forced()?.unwrap_or(Self::Tcg))
    }

    /// The one to use on this machine.
    pub fn choose() -> Result<Self> {
        if let Some(forced) = Self::forced()? {
            return Ok(forced);
        }
        let kvm = Path::new("/dev/kvm");
        if fs::OpenOptions::new().read(true).write(true).open(kvm).is_err() {
            return Ok(Self::Tcg);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let answer = workspace::target().join("accelerator");
        let _lock = workspace::lock("accelerator")?;
        let known = fs::read_to_string(&answer).unwrap_or_default();
        let works = match known.strip_prefix(boot.trim()).map(str::trim) {
            Some("kvm") => true,
            Some("tcg") => false,
            _ => {
                let works = kvm_runs_a_guest()?;
                let line = format!("{} {}\n", boot.trim(), if works { "kvm" } else { "tcg" });
                workspace::write_atomically(&answer, |file| Ok(file.write_all(line.as_bytes())?))?;
                works
            }
        };
        Ok(if works { Self::Kvm } else { Self::Tcg })
    }

    /// QEMU's options.
    pub fn options(self) -> &'static str {
        match self {
            Self::Kvm => "-accel kvm",
            Self::Tcg => "-accel tcg,thread=multi",
            Self::Counting => "-accel tcg,thread=single -icount shift=0,sleep=off",
            Self::Paced => "-accel tcg,thread=single -icount shift=0,sleep=on",
        }
    }
}

fn kvm_runs_a_guest() -> Result<bool> {
    let image = tempfile::NamedTempFile::new()?;
    fs::write(image.path(), probe_image())?;
    let mut qemu: Command = process::dies_with_us("qemu-system-x86_64");
    qemu.args(["-machine", "q35", "-accel", "kvm", "-cpu", "max", "-nodefaults", "-no-user-config"]);
    qemu.args([
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
        "-kernel",
    ]);
    qemu.arg(image.path());
    qemu.stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let Ok(mut child) = qemu.spawn() else { return Ok(false) };
    let status = process::wait(&mut child, Some(PATIENCE))?;
    process::end(&mut child);
    Ok(status.and_then(|status| status.code()) == Some(exit::QEMU_ENDED))
}

/// Where the probe is loaded and begins.
const ENTRY: u32 = 0x10_0000;

/// What the probe executes, in 32-bit protected mode.
#[rustfmt::skip]
const CODE: [u8; 42] = [
    0x0f, 0x20, 0xe0,                   // mov eax, cr4
    0x0d, 0x00, 0x06, 0x04, 0x00,       // or eax, OSFXSR | OSXMMEXCPT | OSXSAVE
    0x0f, 0x22, 0xe0,                   // mov cr4, eax
    0x31, 0xc9,                         // xor ecx, ecx
    0x31, 0xd2,                         // xor edx, edx
    0xb8, 0x03, 0x00, 0x00, 0x00,       // mov eax, x87 | SSE
    0x0f, 0x01, 0xd1,                   // xsetbv
    0xbb, 0x00, 0x00, 0x11, 0x00,       // mov ebx, 0x110000: memory that QEMU has zeroed
    0x0f, 0xae, 0x23,                   // xsave [ebx]
    0x0f, 0xae, 0x2b,                   // xrstor [ebx]
    0x66, 0xba, 0xf4, 0x00,             // mov dx, 0xf4: isa-debug-exit
    0xb0, 0x20,                         // mov al, 0x20
    0xee,                               // out dx, al
    0xf4,                               // hlt
];

/// An ELF file with a PVH note, whose code saves and restores the extended state and writes 0x20 to port 0xf4.
pub fn probe_image() -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    // XEN_ELFNOTE_PHYS32_ENTRY: where a 32-bit entry begins.
    let note = [4, 4, 18]
        .iter()
        .flat_map(|word: &u32| word.to_le_bytes())
        .chain(*b"Xen\0")
        .chain(ENTRY.to_le_bytes());
    let note: Vec<u8> = note.collect();
    let code_at = HEADERS + note.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let word = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let quad = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    half(&mut elf, &[2, 62]); // executable, x86-64
    word(&mut elf, &[1]);
    quad(&mut elf, &[u64::from(ENTRY), 64, 0]);
    word(&mut elf, &[0]);
    half(&mut elf, &[64, 56, 2, 64, 0, 0]);
    for (kind, offset, address, size) in
        [(4, HEADERS, 0, note.len() as u64), (1, code_at, u64::from(ENTRY), CODE.len() as u64)]
    {
        word(&mut elf, &[kind, 5]);
        quad(&mut elf, &[offset, address, address, size, size, 4]);
    }
    elf.extend(note);
    elf.extend(CODE);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_ends_qemu_with_tcg() {
        if crate::host::find_program("qemu-system-x86_64").is_none() {
            return;
        }
        let image = tempfile::NamedTempFile::new().unwrap();
        fs::write(image.path(), probe_image()).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel"]).arg(image.path());
        let mut child = qemu.spawn().unwrap();
        let status = process::wait(&mut child, Some(Duration::from_secs(60))).unwrap();
        process::end(&mut child);
        assert_eq!(status.and_then(|s| s.code()), Some(exit::QEMU_ENDED));
    }
}
