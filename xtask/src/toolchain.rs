//! The compiler for the kernel's target, `x86_64-unknown-none`.
//!
//! There are two ways to its `core` and `alloc`, tried in this order:
//!
//! 1. rustup's prebuilt target: installed already, or `rustup target add` succeeds;
//! 2. Debian's `rustc-web`, `cargo-web` and `rust-web-src`, whose sources `-Zbuild-std` compiles, for machines
//!    where rustup has no network.
//!
//! `NRK_KERNEL_TOOLCHAIN=rustup|debian` forces one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{host, process, progress::Step, setup, workspace};

/// The kernel's target.
pub const TARGET: &str = "x86_64-unknown-none";
/// Forces a toolchain.
const FORCE: &str = "NRK_KERNEL_TOOLCHAIN";
/// Debian's packages of the second way.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// How long rustup may try to reach its server.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(90);

/// A way to compile the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// The toolchain that compiles xtask itself, with the target's prebuilt libraries.
    Rustup,
    /// Debian's compiler, with the standard library's sources.
    Debian,
}

impl Toolchain {
    /// Finds, or installs, a toolchain.
    pub fn obtain() -> Result<Self> {
        match env::var(FORCE).as_deref() {
            Ok("rustup") if rustup_has_target() || add_target() => Ok(Self::Rustup),
            Ok("rustup") => bail!("{FORCE}=rustup, but `rustup target add {TARGET}` fails"),
            Ok("debian") => Self::debian(),
            Ok(other) if !other.is_empty() => bail!("{FORCE}={other} is unknown: rustup or debian"),
            _ => Self::first_that_works(),
        }
    }

    fn first_that_works() -> Result<Self> {
        if rustup_has_target() {
            return Ok(Self::Rustup);
        }
        // Where rustup failed once, Debian's compiler is there by now: do not wait for the network again.
        if debian_is_installed() || !add_target() {
            return Self::debian();
        }
        Ok(Self::Rustup)
    }

    fn debian() -> Result<Self> {
        if !debian_is_installed() {
            let why = format!("rustup cannot install {TARGET}; Debian's compiler can build the kernel");
            setup::install(&why, &DEBIAN_PACKAGES)?;
        }
        Ok(Self::Debian)
    }

    /// A cargo command (build, clippy) for the kernel's target.
    pub fn cargo(self, subcommand: &str) -> Command {
        let mut command = match self {
            Self::Rustup => cargo(),
            Self::Debian => debian_cargo(),
        };
        command.args([subcommand, "--target", TARGET]);
        if self == Self::Debian {
            command.args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"]);
        }
        command
    }
}

/// The cargo that runs us, without what it set for us alone.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    // These would change the flags or the place of a build that has its own.
    for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

fn debian_cargo() -> Command {
    let mut command = cargo();
    let environment: Vec<_> =
        command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
    command = Command::new("/usr/bin/cargo");
    command.current_dir(workspace::root());
    for (key, value) in environment {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    // -Zbuild-std asks for nightly features of cargo; nrk itself uses stable ones only.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTC_WRAPPER", "RUSTDOC"] {
        command.env_remove(variable);
    }
    let linker = rust_lld_folder();
    if linker.is_none() {
        command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld");
    }
    command.env("PATH", debian_path(linker));
    command
}

/// PATH with Debian's cargo-clippy before rustup's, and rust-lld's folder at the end.
fn debian_path(linker: Option<PathBuf>) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once("/usr/bin".into()).chain(env::split_paths(&path)).chain(linker);
    env::join_paths(folders).unwrap_or(path)
}

/// The folder with the rust-lld of the toolchain that runs us.
fn rust_lld_folder() -> Option<PathBuf> {
    let folder = sysroot()?.join("lib/rustlib/x86_64-unknown-linux-gnu/bin");
    host::is_program(&folder.join("rust-lld")).then_some(folder)
}

fn sysroot() -> Option<PathBuf> {
    let output =
        Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace::root()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end()))
}

fn rustup_has_target() -> bool {
    sysroot().is_some_and(|root| root.join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

fn add_target() -> bool {
    if host::find_program("rustup").is_none() {
        return false;
    }
    let _step = Step::new(format!("rustup target add {TARGET}"));
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).current_dir(workspace::root());
    process::succeeds(&mut rustup, RUSTUP_PATIENCE) && rustup_has_target()
}

fn debian_is_installed() -> bool {
    let sources = Path::new("/usr/lib/rustlib/src/rust/library/core/Cargo.toml");
    ["/usr/bin/rustc", "/usr/bin/cargo"].iter().all(|p| host::is_program(Path::new(p)))
        && (sources.exists() || Path::new("/usr/lib/rustlib/src/rust/library").is_dir())
}
