//! s01: gdb, as `cargo xtask run --debug` sets it up: in the kernel and in its program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};
use xtask::watched::Watched;
use xtask::workspace;

/// How long the C compiler may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A program with a function that is worth a breakpoint.
const SOURCE: &str = "struct pair { int left, right; };
int product(struct pair *pair)
{
    return pair->left * pair->right;
}
int main(void)
{
    struct pair pair = { 6, 7 };
    return product(&pair);
}
";

/// A breakpoint in the kernel is hit with the arguments that the program passed; locals of asynchronous functions are there, too.
#[test]
fn s01_gdb_kernel() -> Result<()> {
    let guest = Setup::program("busybox", &["sh", "-c", "umask 027"]).debugged().start()?;
    let said = guest.gdb(&[
        // busybox finds the old mask out first.
        "break nrk::syscall::dir::umask if mask == 0o27",
        "continue",
        "bt",
        "print *c",
        "info locals",
        "frame function nrk::process::run::live::{async_fn#0}",
        "info locals",
        "detach",
    ])?;
    shows(&said, &["#0  nrk::syscall::dir::umask (c=0xffff8", ", mask=23) at kernel/src/syscall/dir.rs:"])?;
    shows(&said, &["nrk::syscall::table::dispatch_now (caller=0xffff8", "number=95"])?;
    shows(&said, &["$1 = nrk::syscall::Caller {thread: 0xffff8", "context: 0xffff8"])?;
    // Of umask, of the future that is a thread's life.
    shows(&said, &["No locals.", "last_trap = ", "number = 95"])?;
    // The whole way from the first Rust code on, and no further.
    shows(&said, &["in nrk::sched::executor::run", "in nrk::boot::kernel_main (machine=0xffff8"])?;
    guest.finish(Ending::Program(0)).map(drop)
}

/// A breakpoint in the program is hit, wherever nrk puts programs of its kind.
#[test]
fn s01_gdb_program() -> Result<()> {
    for kind in [&["-static", "-no-pie"][..], &["-static-pie"], &["-pie"]] {
        let folder = workspace::scratch()?;
        let program = compile(folder.path(), kind)?;
        let guest = Setup::program(program, &[""; 0]).debugged().start()?;
        let said = guest.gdb(&["break product", "continue", "bt", "print *pair", "detach"])?;
        shows(&said, &["#0  product (pair=0x7ff", "in main () at", "$1 = {left = 6, right = 7}"])?;
        guest.finish(Ending::Program(42))?;
    }
    Ok(())
}

/// Symbols of a program that has none but those that its libraries look for.
#[test]
fn s01_gdb_stripped_program() -> Result<()> {
    let guest = Setup::program("redis-server", &["--save", ""]).debugged().start()?;
    let said = guest.gdb(&["break aeMain", "continue", "bt 1", "detach"])?;
    shows(&said, &["in aeMain ()"])?;
    guest.stop().map(drop)
}

fn compile(folder: &Path, flags: &[&str]) -> Result<PathBuf> {
    let (source, program) = (folder.join("product.c"), folder.join("product"));
    std::fs::write(&source, SOURCE)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-g", "-O0"]).args(flags).arg("-o").arg(&program).arg(source);
    Watched::start(compiler, false)?.succeed(PATIENCE)?;
    Ok(program)
}
