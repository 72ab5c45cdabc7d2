//! What of the killer is particular to x86-64.
use std::arch::asm;
use std::ops::Range;

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
    /// It surely stores nothing but to registers and to the stack.
    Quiet,
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
        if is_repeated {
            return Kind::Repeated;
        }
        // A REX prefix, the last one, may make r12 of the stack pointer, or of no index.
        let is_plain = !bytes[..prefixes].last().is_some_and(|b| b & 0xf0 == 0x40 && b & 3 != 0);
        let code = Code { bytes: &bytes[prefixes..], repeats, is_plain };
        if code.is_quiet() { Kind::Quiet } else { Kind::Other }
    }
}

/// An instruction without its prefixes, and what is to be known of these.
struct Code<'a> {
    bytes: &'a [u8],
    repeats: bool,
    /// The stack pointer is meant where it is named.
    is_plain: bool,
}

impl Code<'_> {
    fn at(&self, nth: usize) -> Option<u8> {
        self.bytes.get(nth).copied()
    }

    /// Whether it is one of those that store nothing, and surely: the common ones that load,
    /// compute and jump. The opcode maps are those of the Intel manual, volume 2, appendix A.
    fn is_quiet(&self) -> bool {
        let (Some(opcode), next) = (self.at(0), self.at(1)) else { return false };
        let own = || self.is_own(1);
        let group = next.map(|modrm| modrm >> 3 & 7);
        match opcode {
            0x0f => next.is_some_and(|second| self.is_quiet_0f(second)),
            // Arithmetic: to memory, from memory, with a constant; `cmp` stores nothing.
            0x38..=0x3d => true,
            0x00..=0x3f if opcode & 7 < 2 => own(),
            0x00..=0x3f if opcode & 7 < 6 => true,
            0x50..=0x5f | 0x63 | 0x68..=0x6b | 0x70..=0x7f => true,
            0x80 | 0x81 | 0x83 => group == Some(7) || own(),
            0x84 | 0x85 | 0x8a | 0x8b | 0x8d => true,
            0x86..=0x89 => own(),
            0x90..=0x99 | 0xa8 | 0xa9 | 0xb0..=0xbf => true,
            0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 => own(),
            0xc2 | 0xc3 | 0xc9 | 0xe8 | 0xe9 | 0xeb => true,
            // Test, multiply, divide; the others store.
            0xf6 | 0xf7 => !matches!(group, Some(2 | 3) | None) || own(),
            0xfe => own(),
            // Call, jump, push; the others store.
            0xff => matches!(group, Some(2 | 4 | 6)) || own(),
            _ => false,
        }
    }

    /// The same behind 0x0f. Without a prefix for repeats 0x7e stores, with one it may load.
    fn is_quiet_0f(&self, opcode: u8) -> bool {
        match opcode {
            0x10 | 0x12 | 0x14..=0x16 | 0x28 | 0x2e | 0x2f | 0x51..=0x70 | 0x74..=0x76 => true,
            0x1e | 0x1f | 0x40..=0x4f | 0x80..=0x8f | 0xa2 | 0xa3 | 0xaf => true,
            0xb6 | 0xb7 | 0xb8 | 0xbc..=0xbf | 0xc8..=0xcf => true,
            0x7e if self.repeats => true,
            0x11 | 0x29 | 0x7e | 0x7f | 0x90..=0x9f | 0xd6 => self.is_own(2),
            0xd0..=0xef => opcode != 0xe7,
            _ => false,
        }
    }

    /// Whether what the byte at `modrm` names is a register, or a place at a constant distance from
    /// the stack pointer.
    fn is_own(&self, modrm: usize) -> bool {
        let Some(names) = self.at(modrm) else { return false };
        let by_stack = names & 7 == 4 && self.at(modrm + 1) == Some(0x24) && self.is_plain;
        names >> 6 == 3 || by_stack
    }
}

/// An instruction stores within so many bytes from the address that it names.
const STORED_MAX: u64 = 64 + INSTRUCTION_BYTES;
/// The longest instruction.
const INSTRUCTION_BYTES: u64 = 15;

/// Where an instruction stores, besides to the stack, as it names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    /// Numbers of registers; the second one is multiplied.
    base: Option<u8>,
    index: Option<(u8, u64)>,
    distance: i64,
    by_rip: bool,
    by_fs: bool,
}

impl Target {
    /// Of the instruction that these bytes begin with. `None`: it may store anywhere.
    pub(super) fn of(bytes: [u8; 16]) -> Option<Target> {
        // Operand size, lock, repeat, fs.
        let is_prefix = |b: &&u8| matches!(**b, 0x66 | 0xf0 | 0xf2 | 0xf3 | 0x64);
        let by_fs = bytes.iter().take_while(is_prefix).any(|b| *b == 0x64);
        let mut at = bytes.iter().take_while(is_prefix).count();
        let rex = if bytes[at] & 0xf0 == 0x40 { bytes[at] } else { 0 };
        at += usize::from(rex != 0);
        let modrm = match (bytes[at], bytes[at + 1]) {
            // A string instruction, perhaps repeated: one round.
            (0xa4 | 0xa5 | 0xaa | 0xab, _) => {
                let (base, index) = (Some(7), None);
                return Some(Target { base, index, distance: 0, by_rip: false, by_fs: false });
            }
            // Moves of vectors with a short VEX prefix.
            (0xc5, _) if rex == 0 && matches!(bytes[at + 2], 0x11 | 0x29 | 0x7f | 0xe7 | 0xd6) => 3,
            (0x0f, 0x11 | 0x29 | 0x7e | 0x7f | 0xd6 | 0xe7 | 0x90..=0x9f) => 2,
            // Bits named by a register may lie anywhere.
            (0x0f, 0xb0 | 0xb1 | 0xba | 0xc0 | 0xc1) => 2,
            (0x00..=0x3f, _) if bytes[at] & 7 < 2 => 1,
            (0x80 | 0x81 | 0x83 | 0x86..=0x89 | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3, _) => 1,
            (0xf6 | 0xf7 | 0xfe | 0xff, _) => 1,
            _ => return None,
        };
        let operand = &bytes[at + modrm..];
        let (mode, low) = (operand[0] >> 6, operand[0] & 7);
        let (mut base, mut index, mut behind) = (Some(low | (rex & 1) << 3), None, 1);
        if low == 4 {
            let sib = operand[1];
            behind = 2;
            base = Some(sib & 7 | (rex & 1) << 3);
            let number = sib >> 3 & 7 | (rex & 2) << 2;
            index = (number != 4).then_some((number, 1 << (sib >> 6)));
        }
        // Without a distance, 5 stands for none, or for the address of the next instruction.
        let has_none = mode == 0 && if low == 4 { operand[1] & 7 == 5 } else { low == 5 };
        let distance = match mode {
            3 => return None,
            1 => i64::from(*operand.get(behind)? as i8),
            0 if !has_none => 0,
            _ => i64::from(i32::from_le_bytes(operand.get(behind..behind + 4)?.try_into().ok()?)),
        };
        let by_rip = has_none && low == 5;
        base = base.filter(|_| !has_none);
        Some(Target { base, index, distance, by_rip, by_fs })
    }

    /// With these registers before it: the addresses, and some more.
    pub(super) fn range(self, r: &libc::user_regs_struct) -> Range<u64> {
        let registers = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ];
        let register = |number: u8| registers[usize::from(number)];
        let bases = [
            self.base.map_or(0, register),
            self.index.map_or(0, |(number, times)| register(number).wrapping_mul(times)),
            if self.by_rip { r.rip } else { 0 },
            if self.by_fs { r.fs_base } else { 0 },
        ];
        let start = bases.into_iter().fold(self.distance as u64, u64::wrapping_add);
        start..start.saturating_add(STORED_MAX)
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
        assert_eq!(kind(&[0xf3, 0x0f, 0x6f]), Kind::Quiet, "movdqu");
        assert_eq!(kind(&[0xf3, 0x90]), Kind::Quiet, "pause");
        assert_eq!(kind(&[0x0f, 0x05]), Kind::Syscall);
        assert_eq!(kind(&[0xcc]), Kind::Mark);
    }

    #[test]
    fn what_may_store_is_not_quiet() {
        for (what, bytes) in [
            ("mov [rdi], rax", &[0x48, 0x89, 0x07][..]),
            ("mov [rsp+rax*8], rcx", &[0x48, 0x89, 0x0c, 0xc4]),
            ("mov [r12], rdx", &[0x49, 0x89, 0x14, 0x24]),
            ("mov [rsp+r12], rdx", &[0x4a, 0x89, 0x14, 0x24]),
            ("mov dword [rdi], 0", &[0xc7, 0x07, 0, 0, 0, 0]),
            ("add [rdi], eax", &[0x01, 0x07]),
            ("add byte [rdi], 1", &[0x80, 0x07, 1]),
            ("inc dword [rdi]", &[0xff, 0x07]),
            ("not dword [rdi]", &[0xf7, 0x17]),
            ("pop qword [rdi]", &[0x8f, 0x07]),
            ("xchg [rdi], rax", &[0x48, 0x87, 0x07]),
            ("lock cmpxchg [rdi], rcx", &[0xf0, 0x48, 0x0f, 0xb1, 0x0f]),
            ("xadd [rdi], eax", &[0x0f, 0xc1, 0x07]),
            ("bts [rdi], eax", &[0x0f, 0xab, 0x07]),
            ("sete [rdi]", &[0x0f, 0x94, 0x07]),
            ("movups [rdi], xmm0", &[0x0f, 0x11, 0x07]),
            ("movq [rdi], xmm0", &[0x66, 0x0f, 0xd6, 0x07]),
            ("movd [rdi], xmm0", &[0x66, 0x0f, 0x7e, 0x07]),
            ("movntdq [rdi], xmm0", &[0x66, 0x0f, 0xe7, 0x07]),
            ("vmovups [rdi], ymm0", &[0xc5, 0xfc, 0x11, 0x07]),
            ("xsavec [rsp]", &[0x0f, 0xc7, 0x24, 0x24]),
        ] {
            assert_eq!(kind(bytes), Kind::Other, "{what}");
        }
    }

    #[test]
    fn an_instruction_stores_where_it_says() {
        // SAFETY: plain integers.
        let mut registers = unsafe { std::mem::zeroed::<libc::user_regs_struct>() };
        registers.rdi = 0x1000;
        registers.rax = 0x10;
        registers.r12 = 0x2000;
        registers.r13 = 0x3000;
        registers.rip = 0x4000;
        registers.fs_base = 0x5000;
        let starts = |bytes: &[u8]| {
            let mut padded = [0x90; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            Target::of(padded).map(|target| target.range(&registers).start)
        };
        for (what, bytes, start) in [
            ("mov [rdi], rax", &[0x48, 0x89, 0x07][..], Some(0x1000)),
            ("mov [rdi-8], al", &[0x88, 0x47, 0xf8], Some(0xff8)),
            ("mov [rdi+rax*8+0x100], rcx", &[0x48, 0x89, 0x8c, 0xc7, 0, 1, 0, 0], Some(0x1180)),
            ("mov [rax*4+8], ecx", &[0x89, 0x0c, 0x85, 8, 0, 0, 0], Some(0x48)),
            ("mov [r12], rdx", &[0x49, 0x89, 0x14, 0x24], Some(0x2000)),
            ("mov [rdi+r12], rdx", &[0x4a, 0x89, 0x14, 0x27], Some(0x3000)),
            ("mov [r13+0], rdx", &[0x49, 0x89, 0x55, 0], Some(0x3000)),
            ("mov dword [rip+0x20], 0", &[0xc7, 0x05, 0x20, 0, 0, 0, 0, 0, 0, 0], Some(0x4020)),
            ("mov fs:[0x10], eax", &[0x64, 0x89, 0x04, 0x25, 0x10, 0, 0, 0], Some(0x5010)),
            ("lock cmpxchg [rdi], rcx", &[0xf0, 0x48, 0x0f, 0xb1, 0x0f], Some(0x1000)),
            ("movups [rdi], xmm0", &[0x0f, 0x11, 0x07], Some(0x1000)),
            ("vmovups [rdi], ymm0", &[0xc5, 0xfc, 0x11, 0x07], Some(0x1000)),
            ("rep movsb", &[0xf3, 0xa4], Some(0x1000)),
            ("bts [rdi], rax", &[0x48, 0x0f, 0xab, 0x07], None),
            ("xsavec [rdi]", &[0x0f, 0xc7, 0x27], None),
            ("vmovups [r8], ymm0", &[0xc4, 0xc1, 0x7c, 0x11, 0x00], None),
        ] {
            assert_eq!(starts(bytes), start, "{what}");
        }
    }

    #[test]
    fn what_loads_and_computes_is_quiet() {
        for (what, bytes) in [
            ("mov rax, [rdi]", &[0x48, 0x8b, 0x07][..]),
            ("mov rax, rdi", &[0x48, 0x89, 0xf8]),
            ("mov [rsp+8], rax", &[0x48, 0x89, 0x44, 0x24, 8]),
            ("mov [rsp+8], r8", &[0x4c, 0x89, 0x44, 0x24, 8]),
            ("mov [rsp+8], eax", &[0x89, 0x44, 0x24, 8]),
            ("cmp [rdi], rax", &[0x48, 0x39, 0x07]),
            ("cmp byte [rdi], 1", &[0x80, 0x3f, 1]),
            ("test byte [rdi], 1", &[0xf6, 0x07, 1]),
            ("call", &[0xe8, 0, 0, 0, 0]),
            ("jne", &[0x75, 0]),
            ("movq xmm0, [rdi]", &[0xf3, 0x0f, 0x7e, 0x07]),
        ] {
            assert_eq!(kind(bytes), Kind::Quiet, "{what}");
        }
    }
}
