//! Machines on which the killer cannot run: what it would need is here in name only.

pub(super) const REFUSAL: Option<&str> = Some("it needs an x86-64 machine");
pub(super) const RIP: usize = 0;
pub(super) const RAX: usize = 0;
pub(super) const RSP: usize = 0;
pub(super) const ORIG_RAX: usize = 0;
pub(super) const SYSCALL_BYTES: u64 = 0;
pub(super) const TRAP: u8 = 0;

pub(super) fn mark() {}

pub(super) fn forking(
    stopped: &libc::user_regs_struct,
    _: u64,
    _: u64,
    _: u64,
) -> libc::user_regs_struct {
    *stopped
}

pub(super) fn result(_: &libc::user_regs_struct) -> i64 {
    -1
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "nothing is decoded here")]
pub(super) enum Kind {
    Mark,
    Syscall,
    Repeated,
    Quiet,
    Other,
}

impl Kind {
    pub(super) fn of(_: [u8; 8]) -> Kind {
        Kind::Other
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target;

impl Target {
    pub(super) fn of(_: [u8; 16]) -> Option<Target> {
        None
    }

    pub(super) fn range(self, _: &libc::user_regs_struct) -> std::ops::Range<u64> {
        0..u64::MAX
    }
}
