//! `cargo xtask build`: the kernel, the user programs, the initramfs of the default program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{ksyms, pack, process, progress::Step, run, setup, toolchain, workspace};

/// The target of the programs in `user/`.
const USER_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a kernel is built with.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// The kernel-side mains of the integration tests (`test=NAME` on the command line).
    pub integration_test: bool,
}

impl Features {
    /// The names of the folder below target/ in which cargo builds, and of the image.
    fn names(self) -> (&'static str, &'static str) {
        if self.integration_test { ("kernel-test", "nrk-test") } else { ("kernel", "nrk") }
    }
}

/// Everything, for `cargo xtask build`.
pub fn all() -> Result<()> {
    setup::require(setup::RUN)?;
    let kernel = kernel(Features::default())?;
    let programs = user_programs()?;
    let initramfs =
        pack::initramfs(&pack::Contents { program: Some(run::default_program()), ..Default::default() })?;
    for path in [&kernel, &programs, &initramfs.path] {
        println!("{}", path.strip_prefix(workspace::root()).unwrap_or(path).display());
    }
    Ok(())
}

/// Builds the kernel and returns the path of its image: target/nrk, or target/nrk-test.
///
/// The image appears there in one step, so a guest that starts meanwhile gets the old one or the new one.
pub fn kernel(features: Features) -> Result<PathBuf> {
    let (folder, image) = features.names();
    let _lock = workspace::lock(folder)?;
    let step = Step::new("building the kernel");
    let built_in = workspace::target().join(folder);
    let mut cargo = toolchain::Toolchain::obtain()?.cargo("build");
    cargo.args(["--release", "--package", "nrk", "--bin", "nrk", "--target-dir"]).arg(&built_in);
    if features.integration_test {
        cargo.args(["--features", "integration-test"]);
    }
    process::run(&mut cargo, &step).context("the kernel does not build")?;
    let elf = built_in.join(toolchain::TARGET).join("release/nrk");
    let mut bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    ksyms::fill(&mut bytes)?;
    let image = workspace::target().join(image);
    workspace::write_atomically(&image, |file| Ok(file.write_all(&bytes)?))?;
    Ok(image)
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
