//! What a signal handler finds on its stack, and the way back from it.
//!
//! The layout is Linux's `struct rt_sigframe` on x86-64 (`arch/x86/include/asm/sigframe.h`, `uapi/asm/sigcontext.h`), because the C
//! library, debuggers and unwinders know it. From high to low addresses:
//!
//! ```text
//!   interrupted stack pointer
//!   red zone, 128 bytes             the function may use it without moving the stack pointer (System V ABI, 3.2.2)
//!   extended state, at 64 bytes     XSAVE area in the standard format, then FP_XSTATE_MAGIC2
//!   siginfo_t                       128 bytes
//!   ucontext_t                      flags, link, stack_t, sigcontext, mask
//!   return address                  the restorer, which calls rt_sigreturn; here is the handler's stack pointer
//! ```
//!
//! In bytes that the processor leaves to software, the legacy part of the XSAVE area says how large the rest is and which components it
//! holds; both magic numbers together say that it is whole.
//!
//! On the way back nothing is believed: flags are masked, and the extended state is checked so that XRSTOR takes it. The segment
//! registers in the frame are ignored. Where the instruction pointer leads is checked at every entry to user mode.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::context::{MAX_EXTENDED_STATE, Registers, UserContext};

/// Which components of extended state programs have, and how many bytes an XSAVE area for them takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedLayout {
    /// XCR0.
    pub features: u64,
    /// Bytes in the standard format; 512 when there is no XSAVE.
    pub size: usize,
}

/// The alternate stack as the frame tells it: `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StackRecord {
    /// Lowest address.
    pub base: u64,
    /// `SS_*`, and padding.
    pub flags: u64,
    /// Bytes.
    pub size: u64,
}

/// `struct sigcontext`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SignalContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    extended: u64,
    reserved: [u64; 8],
}

/// The frame without the extended state.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Frame {
    return_address: u64,
    flags: u64,
    link: u64,
    stack: StackRecord,
    context: SignalContext,
    mask: u64,
    info: [u8; 128],
}

const _: () = assert!(size_of::<SignalContext>() == 256 && size_of::<Frame>() == 440);

/// `struct _fpx_sw_bytes`, at offset 464 of the legacy area.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SoftwareBytes {
    magic: u32,
    /// With the second magic number.
    extended_size: u32,
    features: u64,
    size: u32,
    padding: [u32; 7],
}

const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const SOFTWARE_BYTES: usize = 464;
const LEGACY_SIZE: usize = 512;
const HEADER_SIZE: usize = 64;
/// Offset of MXCSR in the legacy area.
const MXCSR: usize = 24;
/// Bits of MXCSR that exist (SDM volume 1, section 10.2.3).
const MXCSR_MASK: u32 = 0xffff;
const RED_ZONE: u64 = 128;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`
const UC_FLAGS: u64 = 7;
/// The user code and data selectors, as Linux numbers them.
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;

/// Carry, parity, adjust, zero, sign, trap, direction, overflow, resume, alignment check: what a frame may set in RFLAGS.
const RESTORED_FLAGS: u64 = 0x0005_0dd5;
/// Trap, direction, resume: off when a handler begins.
const CLEARED_FLAGS: u64 = 0x0001_0500;

/// The last exception of the thread, for `sigcontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastTrap {
    /// Vector.
    pub vector: u64,
    /// Error code.
    pub error: u64,
    /// The address of a page fault.
    pub address: u64,
}

/// What a frame is made of, besides the registers.
pub struct Delivery<'a> {
    /// The signal's number.
    pub signal: i32,
    /// `siginfo_t`
    pub info: &'a [u8; 128],
    /// The handler.
    pub handler: u64,
    /// Where it returns to.
    pub restorer: u64,
    /// The mask to go back to.
    pub mask: u64,
    /// The alternate stack at this moment.
    pub stack: StackRecord,
    /// Top of the stack to switch to, if the handler is to run on another one.
    pub switch_to: Option<u64>,
    /// The lowest address that the frame may take.
    pub floor: u64,
    /// For `sigcontext`.
    pub last_trap: LastTrap,
}

/// The frame cannot be written, or what is to be restored is no frame: the process gets `SIGSEGV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

/// Where the parts of a frame go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    extended: u64,
    frame: u64,
}

fn place(top: u64, layout: ExtendedLayout) -> Placement {
    let extended = top.wrapping_sub(layout.size as u64 + size_of_val(&MAGIC2) as u64) & !63;
    // As after a call: the return address makes the stack pointer 8 more than a multiple of 16.
    let frame = (extended.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    Placement { extended, frame }
}

/// The least stack that a handler needs: `AT_MINSIGSTKSZ`.
pub fn minimum_stack(layout: ExtendedLayout) -> usize {
    size_of::<Frame>() + layout.size + size_of_val(&MAGIC2) + 64 + 16 + 8
}

/// Writes a frame through `write` and makes the registers those with which the handler begins.
///
/// # Errors
/// When `write` fails or the frame would reach below the floor; then the registers are as they were.
pub fn push<E>(
    context: &mut UserContext,
    delivery: &Delivery<'_>,
    layout: ExtendedLayout,
    mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), BadFrame> {
    let top = delivery.switch_to.unwrap_or(context.registers.rsp.wrapping_sub(RED_ZONE));
    let Placement { extended, frame } = place(top, layout);
    if frame < delivery.floor || frame > top {
        return Err(BadFrame);
    }
    let mut write = |at, bytes: &[u8]| write(at, bytes).map_err(|_| BadFrame);

    let software = SoftwareBytes {
        magic: MAGIC1,
        extended_size: (layout.size + size_of_val(&MAGIC2)) as u32,
        features: layout.features,
        size: layout.size as u32,
        padding: [0; 7],
    };
    let state = context.extended.bytes();
    write(extended, &state[..SOFTWARE_BYTES])?;
    write(extended + SOFTWARE_BYTES as u64, software.as_bytes())?;
    write(extended + LEGACY_SIZE as u64, &state[LEGACY_SIZE..layout.size])?;
    write(extended + layout.size as u64, MAGIC2.as_bytes())?;

    let record = Frame {
        return_address: delivery.restorer,
        flags: UC_FLAGS,
        link: 0,
        stack: delivery.stack,
        context: signal_context(&context.registers, delivery, extended),
        mask: delivery.mask,
        info: *delivery.info,
    };
    write(frame, record.as_bytes())?;
    begin_handler(context, delivery, frame);
    Ok(())
}

fn begin_handler(context: &mut UserContext, delivery: &Delivery<'_>, frame: u64) {
    let registers = &mut context.registers;
    registers.rip = delivery.handler;
    registers.rsp = frame;
    registers.rax = 0;
    registers.rdi = delivery.signal as u64;
    registers.rsi = frame + core::mem::offset_of!(Frame, info) as u64;
    registers.rdx = frame + core::mem::offset_of!(Frame, flags) as u64;
    registers.rflags &= !CLEARED_FLAGS;
    context.extended.reset();
}

fn signal_context(r: &Registers, delivery: &Delivery<'_>, extended: u64) -> SignalContext {
    SignalContext {
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rdi: r.rdi,
        rsi: r.rsi,
        rbp: r.rbp,
        rbx: r.rbx,
        rdx: r.rdx,
        rax: r.rax,
        rcx: r.rcx,
        rsp: r.rsp,
        rip: r.rip,
        rflags: r.rflags,
        cs: USER_CS,
        gs: 0,
        fs: 0,
        ss: USER_SS,
        error: delivery.last_trap.error,
        trap: delivery.last_trap.vector,
        old_mask: delivery.mask,
        cr2: delivery.last_trap.address,
        extended,
        reserved: [0; 8],
    }
}

/// What a frame says beyond the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The signal mask.
    pub mask: u64,
    /// The alternate stack.
    pub stack: StackRecord,
}

/// rt_sigreturn(2): takes the registers from the frame above the stack pointer, read through `read`.
///
/// # Errors
/// When `read` fails or the extended state is malformed; then nothing has changed.
pub fn pop<E>(
    context: &mut UserContext,
    layout: ExtendedLayout,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Restored, BadFrame> {
    let mut read = |at, bytes: &mut [u8]| read(at, bytes).map_err(|_| BadFrame);
    // The handler's return took the return address off.
    let at = context.registers.rsp.wrapping_sub(size_of::<u64>() as u64);
    let mut frame = Frame::new_zeroed();
    read(at, frame.as_mut_bytes())?;
    if frame.context.extended == 0 {
        context.extended.reset();
    } else {
        let mut state = [0; MAX_EXTENDED_STATE];
        let size = read_extended(&mut state, frame.context.extended, layout, read)?;
        context.extended.replace(&state[..size]);
    }
    restore_registers(&mut context.registers, &frame.context);
    Ok(Restored { mask: frame.mask, stack: frame.stack })
}

fn restore_registers(registers: &mut Registers, c: &SignalContext) {
    *registers = Registers {
        rax: c.rax,
        rbx: c.rbx,
        rcx: c.rcx,
        rdx: c.rdx,
        rsi: c.rsi,
        rdi: c.rdi,
        rbp: c.rbp,
        rsp: c.rsp,
        r8: c.r8,
        r9: c.r9,
        r10: c.r10,
        r11: c.r11,
        r12: c.r12,
        r13: c.r13,
        r14: c.r14,
        r15: c.r15,
        rip: c.rip,
        rflags: registers.rflags & !RESTORED_FLAGS | c.rflags & RESTORED_FLAGS,
        fs_base: registers.fs_base,
        gs_base: registers.gs_base,
    };
}

/// Reads and checks an extended state; returns its size: all of it, or the legacy part when the frame has no more.
fn read_extended(
    state: &mut [u8; MAX_EXTENDED_STATE],
    at: u64,
    layout: ExtendedLayout,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), BadFrame>,
) -> Result<usize, BadFrame> {
    read(at, &mut state[..LEGACY_SIZE])?;
    check_mxcsr(state)?;
    let software = SoftwareBytes::read_from_prefix(&state[SOFTWARE_BYTES..]);
    let Ok((software, _)) = software else { return Err(BadFrame) };
    let whole = software.magic == MAGIC1
        && software.size as usize == layout.size
        && software.extended_size as usize == layout.size + size_of_val(&MAGIC2);
    let mut magic2 = [0; 4];
    if !whole || read(at + layout.size as u64, &mut magic2).is_err() || magic2 != MAGIC2.to_le_bytes() {
        // A program may have copied only what FXSAVE knows; x87 and SSE are then in use.
        return Ok(legacy_only(state, layout));
    }
    read(at + LEGACY_SIZE as u64, &mut state[LEGACY_SIZE..layout.size])?;
    if layout.size > LEGACY_SIZE {
        check_header(&state[LEGACY_SIZE..LEGACY_SIZE + HEADER_SIZE], layout)?;
    }
    Ok(layout.size)
}

fn legacy_only(state: &mut [u8], layout: ExtendedLayout) -> usize {
    const X87_AND_SSE: u8 = 3;
    if layout.size <= LEGACY_SIZE {
        return LEGACY_SIZE;
    }
    state[LEGACY_SIZE..LEGACY_SIZE + HEADER_SIZE].fill(0);
    state[LEGACY_SIZE] = X87_AND_SSE;
    LEGACY_SIZE + HEADER_SIZE
}

/// A reserved bit in MXCSR would make XRSTOR fault.
fn check_mxcsr(state: &[u8]) -> Result<(), BadFrame> {
    let mxcsr = u32::from_le_bytes([state[MXCSR], state[MXCSR + 1], state[MXCSR + 2], state[MXCSR + 3]]);
    if mxcsr & !MXCSR_MASK == 0 { Ok(()) } else { Err(BadFrame) }
}

/// XRSTOR faults unless XSTATE_BV names only enabled components, and XCOMP_BV and the rest are zero (SDM volume 1, section 13.8).
fn check_header(header: &[u8], layout: ExtendedLayout) -> Result<(), BadFrame> {
    let (present, rest) = header.split_at(size_of::<u64>());
    let present = present.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    let known = present & !layout.features == 0;
    if known && rest.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(BadFrame) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUT: ExtendedLayout = ExtendedLayout { features: 7, size: 832 };
    const BASE: u64 = 0x7fff_0000_0000;

    /// A piece of user memory at `BASE`.
    struct Stack(Vec<u8>);

    impl Stack {
        fn new() -> Self {
            Self(vec![0xaa; 16384])
        }

        fn top(&self) -> u64 {
            BASE + self.0.len() as u64
        }

        fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ()> {
            let start = at.checked_sub(BASE).ok_or(())? as usize;
            self.0.get_mut(start..start + bytes.len()).ok_or(())?.copy_from_slice(bytes);
            Ok(())
        }

        fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), ()> {
            let start = at.checked_sub(BASE).ok_or(())? as usize;
            let end = start.checked_add(bytes.len()).ok_or(())?;
            bytes.copy_from_slice(self.0.get(start..end).ok_or(())?);
            Ok(())
        }
    }

    fn delivery(info: &[u8; 128]) -> Delivery<'_> {
        Delivery {
            signal: 10,
            info,
            handler: 0x40_1000,
            restorer: 0x40_2000,
            mask: 0x55,
            stack: StackRecord { base: 1, flags: 2, size: 3 },
            switch_to: None,
            floor: 0,
            last_trap: LastTrap { vector: 14, error: 6, address: 0x1234 },
        }
    }

    fn interrupted(stack: &Stack) -> UserContext {
        let mut context = UserContext::new(0x40_0123, stack.top() - 1000);
        let r = &mut context.registers;
        (r.rax, r.rbx, r.rcx, r.r11, r.r15) = (1, 2, 3, 11, 15);
        (r.rflags, r.fs_base) = (0x246, 0x7000);
        let mut state = context.extended.bytes().to_vec();
        state[160..176].fill(0x5a); // XMM0
        state[512] = 7;
        state[576..592].fill(0xa5); // upper half of YMM0
        context.extended.replace(&state[..LAYOUT.size]);
        context
    }

    #[test]
    fn a_handler_finds_what_linux_promises() {
        let mut stack = Stack::new();
        let mut context = interrupted(&stack);
        let before = context.registers;
        push(&mut context, &delivery(&[7; 128]), LAYOUT, |at, b| stack.write(at, b)).unwrap();
        let r = context.registers;
        assert_eq!((r.rip, r.rdi, r.rax), (0x40_1000, 10, 0));
        assert_eq!(r.rsp % 16, 8);
        assert!(r.rsp + 440 <= before.rsp - RED_ZONE);
        let word = |at: u64| {
            let mut bytes = [0; 8];
            stack.read(at, &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        assert_eq!(word(r.rsp), 0x40_2000);
        // Offsets of glibc's ucontext_t: gregs at 40, REG_RIP is 16, REG_RSP 15, REG_CR2 22; fpregs at 224; mask at 296.
        assert_eq!(r.rdx, r.rsp + 8);
        assert_eq!(word(r.rdx + 40 + 8 * 16), before.rip);
        assert_eq!(word(r.rdx + 40 + 8 * 15), before.rsp);
        assert_eq!(word(r.rdx + 40 + 8 * 22), 0x1234);
        assert_eq!(word(r.rdx + 296), 0x55);
        assert_eq!(word(r.rsi), 0x0707_0707_0707_0707);
        let extended = word(r.rdx + 224);
        assert_eq!(extended % 64, 0);
        assert_eq!(word(extended + 464) as u32, MAGIC1);
        assert_eq!(word(extended + 464 + 8), LAYOUT.features);
        assert_eq!(word(extended + LAYOUT.size as u64) as u32, MAGIC2);
        // The handler starts with fresh extended state.
        assert_eq!(context.extended.bytes()[160], 0);
        assert_eq!(context.extended.bytes()[0..2], 0x37f_u16.to_le_bytes());
    }

    #[test]
    fn the_way_back_restores_everything() {
        let mut stack = Stack::new();
        let mut context = interrupted(&stack);
        let (registers, state) = (context.registers, context.extended.bytes().to_vec());
        push(&mut context, &delivery(&[0; 128]), LAYOUT, |at, b| stack.write(at, b)).unwrap();
        context.registers.rsp += 8;
        context.registers.rbx = 99;
        let restored = pop(&mut context, LAYOUT, |at, b| stack.read(at, b)).unwrap();
        assert_eq!(restored, Restored { mask: 0x55, stack: StackRecord { base: 1, flags: 2, size: 3 } });
        assert_eq!(context.registers, registers);
        let now = context.extended.bytes();
        assert_eq!((&now[..464], &now[512..832]), (&state[..464], &state[512..832]));
    }

    #[test]
    fn an_alternate_stack_is_used_from_its_top() {
        let mut stack = Stack::new();
        let mut context = interrupted(&stack);
        context.registers.rsp = 0x1000;
        let top = stack.top();
        let delivery = Delivery { switch_to: Some(top), ..delivery(&[0; 128]) };
        push(&mut context, &delivery, LAYOUT, |at, b| stack.write(at, b)).unwrap();
        assert!(context.registers.rsp < top && top - context.registers.rsp <= minimum_stack(LAYOUT) as u64);
    }

    #[test]
    fn a_frame_that_cannot_be_written_leaves_the_registers_alone() {
        let mut context = interrupted(&Stack::new());
        context.registers.rsp = 0x10;
        let before = context.registers;
        let refused = push(&mut context, &delivery(&[0; 128]), LAYOUT, |_, _| Err(()));
        assert_eq!(refused, Err(BadFrame));
        assert_eq!(context.registers, before);
    }

    #[test]
    fn a_frame_stays_above_its_floor() {
        let mut context = interrupted(&Stack::new());
        let before = context.registers;
        let delivery = Delivery { floor: before.rsp - 500, ..delivery(&[0; 128]) };
        assert_eq!(push(&mut context, &delivery, LAYOUT, |_, _| Ok::<_, ()>(())), Err(BadFrame));
        assert_eq!(context.registers, before);
    }

    fn framed() -> (Stack, UserContext, u64) {
        let mut stack = Stack::new();
        let mut context = interrupted(&stack);
        push(&mut context, &delivery(&[0; 128]), LAYOUT, |at, b| stack.write(at, b)).unwrap();
        let extended = place(stack.top() - 1000 - RED_ZONE, LAYOUT).extended;
        context.registers.rsp += 8;
        (stack, context, extended)
    }

    #[test]
    fn hostile_flags_and_states_do_not_get_through() {
        let (mut stack, mut context, _) = framed();
        let rflags = context.registers.rsp - 8 + 8 + 40 + 8 * 17;
        stack.write(rflags, &u64::MAX.to_le_bytes()).unwrap();
        pop(&mut context, LAYOUT, |at, b| stack.read(at, b)).unwrap();
        assert_eq!(context.registers.rflags, 0x202 | RESTORED_FLAGS);

        for (offset, value) in [(512, 0xff), (520, 1), (575, 1), (MXCSR + 2, 1)] {
            let (mut stack, mut context, extended) = framed();
            stack.write(extended + offset as u64, &[value]).unwrap();
            assert_eq!(
                pop(&mut context, LAYOUT, |at, b| stack.read(at, b)),
                Err(BadFrame),
                "offset {offset}"
            );
        }
    }

    #[test]
    fn a_frame_with_the_legacy_state_alone_is_taken() {
        let (mut stack, mut context, extended) = framed();
        stack.write(extended + SOFTWARE_BYTES as u64, &[0]).unwrap();
        pop(&mut context, LAYOUT, |at, b| stack.read(at, b)).unwrap();
        let state = context.extended.bytes();
        assert_eq!((state[160], state[512], state[576]), (0x5a, 3, 0));
    }

    proptest! {
        /// Whatever lies on the stack: an error, or a state that XRSTOR takes and flags that are harmless.
        #[test]
        fn no_frame_is_dangerous(changes in prop::collection::vec((0usize..16384, any::<u8>()), 0..200), rsp in 0u64..20000) {
            let (mut stack, mut context, _) = framed();
            for (at, value) in changes {
                stack.0[at] = value;
            }
            if rsp < 16384 {
                context.registers.rsp = BASE + rsp;
            }
            if pop(&mut context, LAYOUT, |at, b| stack.read(at, b)).is_ok() {
                let state = context.extended.bytes();
                prop_assert_eq!(state[512] & !7, 0);
                prop_assert!(state[513..576].iter().all(|&byte| byte == 0));
                prop_assert!(check_mxcsr(state).is_ok());
                prop_assert_eq!(context.registers.rflags & !(RESTORED_FLAGS | 0x202), 0);
            }
        }
    }
}
