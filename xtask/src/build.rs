//! `cargo xtask build`: the kernel, the user programs, the initramfs of the default program.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{pack, process, progress::Step, run, setup, toolchain, workspace};

/// The target of the programs in `user/`.
const USER_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where the kernel image's 2 GiB begin.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where the room for the table of functions and lines is.
const ROOM: &str = "its room is SIZE in kernel/src/arch/x86_64/symbols.rs";

/// How much the compiler does: the profiles of that name in the workspace's Cargo.toml.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Compiled anew in seconds: what is run and tested from day to day.
    #[default]
    Daily,
    /// As fast as it gets: what is measured.
    Release,
    /// As it was written: what gdb understands.
    Debugging,
}

impl Profile {
    /// The fast kernel if `release`, else the one of every day.
    pub fn released(release: bool) -> Self {
        if release { Self::Release } else { Self::Daily }
    }

    /// Cargo's name of the profile, and of its folder.
    fn name(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Release => "release",
            Self::Debugging => "debugging",
        }
    }

    /// The kernel's image.
    pub fn image(self) -> PathBuf {
        workspace::target().join(match self {
            Self::Daily => "nrk",
            Self::Release => "nrk-release",
            Self::Debugging => "nrk-debug",
        })
    }
}

/// Everything, for `cargo xtask build`.
pub fn all() -> Result<()> {
    [setup::RUN, setup::REDIS].into_iter().try_for_each(setup::require)?;
    let kernel = kernel(Profile::Daily)?;
    let programs = user_programs()?;
    let initramfs =
        pack::initramfs(&pack::Contents { program: Some(run::default_program()), ..Default::default() })?;
    [&kernel, &programs, &initramfs.path].into_iter().for_each(|path| tell(path));
    Ok(())
}

/// The kernel for gdb, for `cargo xtask build --debug`.
pub fn for_gdb() -> Result<()> {
    tell(&kernel(Profile::Debugging)?);
    Ok(())
}

fn tell(path: &Path) {
    println!("{}", path.strip_prefix(workspace::root()).unwrap_or(path).display());
}

/// Builds the kernel and returns the path of its image.
///
/// The image appears there in one step, so a guest that starts meanwhile gets the old one or the new one.
pub fn kernel(profile: Profile) -> Result<PathBuf> {
    let _lock = workspace::lock("kernel")?;
    let step = Step::new(format!("building the kernel ({})", profile.name()));
    let mut cargo = toolchain::Toolchain::obtain()?.cargo("build");
    cargo.args(kernel_options(profile)).args(["--package", "nrk", "--bin", "nrk"]);
    process::run(&mut cargo, &step).context("the kernel does not build")?;
    let elf = kernel_folder().join(toolchain::TARGET).join(profile.name()).join("nrk");
    let mut bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    ksyms::fill(&mut bytes, KERNEL_BASE, &workspace::root())
        .with_context(|| format!("the kernel gets no table for its backtraces ({ROOM})"))?;
    let image = profile.image();
    workspace::write_atomically(&image, |file| Ok(file.write_all(&bytes)?))?;
    Ok(image)
}

/// Cargo's options for whatever it does with the kernel: one profile and one folder, so that each uses what another compiled.
pub fn kernel_options(profile: Profile) -> [OsString; 4] {
    ["--profile".into(), profile.name().into(), "--target-dir".into(), kernel_folder().into()]
}

fn kernel_folder() -> PathBuf {
    workspace::target().join("kernel")
}

/// Builds the programs in `user/`, static, and returns the folder in which they lie.
pub fn user_programs() -> Result<PathBuf> {
    let _lock = workspace::lock("user")?;
    let step = Step::new("building the user programs");
    let built_in = workspace::target().join("user");
    let mut cargo = toolchain::cargo();
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    cargo.args(["build", "--release", "--target", USER_TARGET, "--target-dir"]).arg(&built_in);
    for package in user_packages(&workspace::root().join("user"))? {
        cargo.args(["--package", &package]);
    }
    process::run(&mut cargo, &step).context("the user programs do not build")?;
    Ok(built_in.join(USER_TARGET).join("release"))
}

/// The programs in a folder: its subfolders with a main file, which bear the packages' names. Libraries are built by the way.
fn user_packages(folder: &Path) -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.path().join("src/main.rs").is_file() {
            packages.extend(entry.file_name().into_string());
        }
    }
    packages.sort();
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_programs_are_found() {
        let packages = user_packages(&workspace::root().join("user")).unwrap();
        assert!(packages.contains(&"conformance".to_string()), "{packages:?}");
    }
}
