//! What a domain does where the system refuses: on each backend, each operation with each of its
//! system calls failing, with each error that the call can give. The answer is an error that says
//! what was refused, or the operation does without; no signal, panic or hang; nothing is leaked (no
//! descriptor, mapping, thread, file or System V segment); and without the fault all goes on.
//!
//! Beside that: storms of EINTR, calls forbidden as in a sandbox, limits, full file systems, and
//! segments that somebody cuts off.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "proc_faults/cut.rs"]
mod cut;
#[path = "proc_faults/limits.rs"]
mod limits;
#[path = "proc_faults/scene.rs"]
mod scene;
#[path = "proc_faults/sweeps.rs"]
mod sweeps;

use std::time::Duration;

/// For a child that runs one sweep.
const LIMIT: Duration = Duration::from_secs(500);

/// Makes a test of each function for each backend: it runs in a child process, which may fork.
macro_rules! on_each_backend {
    ($($function:ident),* $(,)?) => {
        shm_testkit::children! { $($function),* }
        mod on_each_backend { $(
            mod $function {
                fn on(backend: &str) {
                    let function = stringify!($function);
                    let mut child = shm_testkit::child::Child::spawn(function, &[backend]);
                    let exit = child.wait(crate::LIMIT);
                    exit.assert_success();
                    print!("{}", exit.stderr);
                }
                #[test]
                fn posix() {
                    on("posix");
                }
                #[test]
                fn sysv() {
                    on("sysv");
                }
                #[test]
                fn mmap() {
                    on("mmap");
                }
                #[test]
                fn memfd() {
                    on("memfd");
                }
            }
        )* }
    };
}
pub(crate) use on_each_backend;
