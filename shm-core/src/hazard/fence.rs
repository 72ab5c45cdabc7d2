//! The two fences: the light one that every reader passes, and the heavy one of who scans.
use super::Fencing;
use crate::sync::{Ordering, compiler_fence, fence};
use std::ffi::c_int;
use std::io;

/// Models prepare themselves here.
pub(super) fn prepare() {}

/// After an announcement, before it is validated.
#[inline(always)]
pub(super) fn light(fencing: Fencing) {
    match fencing {
        // Pairs with the barrier in `heavy`, which the kernel executes in our place.
        Fencing::Kernel => compiler_fence(Ordering::SeqCst),
        // Pairs with the fence in `heavy`: the announcement before the look.
        Fencing::Own => fence(Ordering::SeqCst),
    }
}

/// After things were taken out, before the slots are looked at.
pub(super) fn heavy(fencing: Fencing) -> io::Result<()> {
    // Pairs with the fence in `light`, of all who fence by themselves: taken out before the slots.
    fence(Ordering::SeqCst);
    match fencing {
        Fencing::Own => Ok(()),
        // Pairs with the compiler's fence in `light`, of all who have registered.
        Fencing::Kernel => membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED),
    }
}

/// What a domain made by this process had best do.
pub(super) fn best() -> Fencing {
    let works = register() && membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED).is_ok();
    if works { Fencing::Kernel } else { Fencing::Own }
}

/// Has the kernel fence this process's threads when somebody asks for it; whether it will.
pub(super) fn register() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED).is_ok()
}

fn membarrier(command: c_int) -> io::Result<()> {
    // SAFETY: no memory of ours is passed.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
