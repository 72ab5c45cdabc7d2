//! What of the killer is particular to x86-64.
use std::arch::asm;

/// Why nothing can be run on this machine.
pub(super) const REFUSAL: Option<&str> = None;
/// Where in a stopped child's `struct user` its instruction pointer is.
pub(super) const RIP: usize =
    std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, rip);
/// And its accumulator: before a system call, the number of that.
pub(super) const RAX: usize =
    std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, rax);
/// And its stack pointer.
pub(super) const RSP: usize =
    std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, rsp);
/// In a system call: its number.
pub(super) const ORIG_RAX: usize =
    std::mem::offset_of!(libc::user, regs) + std::mem::offset_of!(libc::user_regs_struct, orig_rax);
/// Of the instruction that makes a system call.
pub(super) const SYSCALL_BYTES: u64 = 2;
/// `int3`, with which a mark is made and a breakpoint too.
pub(super) const TRAP: u8 = 0xcc;

/// Stops the child here, for its tracer.
#[inline(always)]
pub(super) fn mark() {
    // SAFETY: traps to the tracer, who goes on after it; without one the process ends.
    unsafe { asm!("int3") };
}

// What a stopped child is made to execute: it forks, and waits for its child. That one calls the
// function in r12 with rbx, and never comes back. No exit signal, so that nobody is told.
std::arch::global_asm!(
    ".hidden shm_testkit_killpoint_fork",
    ".globl shm_testkit_killpoint_fork",
    "shm_testkit_killpoint_fork:",
    "mov eax, {clone}",
    "xor edi, edi",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "js 3f",
    "mov rdi, rax",
    "mov rsi, r13",
    "mov edx, {wall}",
    "xor r10d, r10d",
    "mov eax, {wait4}",
    "syscall",
    "3:",
    "int3",
    "2:",
    "cld",
    "mov rdi, rbx",
    "call r12",
    "ud2",
    clone = const libc::SYS_clone,
    wall = const libc::__WALL,
    wait4 = const libc::SYS_wait4,
);

unsafe extern "C" {
    fn shm_testkit_killpoint_fork();
}

/// The registers of a child stopped anywhere, changed so that it forks and stops again. Its child
/// calls `function` with `argument`; the status of that one's end goes to `status`.
pub(super) fn forking(
    stopped: &libc::user_regs_struct,
    function: u64,
    argument: u64,
    status: u64,
) -> libc::user_regs_struct {
    // Below the stack pointer there are 128 bytes that are in use.
    let stack = (stopped.rsp - 256) & !15;
    libc::user_regs_struct {
        rip: shm_testkit_killpoint_fork as *const () as u64,
        rsp: stack,
        rbx: argument,
        r12: function,
        r13: status,
        // It is in no system call that could be begun again.
        orig_rax: u64::MAX,
        ..*stopped
    }
}

/// What the child of [`forking`] has got of its system calls: a process, or an error.
pub(super) fn result(stopped: &libc::user_regs_struct) -> i64 {
    stopped.rax as i64
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
