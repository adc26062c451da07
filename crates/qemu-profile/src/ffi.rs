//! QEMU's side: the functions it offers, and the ones that it calls.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::slice;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::block::{self, Block};
use crate::tree::Recorder;

/// The version of the interface that is used.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// As many processors as QEMU's q35 machine has.
const PROCESSORS: usize = 288;
/// How many profiles can be told apart, with 0, which nobody reads.
const PROFILES: usize = 8;
/// `QEMU_PLUGIN_CB_NO_REGS`
const NO_REGISTERS: c_int = 0;
/// In the switch: wait for the first instruction in user mode.
const FROM_USER_MODE: u8 = 0x80;

/// A plugin's name of itself.
type Id = u64;

/// A block under translation, QEMU's.
#[repr(C)]
struct Translation {
    _private: [u8; 0],
}

/// An instruction of it, QEMU's.
#[repr(C)]
struct Instruction {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut Translation));
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Translation,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_atexit_cb(id: Id, callback: extern "C" fn(Id, *mut c_void), data: *mut c_void);
    fn qemu_plugin_tb_n_insns(block: *const Translation) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Translation) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const Translation, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const u8;
    fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
}

/// What the plugin was told.
struct Arguments {
    out: String,
    switch: &'static AtomicU8,
}

static ARGUMENTS: OnceLock<Arguments> = OnceLock::new();
/// All blocks, by index. They stay: QEMU has pointers to the entries of a translation that it may still run.
static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());
/// By processor; each is used by that processor's thread alone, until QEMU has ended.
static RECORDERS: [AtomicPtr<Recorder>; PROCESSORS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; PROCESSORS];
/// How far the guest has come: only firmware has run; the kernel has; a program has.
static STAGE: AtomicU8 = AtomicU8::new(FIRMWARE);
const FIRMWARE: u8 = 0;
const BOOTED: u8 = 1;
const RUNS_PROGRAMS: u8 = 2;
/// What a core can reach in real mode ends here.
const REAL_MODE_END: u64 = 1 << 20;

/// Called by QEMU when it loads the plugin; 0 means well.
///
/// # Safety
/// `arguments` are `count` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    let words: Vec<String> = match count {
        0 => Vec::new(),
        // SAFETY: QEMU hands over `count` pointers to strings that end with NUL.
        _ => unsafe { slice::from_raw_parts(arguments, count).iter().map(|word| CStr::from_ptr(*word)) }
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
    };
    match read(&words) {
        Ok(read) => _ = ARGUMENTS.set(read),
        Err(error) => {
            eprintln!("qemu-profile: {error}");
            return 1;
        }
    }
    // SAFETY: the functions are QEMU's and the callbacks have the types that it expects.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_atexit_cb(id, ended, std::ptr::null_mut());
    }
    0
}

fn read(words: &[String]) -> Result<Arguments, String> {
    let value = |key: &str| {
        let found = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.ok_or_else(|| format!("the argument {key} is missing"))
    };
    let (out, switch) = (value("out")?.to_string(), value("switch")?);
    let switch = map(switch).map_err(|error| format!("cannot map {switch}: {error}"))?;
    Ok(Arguments { out, switch })
}

/// Maps the first byte of a file, for ever.
fn map(path: &str) -> std::io::Result<&'static AtomicU8> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() == 0 {
        file.set_len(1)?;
    }
    // SAFETY: a new mapping of a file that has at least one byte; nothing else is at an address that the system chooses.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            1,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the mapping is never taken away, and all accesses to the byte are atomic.
    Ok(unsafe { &*address.cast::<AtomicU8>() })
}

/// QEMU has translated a block.
extern "C" fn translated(_id: Id, translation: *mut Translation) {
    // SAFETY: QEMU lends the block for this call, and it has at least one instruction.
    let (block, index) = unsafe {
        let count = qemu_plugin_tb_n_insns(translation);
        let last = qemu_plugin_tb_get_insn(translation, count.saturating_sub(1));
        let bytes = bytes(last);
        let end = qemu_plugin_insn_vaddr(last) + bytes.len() as u64;
        let block = Block {
            start: qemu_plugin_tb_vaddr(translation),
            end,
            instructions: count as u64,
            exit: block::exit(bytes, end),
        };
        let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.push(block);
        (block, blocks.len() - 1)
    };
    let data: *mut (usize, Block) = Box::leak(Box::new((index, block)));
    // SAFETY: the callback gets a pointer to what is never freed.
    unsafe { qemu_plugin_register_vcpu_tb_exec_cb(translation, executed, NO_REGISTERS, data.cast()) };
    restore_order(translation);
}

/// Has this machine's processor order memory where the guest says so, which QEMU (before 8.1) leaves out when one thread runs all
/// of the guest's processors. Its devices have threads, too, and would miss a doorbell
/// (docs/decisions/0004-a-second-processor-that-may-come.md).
fn restore_order(translation: *mut Translation) {
    let mut after = false;
    // SAFETY: QEMU lends the block and its instructions for the call of `translated`, the only caller.
    unsafe {
        for index in 0..qemu_plugin_tb_n_insns(translation) {
            let instruction = qemu_plugin_tb_get_insn(translation, index);
            let orders = block::orders_memory(bytes(instruction));
            // Before it, and before the next: what it does itself is ordered as well.
            if orders || after {
                let nothing = std::ptr::null_mut();
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, order, NO_REGISTERS, nothing);
            }
            after = orders;
        }
    }
}

/// An instruction's bytes.
///
/// # Safety
/// QEMU lends the instruction for as long as the bytes are used.
unsafe fn bytes<'a>(instruction: *const Instruction) -> &'a [u8] {
    // SAFETY: it has as many bytes as it says.
    unsafe { slice::from_raw_parts(qemu_plugin_insn_data(instruction), qemu_plugin_insn_size(instruction)) }
}

extern "C" fn order(_processor: c_uint, _data: *mut c_void) {
    fence(Ordering::SeqCst);
}

/// A block is about to run on a processor.
extern "C" fn executed(processor: c_uint, data: *mut c_void) {
    // SAFETY: `data` is the leaked pair of `translated`.
    let (index, block) = unsafe { &*data.cast::<(usize, Block)>() };
    let (Some(slot), Some(arguments)) = (RECORDERS.get(processor as usize), ARGUMENTS.get()) else { return };
    let mut recorder = slot.load(Ordering::Relaxed);
    if recorder.is_null() {
        recorder = Box::leak(Box::default());
        slot.store(recorder, Ordering::Release);
    }
    let switch = arguments.switch.load(Ordering::Relaxed);
    let waits = switch & FROM_USER_MODE != 0 && !in_user_mode(block);
    let profile = if waits { 0 } else { usize::from(switch & !FROM_USER_MODE) % PROFILES };
    // SAFETY: a processor's recorder is made and used by its thread alone; QEMU runs one block of a processor at a time.
    unsafe { (*recorder).execute(*index, block, profile) };
}

/// Whether a program has run, now that `block` does. Firmware and the kernel's first steps have low addresses, too, but before
/// anything runs at the kernel's own ones; other cores start below the first MiB.
fn in_user_mode(block: &Block) -> bool {
    let stage = STAGE.load(Ordering::Relaxed);
    let next = match stage {
        FIRMWARE if block.is_kernel() => BOOTED,
        BOOTED if !block.is_kernel() && block.start >= REAL_MODE_END => RUNS_PROGRAMS,
        _ => return stage == RUNS_PROGRAMS,
    };
    STAGE.store(next, Ordering::Relaxed);
    next == RUNS_PROGRAMS
}

/// QEMU ends: the processors stand still.
extern "C" fn ended(_id: Id, _data: *mut c_void) {
    let Some(arguments) = ARGUMENTS.get() else { return };
    if let Err(error) = write(&arguments.out) {
        eprintln!("qemu-profile: cannot write {}: {error}", arguments.out);
    }
}

fn write(path: &str) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    for (processor, recorder) in RECORDERS.iter().enumerate() {
        // SAFETY: set once, by the processor's thread, which has stopped.
        if let Some(recorder) = unsafe { recorder.load(Ordering::Acquire).as_ref() } {
            recorder.write(processor, &blocks, &mut out)?;
        }
    }
    out.flush()
}
