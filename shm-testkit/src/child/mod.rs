//! Runs a function of the same test binary in a child process, and talks with it.
//!
//! A test file names its child functions once, with [`children!`](crate::children). The macro puts
//! a constructor into the binary (an `.init_array` entry, run before `main`): in a process started
//! as a child it calls the function and exits, so that the test harness never starts there. Before
//! `main` glibc has set up all that the standard library needs: arguments, threads, output.
//!
//! Parent and child may talk in lines: the child's standard input and output belong to them, and
//! the child prints for people on standard error, which the parent keeps and shows when it fails.
//!
//! ```
//! use shm_testkit::child::{self, Child};
//! use std::time::Duration;
//!
//! fn doubles(args: &[String]) {
//!     assert_eq!(args[0], "loudly");
//!     let number: u32 = child::parent_says().parse().unwrap();
//!     child::tell_parent(&format!("{}!", 2 * number));
//! }
//! shm_testkit::children! { doubles }
//!
//! const LIMIT: Duration = Duration::from_secs(10);
//! let mut child = Child::spawn("doubles", &["loudly"]);
//! child.say("21");
//! assert_eq!(child.hear(LIMIT), "42!");
//! assert_eq!(child.wait(LIMIT).code(), Some(0));
//! ```

mod fork;
mod inside;
mod parent;

pub use fork::in_a_fork;
pub use inside::{Main, main_if_child, parent_says, tell_parent};
#[doc(hidden)]
pub use inside::{declare, enter_if_child};
pub use parent::{Child, Exit, Setup, command};

/// First argument of a child: this and the function's name. The test harness refuses it.
const FLAG: &str = "--shm-testkit-child=";

/// Names the functions of this test binary that run as child processes.
///
/// Each is a `fn(&[String])` and gets the arguments given to [`Child::spawn`](crate::child::Child).
/// When it returns, the process exits with 0; when it panics, with 101. Once per module is enough;
/// names are unique in the binary.
#[macro_export]
macro_rules! children {
    ($($function:ident),+ $(,)?) => {
        const _: () = {
            const TABLE: &[(&str, $crate::child::Main)] =
                &[$((stringify!($function), $function as $crate::child::Main)),+];
            extern "C" fn declare() {
                $crate::child::declare(TABLE);
            }
            extern "C" fn enter() {
                $crate::child::enter_if_child(TABLE);
            }
            // Entries with a number come first: a child sees the tables of all modules, whichever
            // of them the linker put first. (The standard library's own entry has number 99.)
            #[used]
            #[unsafe(link_section = ".init_array.01000")]
            static DECLARE: extern "C" fn() = declare;
            #[used]
            #[unsafe(link_section = ".init_array")]
            static ENTER: extern "C" fn() = enter;
        };
    };
}
