//! A block of translated instructions, and how it is left.
//!
//! Calls and returns are told by their encoding (Intel SDM volume 2): near calls `E8` and `FF /2`, near returns `C3` and `C2`. Far ones,
//! which compilers do not make, and returns from interrupts count as plain jumps.

/// Addresses from here on are the kernel's.
const KERNEL: u64 = 1 << 63;

/// How control leaves a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A call of a known place.
    Call {
        /// The callee.
        target: u64,
    },
    /// A call through a register or memory.
    IndirectCall,
    /// A return.
    Return,
    /// Anything else: a jump, the next instruction, an interrupt's return.
    Other,
}

/// A block: where it lies, how long it is and how it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The address of its first instruction.
    pub start: u64,
    /// The address behind its last instruction: where a call returns to.
    pub end: u64,
    /// How many instructions it has.
    pub instructions: u64,
    /// How it is left.
    pub exit: Exit,
}

impl Block {
    /// Whether an address lies behind its first instruction.
    pub fn is_inside(&self, address: u64) -> bool {
        self.start < address && address < self.end
    }

    /// Whether it is the kernel's code.
    pub fn is_kernel(&self) -> bool {
        self.start >= KERNEL
    }
}

/// How an instruction leaves its block, whose bytes end at address `end`.
pub fn exit(bytes: &[u8], end: u64) -> Exit {
    match &bytes[prefixes(bytes)..] {
        [0xe8, a, b, c, d] => {
            Exit::Call { target: end.wrapping_add_signed(i64::from(i32::from_le_bytes([*a, *b, *c, *d]))) }
        }
        [0xff, modrm, ..] if modrm >> 3 & 7 == 2 => Exit::IndirectCall,
        [0xc3] | [0xc2, _, _] => Exit::Return,
        _ => Exit::Other,
    }
}

/// Whether an instruction orders the memory accesses around it: MFENCE, and what is locked, as XCHG with memory always is (Intel SDM
/// volume 3A, 9.2.5 "Strengthening or Weakening the Memory-Ordering Model").
pub fn orders_memory(bytes: &[u8]) -> bool {
    let (prefixes, rest) = bytes.split_at(prefixes(bytes));
    let locked = prefixes.contains(&0xf0);
    locked || matches!(rest, [0x0f, 0xae, 0xf0]) || matches!(rest, [0x86 | 0x87, modrm, ..] if *modrm < 0xc0)
}

/// How many bytes are legacy prefixes or REX: they change operands, not what an instruction is.
fn prefixes(bytes: &[u8]) -> usize {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    bytes.iter().position(|byte| !is_prefix(byte)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_returns_are_told_by_their_encoding() {
        assert_eq!(exit(&[0xe8, 0xfb, 0xff, 0xff, 0xff], 0x105), Exit::Call { target: 0x100 });
        assert_eq!(exit(&[0xff, 0xd0], 2), Exit::IndirectCall); // call rax
        assert_eq!(exit(&[0x41, 0xff, 0x54, 0x24, 0x18], 5), Exit::IndirectCall); // call [r12 + 0x18]
        assert_eq!(exit(&[0xc3], 1), Exit::Return);
        assert_eq!(exit(&[0xf3, 0xc3], 2), Exit::Return);
        assert_eq!(exit(&[0xc2, 8, 0], 3), Exit::Return);
    }

    #[test]
    fn barriers_and_locked_instructions_order_memory() {
        for bytes in [
            &[0x0f, 0xae, 0xf0][..],         // mfence
            &[0xf0, 0x48, 0x0f, 0xc1, 0x07], // lock xadd [rdi], rax
            &[0xf0, 0x83, 0x0c, 0x24, 0],    // lock or dword [rsp], 0
            &[0x48, 0x87, 0x07],             // xchg [rdi], rax
            &[0x66, 0xf0, 0x0f, 0xb1, 0x0e], // lock cmpxchg [rsi], cx
        ] {
            assert!(orders_memory(bytes), "{bytes:x?}");
        }
        for bytes in [
            &[0x0f, 0xae, 0xe8][..],
            &[0x0f, 0xae, 0x07],
            &[0x48, 0x87, 0xc3],
            &[0x48, 0x89, 0x07],
            &[0xf3, 0xa4],
            &[],
        ] {
            assert!(!orders_memory(bytes), "{bytes:x?}"); // lfence, fxsave, xchg of registers, mov, rep movsb
        }
    }

    #[test]
    fn jumps_and_interrupt_returns_are_neither() {
        for bytes in
            [&[0xe9, 0, 0, 0, 0][..], &[0xff, 0xe0], &[0x48, 0xcf], &[0x0f, 0x05], &[0x90], &[0x48], &[]]
        {
            assert_eq!(exit(bytes, 0), Exit::Other, "{bytes:x?}");
        }
    }
}
