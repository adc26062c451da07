//! Interrupts: which vector means what, and the controllers that deliver them.
//!
//! A handler acknowledges, records and wakes: it adds the causes of its vector to a [`Source`]'s pending word and
//! wakes the task that looks at it. It takes no lock and allocates nothing.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};

use x86_64::instructions::port::Port;

use crate::arch::CoreId;
use crate::arch::x86_64::{acpi, apic, boot, console};
use crate::memory::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::sched::{TaskHandle, timer};
use crate::sync::SpinLock;

/// Vectors that can be given to devices.
const FIRST_VECTOR: u8 = 0x30;
const LAST_VECTOR: u8 = 0xef;
/// The console's vector.
const CONSOLE_VECTOR: u8 = 0x2f;
/// Most devices with interrupts.
const MAX_SOURCES: usize = 32;
/// No line of an I/O APIC.
const NO_LINE: u16 = u16::MAX;

/// What the interrupts of one device have reported.
pub struct Source {
    taken: AtomicBool,
    pending: AtomicU32,
    /// The I/O APIC line of the device, masked by the handler; `NO_LINE` if it sends messages.
    line: AtomicU16,
    task: spin::Once<TaskHandle>,
}

/// A vector's meaning: the source (plus one; zero for a free vector) and its causes.
struct Vector {
    source: AtomicU8,
    causes: AtomicU32,
}

static SOURCES: [Source; MAX_SOURCES] = [const {
    Source {
        taken: AtomicBool::new(false),
        pending: AtomicU32::new(0),
        line: AtomicU16::new(NO_LINE),
        task: spin::Once::new(),
    }
}; MAX_SOURCES];

static VECTORS: [Vector; 256] =
    [const { Vector { source: AtomicU8::new(0), causes: AtomicU32::new(0) } }; 256];

impl Source {
    /// A source that no device uses yet.
    pub fn allocate() -> Option<&'static Self> {
        SOURCES.iter().find(|source| !source.taken.swap(true, Ordering::Relaxed))
    }

    /// Has `task` woken by every interrupt of this source. To be called once.
    pub fn set_task(&self, task: TaskHandle) {
        self.task.call_once(|| task);
    }

    /// Takes the causes recorded since the last call.
    pub fn take_causes(&self) -> u32 {
        self.pending.swap(0, Ordering::Acquire)
    }

    /// Lets the device's line interrupt again, after the device has been served. Nothing to do for messages.
    pub fn unmask_line(&self) {
        let line = self.line.load(Ordering::Relaxed);
        if line != NO_LINE {
            IO_APICS.lock().iter().for_each(|io| io.set_mask(u32::from(line), false));
        }
    }

    fn index(&self) -> u8 {
        // A source is an element of the array.
        let offset = core::ptr::from_ref(self) as usize - SOURCES.as_ptr() as usize;
        (offset / size_of::<Self>()) as u8
    }

    /// Gives this source a vector that records `causes`. `None` when all are in use.
    pub fn add_vector(&self, causes: u32) -> Option<u8> {
        let vector = (FIRST_VECTOR..=LAST_VECTOR).find(|&vector| {
            let slot = &VECTORS[usize::from(vector)].source;
            slot.compare_exchange(0, self.index() + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })?;
        VECTORS[usize::from(vector)].causes.store(causes, Ordering::Release);
        Some(vector)
    }

    /// Gives `vector` back.
    pub fn remove_vector(&self, vector: u8) {
        VECTORS[usize::from(vector)].causes.store(0, Ordering::Relaxed);
        VECTORS[usize::from(vector)].source.store(0, Ordering::Release);
    }

    /// Connects the I/O APIC line `interrupt`, level-triggered and active low as PCI has it, with `vector`. False if there is no such line.
    pub fn connect_line(&self, interrupt: u32, vector: u8) -> bool {
        self.line.store(interrupt as u16, Ordering::Relaxed);
        let flags = LEVEL | ACTIVE_LOW;
        IO_APICS.lock().iter().any(|io| io.route(interrupt, vector, flags))
    }
}

/// Handles the interrupt `vector` on this core, with interrupts off.
pub fn handle(vector: u8) {
    match vector {
        apic::TIMER_VECTOR => timer::fired(),
        // Its work is done by arriving: the core is awake.
        apic::WAKE_VECTOR => {}
        apic::SPURIOUS_VECTOR => return,
        CONSOLE_VECTOR => console::on_interrupt(),
        _ => record(vector),
    }
    apic::end_of_interrupt();
}

fn record(vector: u8) {
    let slot = &VECTORS[usize::from(vector)];
    let index = slot.source.load(Ordering::Acquire);
    let Some(source) = index.checked_sub(1).and_then(|index| SOURCES.get(usize::from(index))) else { return };
    source.pending.fetch_or(slot.causes.load(Ordering::Relaxed), Ordering::Release);
    let line = source.line.load(Ordering::Relaxed);
    if line != NO_LINE {
        mask_in_handler(u32::from(line));
    }
    if let Some(task) = source.task.get() {
        task.wake();
    }
}

/// A handler may not wait for a lock. Who holds this one runs with interrupts off on another core, briefly; should that be so now, the
/// line stays unmasked and interrupts again.
fn mask_in_handler(line: u32) {
    if let Some(io_apics) = IO_APICS.try_lock() {
        io_apics.iter().for_each(|io| io.set_mask(line, true));
    }
}

/// Sleeps until an interrupt has been handled.
pub fn wait() {
    // STI takes effect after the next instruction, so no interrupt comes between the two.
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
}

/// Handles the interrupts that have come meanwhile: where a long call pauses.
pub fn take() {
    x86_64::instructions::interrupts::enable();
    // STI takes effect after the next instruction.
    x86_64::instructions::nop();
    x86_64::instructions::interrupts::disable();
}

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

/// The registers of an I/O APIC (82093AA data sheet, section 3.0).
struct IoApic {
    registers: VirtAddr,
    first_interrupt: u32,
    inputs: u32,
}

static IO_APICS: SpinLock<heapless::Vec<IoApic, 8>> = SpinLock::new(heapless::Vec::new());

impl IoApic {
    fn new(description: &acpi::IoApic) -> Option<Self> {
        let registers = boot::map_mmio(description.address, PAGE_SIZE)?;
        let mut this = Self { registers, first_interrupt: description.first_interrupt, inputs: 0 };
        this.inputs = (this.read(1) >> 16 & 0xff) + 1;
        for input in 0..this.inputs {
            this.write(0x10 + 2 * input, MASKED);
        }
        Some(this)
    }

    fn select(&self, register: u32) -> *mut u32 {
        let base = self.registers.as_u64() as *mut u32;
        // SAFETY: `new` mapped the page: the index register is at 0, the data register at 0x10.
        unsafe {
            base.write_volatile(register);
            base.add(4)
        }
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: the data register of the mapped page.
        unsafe { self.select(register).read_volatile() }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: the data register of the mapped page.
        unsafe { self.select(register).write_volatile(value) }
    }

    fn input(&self, interrupt: u32) -> Option<u32> {
        interrupt.checked_sub(self.first_interrupt).filter(|&input| input < self.inputs)
    }

    fn route(&self, interrupt: u32, vector: u8, flags: u32) -> bool {
        let Some(input) = self.input(interrupt) else { return false };
        self.write(0x11 + 2 * input, apic::id_of(CoreId(0)) << 24);
        self.write(0x10 + 2 * input, u32::from(vector) | flags);
        true
    }

    fn set_mask(&self, interrupt: u32, masked: bool) {
        if let Some(input) = self.input(interrupt) {
            let entry = self.read(0x10 + 2 * input);
            self.write(0x10 + 2 * input, if masked { entry | MASKED } else { entry & !MASKED });
        }
    }
}

/// Silences the legacy controllers, and routes the console's interrupt.
pub fn init(tables: &acpi::Tables) {
    disable_legacy_controllers();
    let mut io_apics = IO_APICS.lock();
    for description in &tables.io_apics {
        match IoApic::new(description) {
            Some(io_apic) => drop(io_apics.push(io_apic)),
            None => log::warn!("interrupts: I/O APIC at {:?} cannot be mapped", description.address),
        }
    }
    let (line, flags) = isa_line(tables, console::ISA_LINE);
    if !io_apics.iter().any(|io| io.route(line, CONSOLE_VECTOR, flags)) {
        log::warn!("interrupts: no I/O APIC input for the console");
    }
}

/// Where the legacy line arrives, and how: edge-triggered and active high unless ACPI says otherwise.
fn isa_line(tables: &acpi::Tables, isa: u8) -> (u32, u32) {
    let Some(found) = tables.overrides.iter().find(|entry| entry.isa == isa) else {
        return (u32::from(isa), 0);
    };
    let polarity = if found.flags & 0b11 == 0b11 { ACTIVE_LOW } else { 0 };
    let trigger = if found.flags >> 2 & 0b11 == 0b11 { LEVEL } else { 0 };
    (found.interrupt, polarity | trigger)
}

/// Masks every input of the two 8259 controllers (8259A data sheet), their vectors moved away from the exceptions first.
fn disable_legacy_controllers() {
    for (command, data, vector, cascade) in [(0x20u16, 0x21u16, 0x20u8, 4u8), (0xa0, 0xa1, 0x28, 2)] {
        // SAFETY: the controllers' ports; after this they deliver nothing.
        unsafe {
            Port::<u8>::new(command).write(0x11);
            let mut data = Port::<u8>::new(data);
            data.write(vector);
            data.write(cascade);
            data.write(1);
            data.write(0xff);
        }
    }
}

/// The physical address to which a device writes to interrupt the first core, and what it writes to raise `vector`
/// (SDM volume 3, section 12.11).
pub fn message(vector: u8) -> (PhysAddr, u32) {
    (PhysAddr::new(0xfee0_0000 | u64::from(apic::id_of(CoreId(0))) << 12), u32::from(vector))
}
