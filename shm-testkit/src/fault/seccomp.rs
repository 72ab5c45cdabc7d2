//! Calls taken away for good, as a sandbox does.
use super::NotRun;
use libc::{c_ulong, sock_filter, sock_fprog};

/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// `AUDIT_ARCH_…` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// No program has it, so that nothing is forbidden on other machines.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: u32 = 0;

/// From now on each of `calls` (`libc::SYS_…`) answers `errno` to this process and the children it
/// will have: a small seccomp filter. It cannot be taken back, and needs no privilege.
///
/// ```
/// use shm_testkit::child::Child;
/// use shm_testkit::fault::forbid;
///
/// fn cannot_open(_: &[String]) {
///     match forbid(&[libc::SYS_openat], libc::EMFILE) {
///         Ok(()) => {
///             let error = std::fs::File::open("/").unwrap_err();
///             assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
///         }
///         Err(not_run) => eprintln!("{not_run}"),
///     }
/// }
/// shm_testkit::children! { cannot_open }
/// Child::spawn("cannot_open", &[]).wait(std::time::Duration::from_secs(60)).assert_success();
/// ```
///
/// # Errors
/// [`NotRun`] where the system refuses, or this machine's calls are not known here.
///
/// # Panics
/// Where there are more than 200 calls, or a number that is none.
pub fn forbid(calls: &[libc::c_long], errno: i32) -> Result<(), NotRun> {
    if ARCHITECTURE == 0 {
        let error = std::io::ErrorKind::Unsupported.into();
        return Err(NotRun::new("a filter of system calls on this machine", error));
    }
    let mut program = filter(calls, errno);
    let len = u16::try_from(program.len()).expect("at most 200 calls");
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    let (zero, one): (c_ulong, c_ulong) = (0, 1);
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) } != 0 {
        return Err(NotRun::last("giving up privileges"));
    }
    let mode = libc::SECCOMP_MODE_FILTER as c_ulong;
    // SAFETY: reads one program, which lives until the end of this function.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, zero, zero) } {
        0 => Ok(()),
        _ => Err(NotRun::last("a filter of system calls")),
    }
}

fn filter(calls: &[libc::c_long], errno: i32) -> Vec<sock_filter> {
    assert!(calls.len() <= 200, "a jump reaches 255 instructions");
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let jump_if = |value, to| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to, 0, value);
    let answer = |value| step(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let allow = answer(libc::SECCOMP_RET_ALLOW);
    // Another machine's numbers mean other calls.
    let mut program = vec![load(ARCHITECTURE_AT), jump_if(ARCHITECTURE, 1), allow, load(NUMBER_AT)];
    for (at, call) in calls.iter().enumerate() {
        let to_refusal = (calls.len() - at) as u8;
        program.push(jump_if(u32::try_from(*call).expect("a number of a call"), to_refusal));
    }
    program.extend([allow, answer(libc::SECCOMP_RET_ERRNO | errno as u32 & 0xffff)]);
    program
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}
