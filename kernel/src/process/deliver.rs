//! The way of a signal to its handler and back: frames, alternate stacks, interrupted system calls.

use super::run::Interrupted;
use super::signal::mask::{AUTO_DISARM, DISABLE};
use super::signal::{ActionFlags, AlternateStack, MaskChange, Received, Signal, SignalInfo, SignalSet};
use crate::arch::signal_frame::{self, BadFrame, Delivery, LastTrap, Restored, StackRecord};
use crate::arch::{self, UserContext};
use crate::errno::Errno;
use crate::memory::VirtAddr;
use crate::syscall::Caller;
use crate::uaccess;

/// Bytes of the SYSCALL instruction.
const SYSCALL_LENGTH: u64 = 2;

/// No handler ran: the call is made again.
pub(super) fn restart(context: &mut UserContext, interrupted: Interrupted) {
    context.registers.rax = interrupted.number;
    context.registers.rip = context.registers.rip.wrapping_sub(SYSCALL_LENGTH);
}

/// A handler is about to run: the call is made again after it, or ends with `EINTR`, as signal(7) says.
fn settle(caller: &mut Caller<'_>, interrupted: Interrupted, flags: ActionFlags) {
    let again = match interrupted.error {
        Errno::ERESTARTNOINTR => true,
        Errno::ERESTARTSYS => flags.contains(ActionFlags::RESTART),
        _ => false,
    };
    caller.thread.set_restart_deadline(None);
    if again {
        restart(caller.context, interrupted);
    } else {
        caller.context.registers.rax = Errno::EINTR.to_return_value();
    }
}

/// Makes the thread go on in the handler of `received`. A stack that does not take the frame costs the program its life,
/// unless it catches that on another stack.
pub(super) fn to_handler(
    caller: &mut Caller<'_>,
    received: &Received,
    interrupted: Option<Interrupted>,
    last_trap: &LastTrap,
) {
    if let Some(interrupted) = interrupted {
        settle(caller, interrupted, received.action.flags());
    }
    let thread = caller.thread;
    match push_frame(caller, received, last_trap) {
        Ok(()) => {
            let stack = thread.alternate_stack();
            if stack.flags & AUTO_DISARM != 0 {
                thread.set_alternate_stack(AlternateStack::default());
            }
            thread.enter_handler(received);
        }
        Err(BadFrame) => {
            // Had the handler of SIGSEGV itself been to run, trying again would not help.
            if received.info.signal() == Signal::SEGV {
                thread.change_mask(MaskChange::Block, SignalSet::of(&[Signal::SEGV]));
            }
            thread.force_signal(SignalInfo::kernel(Signal::SEGV));
        }
    }
}

fn push_frame(caller: &mut Caller<'_>, received: &Received, last_trap: &LastTrap) -> Result<(), BadFrame> {
    let action = &received.action;
    if !action.flags().contains(ActionFlags::RESTORER) {
        return Err(BadFrame);
    }
    let alternate = caller.thread.alternate_stack();
    let on_it = alternate.is_in_use(caller.context.registers.rsp);
    let switch = action.flags().contains(ActionFlags::ON_STACK) && alternate.size != 0 && !on_it;
    let delivery = Delivery {
        signal: received.info.signal().number(),
        info: &received.info.to_user(),
        handler: action.handler,
        restorer: action.restorer,
        mask: received.mask.bits(),
        stack: StackRecord {
            base: alternate.base,
            flags: alternate.report(caller.context.registers.rsp).flags.into(),
            size: alternate.size,
        },
        switch_to: switch.then_some(alternate.base.wrapping_add(alternate.size)),
        // A frame that outgrows the alternate stack would run into what lies below it.
        floor: if switch || on_it { alternate.base } else { 0 },
        last_trap: *last_trap,
    };
    let space = &caller.space;
    signal_frame::push(caller.context, &delivery, arch::extended_layout(), |at, bytes| {
        uaccess::write_bytes(space, VirtAddr::new(at), bytes)
    })
}

/// rt_sigreturn(2): the thread goes on where the signal met it. Returns what is in RAX there.
pub(crate) fn from_handler(caller: &mut Caller<'_>) -> usize {
    let space = &caller.space;
    let popped = signal_frame::pop(caller.context, arch::extended_layout(), |at, bytes| {
        uaccess::read_bytes(space, VirtAddr::new(at), bytes)
    });
    let thread = caller.thread;
    match popped {
        Ok(Restored { mask, stack }) => {
            thread.change_mask(MaskChange::Set, SignalSet::from_bits(mask));
            restore_stack(caller, stack);
        }
        Err(BadFrame) => thread.force_signal(SignalInfo::kernel(Signal::SEGV)),
    }
    caller.context.registers.rax as usize
}

/// Takes the alternate stack from the frame, where a handler may have changed it. A wrong one is let be, as Linux does.
fn restore_stack(caller: &Caller<'_>, record: StackRecord) {
    let (old, at) = (caller.thread.alternate_stack(), caller.context.registers.rsp);
    let flags = record.flags as u32;
    let flags = if record.size == 0 { DISABLE } else { flags };
    let new = AlternateStack { base: record.base, flags, padding: 0, size: record.size };
    if let Ok(stack) = old.replaced_by(new, at) {
        caller.thread.set_alternate_stack(stack);
    }
}
