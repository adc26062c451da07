//! Segments: the few descriptors that 64-bit mode still needs, and the task state with the stacks for traps.
//!
//! The order of the descriptors is fixed by SYSCALL and SYSRET (SDM volume 3, section 6.8.8): kernel data follows kernel
//! code; user data precedes 64-bit user code.

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::stacks::Stacks;
use crate::percore::PerCore;

/// Kernel code.
pub const KERNEL_CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
/// Kernel data.
pub const KERNEL_DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);
/// User data (entry 3 is where SYSRET would look for 32-bit user code).
pub const USER_DATA: SegmentSelector = SegmentSelector::new(4, PrivilegeLevel::Ring3);
/// 64-bit user code.
pub const USER_CODE: SegmentSelector = SegmentSelector::new(5, PrivilegeLevel::Ring3);

/// Entry of the interrupt stack table for double faults.
pub const FAULT_STACK: u16 = 0;
/// Entry of the interrupt stack table for non-maskable interrupts and machine checks.
pub const NMI_STACK: u16 = 1;

static TASK_STATES: PerCore<spin::Once<TaskStateSegment>> = crate::per_core!(spin::Once::new());
static TABLES: PerCore<spin::Once<GlobalDescriptorTable<8>>> = crate::per_core!(spin::Once::new());

/// Loads this core's descriptors; traps will use `stacks`.
pub fn init(stacks: &Stacks) {
    let address = |address: crate::memory::VirtAddr| VirtAddr::new(address.as_u64());
    let tss = TASK_STATES.here().call_once(|| {
        let mut tss = TaskStateSegment::new();
        tss.privilege_stack_table[0] = address(stacks.trap);
        tss.interrupt_stack_table[usize::from(FAULT_STACK)] = address(stacks.fault);
        tss.interrupt_stack_table[usize::from(NMI_STACK)] = address(stacks.nmi);
        tss
    });
    let gdt = TABLES.here().call_once(|| {
        let mut gdt = GlobalDescriptorTable::empty();
        gdt.append(Descriptor::kernel_code_segment());
        gdt.append(Descriptor::kernel_data_segment());
        gdt.append(Descriptor::UserSegment(0));
        gdt.append(Descriptor::user_data_segment());
        gdt.append(Descriptor::user_code_segment());
        gdt.append(Descriptor::tss_segment(tss));
        gdt
    });
    gdt.load();
    // SAFETY: the selectors name the descriptors just loaded, of the right kinds.
    unsafe {
        CS::set_reg(KERNEL_CODE);
        SS::set_reg(KERNEL_DATA);
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        load_tss(SegmentSelector::new(6, PrivilegeLevel::Ring0));
    }
}
