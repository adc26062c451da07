//! From a machine that is set up to the init program.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::cmdline::CommandLine;
use crate::device::NetworkDevice;
use crate::fs::standard::{Output, Standard};
use crate::fs::{self, File, proc, special, standard, tty};
use crate::net::service::{self, Configuration};
use crate::process::hooks::PowerRequest;
use crate::process::{self, ExitStatus, hooks};
use crate::sched::{self, Priority};
use crate::sync::SpinLock;
use crate::{Machine, arch, device, dump, logger, memory, println};

/// The init program's environment, before what the command line adds.
const ENVIRONMENT: [&[u8]; 2] =
    [b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", b"HOME=/root"];
/// What runs when the command line names nothing.
const DEFAULT_INIT: &str = "/sbin/init";
/// The exit status of a machine whose init program cannot be started, as shells have it.
const CANNOT_START: u8 = 127;

/// The kernel proper, on the first core, with memory, interrupts and time.
pub fn kernel_main(machine: &'static Machine) -> ! {
    let line = CommandLine::parse(machine.command_line);
    logger::init(line.log.as_deref());
    for word in &line.unknown {
        log::warn!("command line: `{word}` is not known");
    }
    log::info!("{} cores, {} ACPI tables", machine.tables.cores.len(), machine.tables.count);
    if let Some(name) = &line.test {
        crate::integration_main::run(name, machine);
    }
    set_hooks();
    sched::leftovers::tell_by(process::run::tell_of_leftovers);
    sched::leftovers::reap_by(sched::spawn(arch::core_id(), Priority::Normal, sched::leftovers::reap()));
    tell_facts(machine);
    start_files(machine, &line);
    dump::start();
    if line.latency {
        sched::latency::watch();
        proc::register(proc::Folder::Nrk, "latency", sched::latency::report);
    }
    start_network(&line);
    start_init(&line);
    sched::run()
}

/// Gives the layers below what they cannot reach by themselves.
fn set_hooks() {
    hooks::set(|hooks| {
        hooks.init_exited = init_exited;
        hooks.power = |request| match request {
            PowerRequest::Halt => arch::exit::halt(),
            PowerRequest::Restart | PowerRequest::PowerOff => arch::exit(0),
        };
        hooks.open_console = || Ok(tty::console::terminal().clone());
        hooks.standard = standard_stream;
        hooks.read_log = logger::read;
        hooks.map_vdso = memory::vdso::map;
    });
    special::register_fifo(fs::pipe::open_fifo);
    let conversion = arch::clock::conversion();
    let parameters = arch::vdso::Parameters {
        base: conversion.base,
        multiplier: conversion.multiplier,
        wall_offset: conversion.wall_offset,
        core_in_tsc_aux: arch::cpu::features().rdtscp,
    };
    if memory::vdso::set_parameters(parameters).is_err() {
        log::warn!("vdso: no memory; programs make system calls instead");
    }
}

/// Tells /proc and /sys about the machine. Its other cores stay off.
fn tell_facts(machine: &Machine) {
    // Nanoseconds are cycles times the multiplier, shifted right by 32.
    let frequency = (1_000_000_000 << 32) / arch::clock::conversion().multiplier.max(1);
    fs::machine::set(fs::machine::Machine { command_line: machine.command_line, cores: 1, frequency });
}

/// The machine's purpose is fulfilled: it ends with the program's status, as a shell would show it.
fn init_exited(status: ExitStatus) {
    arch::exit(status.shell_status());
}

fn start_files(machine: &Machine, line: &CommandLine) {
    if let Err(error) = fs::setup::init() {
        fail(format_args!("no file system: {error:?}"));
    }
    tty::console::init(line.terminal);
    start_console(line);
    if let Some(archive) = machine.initramfs {
        let report = fs::initramfs::unpack(&fs::setup::root_fs(), &fs::setup::root(), archive);
        if !report.is_complete() {
            log::error!("initramfs: {report}");
        }
    }
}

/// Sends what the serial line brings to where it is read.
fn start_console(line: &CommandLine) {
    let (core, source) = (arch::core_id(), arch::console::next_byte);
    if line.output_is_pipe {
        *OUTPUT.lock() = Some(Output::new(arch::console::write_bytes));
        // Where a person types, another terminal shows it.
        tty::console::terminal().stop_echo();
    }
    let reader = if line.input_is_pipe {
        let (file, feeder) = standard::input(source);
        *INPUT.lock() = Some(file);
        sched::spawn(core, Priority::Urgent, feeder.run())
    } else if line.output_is_pipe {
        let terminal = tty::console::terminal();
        let text = standard::type_text(source, |byte| terminal.type_byte(byte), || terminal.type_end());
        sched::spawn(core, Priority::Urgent, text)
    } else {
        sched::spawn(core, Priority::Urgent, tty::console::pump())
    };
    arch::console::enable_input(reader);
}

/// Standard input where it is no terminal, until the first process has it: nobody else keeps the pipe open.
static INPUT: SpinLock<Option<Arc<dyn File>>> = SpinLock::new(None);
/// Standard output where it is no terminal.
static OUTPUT: SpinLock<Option<Arc<Output>>> = SpinLock::new(None);

fn standard_stream(standard: Standard) -> Option<Arc<dyn File>> {
    match standard {
        Standard::Input => INPUT.lock().take(),
        Standard::Output | Standard::Error => OUTPUT.lock().clone().map(|output| output as _),
    }
}

/// Starts the stack, and every network card with the first one configured as the command line says.
pub fn start_network(line: &CommandLine) {
    let text = line.ip.as_deref().unwrap_or("dhcp");
    let mut configuration = text.parse().unwrap_or_else(|_| {
        log::error!("command line: `ip={text}` is not dhcp, off or A.B.C.D/N[,GATEWAY]");
        Configuration::Dhcp
    });
    service::start();
    for NetworkDevice { nic, interrupts } in device::start_network() {
        service::attach(nic, interrupts, configuration);
        if configuration != Configuration::Off {
            configuration = Configuration::Dhcp;
        }
    }
}

fn start_init(line: &CommandLine) {
    let path = line.init.as_deref().unwrap_or(DEFAULT_INIT);
    let arguments = line.arguments.iter().map(Vec::as_slice);
    let arguments: Vec<&[u8]> = core::iter::once(path.as_bytes()).chain(arguments).collect();
    let added = line.environment.iter().map(Vec::as_slice);
    let environment: Vec<&[u8]> = ENVIRONMENT.into_iter().chain(added).collect();
    if line.fixed_addresses {
        process::exec::fix_addresses();
    }
    if let Err(error) = process::start_init(path.as_bytes(), &arguments, &environment) {
        fail(format_args!("init {path} cannot be started: {error:?}"));
    }
    // Job control needs a controlling terminal, and there is no getty to arrange for one.
    let is_terminal = !(line.input_is_pipe && line.output_is_pipe);
    if let Some(init) = process::find(process::INIT).filter(|_| is_terminal) {
        tty::console::terminal().control(&init);
    }
}

/// Ends a machine that cannot do what it is for.
fn fail(why: core::fmt::Arguments<'_>) -> ! {
    println!("kernel: {why}");
    arch::exit(CANNOT_START)
}
