//! What of the killer is particular to x86-64.
use std::arch::asm;

/// Why nothing can be run on this machine.
pub(super) const REFUSAL: Option<&str> = None;
/// Where in a stopped child's `struct user` its instruction pointer is.
pub(super) const RIP: usize =
    std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, rip);
/// `int3`, with which a mark is made and a breakpoint too.
pub(super) const TRAP: u8 = 0xcc;

/// Stops the child here, for its tracer.
#[inline(always)]
pub(super) fn mark() {
    // SAFETY: traps to the tracer, who goes on after it; without one the process ends.
    unsafe { asm!("int3") };
}

/// What has to be known about an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Or the end of what is traced.
    Mark,
    Syscall,
    /// A string instruction with a repeat prefix: each round of it is a step.
    Repeated,
    Other,
}

impl Kind {
    /// Of the instruction that these bytes begin with.
    pub(super) fn of(bytes: [u8; 8]) -> Kind {
        if bytes[0] == TRAP {
            return Kind::Mark;
        }
        if bytes[..2] == [0x0f, 0x05] {
            return Kind::Syscall;
        }
        // Operand and address size, repeat, REX.
        let is_prefix = |b: &u8| matches!(b, 0x66 | 0x67 | 0xf2 | 0xf3 | 0x40..=0x4f);
        let is_string = |b: &u8| matches!(b, 0xa4..=0xa7 | 0xaa..=0xaf | 0x6c..=0x6f);
        let prefixes = bytes.iter().take_while(|b| is_prefix(b)).count();
        let repeats = bytes[..prefixes].iter().any(|b| matches!(b, 0xf2 | 0xf3));
        let is_repeated = repeats && bytes.get(prefixes).is_some_and(is_string);
        if is_repeated { Kind::Repeated } else { Kind::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> Kind {
        let mut padded = [0x90; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        Kind::of(padded)
    }

    #[test]
    fn repeated_string_instructions_are_told_from_others() {
        assert_eq!(kind(&[0xf3, 0xa4]), Kind::Repeated, "rep movsb");
        assert_eq!(kind(&[0xf3, 0x48, 0xab]), Kind::Repeated, "rep stosq");
        assert_eq!(kind(&[0x66, 0xf2, 0xaf]), Kind::Repeated, "repne scasw");
        assert_eq!(kind(&[0x48, 0xa5]), Kind::Other, "movsq, once");
        assert_eq!(kind(&[0xf3, 0x0f, 0x6f]), Kind::Other, "movdqu");
        assert_eq!(kind(&[0xf3, 0x90]), Kind::Other, "pause");
        assert_eq!(kind(&[0x0f, 0x05]), Kind::Syscall);
        assert_eq!(kind(&[0xcc]), Kind::Mark);
    }
}
