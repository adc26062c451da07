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
    /// Whether it is the kernel's code.
    pub fn is_kernel(&self) -> bool {
        self.start >= KERNEL
    }
}

/// How an instruction leaves its block, whose bytes end at address `end`.
pub fn exit(bytes: &[u8], end: u64) -> Exit {
    // Legacy prefixes and REX: they change operands, not what a near call or return is.
    let is_prefix =
        |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3);
    let opcode = bytes.iter().position(|byte| !is_prefix(byte)).unwrap_or(bytes.len());
    match &bytes[opcode..] {
        [0xe8, a, b, c, d] => {
            Exit::Call { target: end.wrapping_add_signed(i64::from(i32::from_le_bytes([*a, *b, *c, *d]))) }
        }
        [0xff, modrm, ..] if modrm >> 3 & 7 == 2 => Exit::IndirectCall,
        [0xc3] | [0xc2, _, _] => Exit::Return,
        _ => Exit::Other,
    }
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
    fn jumps_and_interrupt_returns_are_neither() {
        for bytes in
            [&[0xe9, 0, 0, 0, 0][..], &[0xff, 0xe0], &[0x48, 0xcf], &[0x0f, 0x05], &[0x90], &[0x48], &[]]
        {
            assert_eq!(exit(bytes, 0), Exit::Other, "{bytes:x?}");
        }
    }
}
