//! The Linux guest: Debian's packaged kernel and an init script that does what nrk does by itself.
//!
//! The package is unpacked into target/linux, so nothing of this machine changes; where that fails, an installed
//! kernel is used, or the package is installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::Image;
use crate::progress::Step;
use crate::qemu::Nic;
use crate::{elf, host, process, setup, workspace};

/// The init script's path.
pub const INIT: &str = "/init";
/// Where busybox and the modules lie in the initramfs.
const BUSYBOX: &str = "/busybox";
const MODULES: &str = "/modules";
/// What udhcpc calls when it has an address, udhcpc(8).
const LEASE_SCRIPT: &str = "#!/busybox sh
[ \"$1\" = bound ] && /busybox ifconfig $interface $ip netmask $subnet
exit 0
";

/// An unpacked kernel.
pub struct LinuxKernel {
    /// The bzImage.
    pub image: PathBuf,
    modules: PathBuf,
}

impl LinuxKernel {
    /// The newest packaged kernel that drives a card.
    pub fn obtain(nic: Nic) -> Result<Self> {
        // The kernel for clouds has no e1000.
        let package = if nic == Nic::E1000 { "linux-image-amd64" } else { "linux-image-cloud-amd64" };
        let _lock = workspace::lock("linux")?;
        let folder = workspace::target().join("linux").join(package);
        if let Some(kernel) = Self::find(&folder, "") {
            return Ok(kernel);
        }
        let flavour = if nic == Nic::E1000 { "-amd64" } else { "-cloud-amd64" };
        if let Err(error) = unpack(package, &folder) {
            if Self::find(Path::new("/"), flavour).is_none() {
                setup::install(&format!("the package {package} cannot be unpacked ({error:#})"), &[package])?;
            }
            let kernel = Self::find(Path::new("/"), flavour);
            return kernel.with_context(|| format!("{package} is installed, but its files are not readable"));
        }
        Self::find(&folder, "").with_context(|| format!("the package {package} has no kernel in it"))
    }

    /// The newest kernel with a suffix in its version below a root.
    fn find(root: &Path, suffix: &str) -> Option<Self> {
        let entries = fs::read_dir(root.join("boot")).ok()?.flatten();
        let versions = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("vmlinuz-").filter(|version| version.ends_with(suffix)).map(String::from)
        });
        let plain = |version: &String| suffix != "-amd64" || !version.contains("cloud");
        let version = versions.filter(plain).max_by_key(|version| numbers(version))?;
        let image = root.join("boot").join(format!("vmlinuz-{version}"));
        let modules = root.join("lib/modules").join(&version);
        // Merged distributions ship lib as usr/lib.
        let modules = if modules.is_dir() { modules } else { root.join("usr/lib/modules").join(&version) };
        (fs::File::open(&image).is_ok() && modules.is_dir()).then_some(Self { image, modules })
    }

    /// Adds modules, busybox and the init script, which becomes the program of `command`, in words for a shell.
    pub fn add_to(&self, image: &mut Image, nic: Nic, command: &str) -> Result<()> {
        let busybox = host::find_program("busybox").context("busybox is not installed")?;
        if elf::linkage(&busybox)?.is_some_and(|linkage| linkage.interpreter.is_some()) {
            bail!("{} is not static: install busybox-static", busybox.display());
        }
        image.host_tree(&busybox, Path::new(BUSYBOX))?;
        image.file("/lease", 0o755, LEASE_SCRIPT)?;
        let mut loading = String::new();
        for module in self.modules_for(nic)? {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            image.host_tree(&self.modules.join(&module), &Path::new(MODULES).join(&name))?;
            loading.push_str(&format!("/busybox insmod {MODULES}/{name}\n"));
        }
        image.file(INIT, 0o755, script(&loading, nic, command))
    }

    /// The modules that a card needs, those first that others need.
    fn modules_for(&self, nic: Nic) -> Result<Vec<PathBuf>> {
        let wanted: &[&str] = match nic {
            Nic::Virtio => &["virtio_pci", "virtio_net"],
            Nic::E1000 => &["e1000"],
            Nic::Vmxnet3 => &["vmxnet3"],
            Nic::None => &[],
        };
        let read = |name: &str| fs::read_to_string(self.modules.join(name)).unwrap_or_default();
        modules_in_order(&self.dependencies()?, &read("modules.builtin"), wanted)
    }

    /// modules.dep, which depmod(8) makes: the package has it only once it is installed.
    fn dependencies(&self) -> Result<String> {
        let path = self.modules.join("modules.dep");
        if !path.exists() {
            let root = self.modules.ancestors().nth(3).context("no root")?;
            let version = self.modules.file_name().context("no version")?;
            let depmod = host::find_program("depmod").context("depmod is not installed (package kmod)")?;
            let step = Step::new("depmod");
            process::run(Command::new(depmod).arg("-b").arg(root).arg(version), &step)?;
        }
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Downloads the package that a meta package stands for, and unpacks it.
fn unpack(package: &str, folder: &Path) -> Result<()> {
    let step = Step::new(format!("fetching {package}"));
    let depends = process::run(Command::new("apt-cache").args(["depends", "--important", package]), &step)?;
    let depends = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let real = depends.filter(|name| name.starts_with("linux-image-")).max_by_key(|name| numbers(name));
    let real = real.with_context(|| format!("apt knows no package {package}"))?;
    let download = tempfile::Builder::new().prefix("nrk-linux-").tempdir()?;
    process::run(Command::new("apt-get").args(["download", real]).current_dir(download.path()), &step)?;
    let archive = fs::read_dir(download.path())?.flatten().map(|entry| entry.path());
    let archive = archive.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb"));
    let archive = archive.context("apt-get downloaded nothing")?;
    // Into a new folder, and then into place: a half unpacked kernel is never taken for one.
    let parent = folder.parent().context("no folder")?;
    fs::create_dir_all(parent)?;
    let new = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(new.path()), &step)?;
    fs::rename(new.keep(), folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The numbers in a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Paths of modules and of all that they depend on, in the order of loading.
fn modules_in_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let line_of = |name: &str| {
        dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == name)
    };
    let (mut order, mut done) = (Vec::new(), BTreeSet::new());
    for name in wanted {
        let Some((path, needs)) = line_of(name) else {
            if builtin.lines().any(|path| module_name(path) == *name) {
                continue;
            }
            bail!("this Linux kernel has no module {name}");
        };
        // depmod lists all dependencies, those last that are to be loaded first.
        for path in needs.split_ascii_whitespace().rev().chain([path]) {
            if done.insert(path) {
                order.push(PathBuf::from(path));
            }
        }
    }
    Ok(order)
}

/// The name of a module file, in which `-` and `_` are the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// The address is asked for beside the program's start, as nrk does it.
fn script(loading: &str, nic: Nic, command: &str) -> String {
    let network = match nic {
        Nic::None => "",
        _ => {
            "/busybox ifconfig eth0 up
/busybox udhcpc -q -i eth0 -t 30 -T 1 -s /lease >/dev/null 2>&1 &
"
        }
    };
    format!(
        "#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs dev /dev
{loading}/busybox ifconfig lo 127.0.0.1
{network}exec {command}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko\n\
        kernel/net/net_failover.ko: kernel/net/failover.ko\nkernel/net/failover.ko:\nkernel/net/e1000.ko.xz:\n";

    #[test]
    fn modules_are_loaded_after_what_they_need_and_once() {
        let order = modules_in_order(
            DEPENDENCIES,
            "kernel/virtio-pci.ko\n",
            &["virtio_pci", "net_failover", "virtio_net"],
        );
        let names: Vec<_> = order.unwrap().iter().map(|path| module_name(path.to_str().unwrap())).collect();
        assert_eq!(names, ["failover", "net_failover", "virtio_net"]);
        assert!(modules_in_order(DEPENDENCIES, "", &["virtio_pci"]).is_err());
    }

    #[test]
    fn the_init_script_is_sound_shell() {
        for nic in [Nic::Virtio, Nic::None] {
            let script = script("/busybox insmod /modules/a.ko\n", nic, "/bin/program --save ''");
            assert!(Command::new("sh").args(["-n", "-c", &script]).status().unwrap().success());
            assert!(script.ends_with("\nexec /bin/program --save ''\n"), "{script}");
            assert_eq!(script.contains("udhcpc"), nic != Nic::None);
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
    }
}
