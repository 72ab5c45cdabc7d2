//! The child's half: entered before `main`, and its side of the dialogue.
use super::FLAG;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What [`children!`](crate::children) takes: a function of the arguments.
pub type Main = fn(&[String]);

/// Every function that this binary can run as a child.
static KNOWN: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<&'static str>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often `name` is declared, and all names, for a message.
pub(super) fn declared(name: &str) -> (usize, String) {
    let known = known();
    (known.iter().filter(|n| **n == name).count(), known.join(", "))
}

/// Runs the function this process was started for, if `table` has it, and exits. Returns in any
/// other process.
///
/// For a program with a `main` of its own, which calls it there;
/// [`children!`](crate::children) does the same before `main`.
pub fn main_if_child(table: &'static [(&'static str, Main)]) {
    declare(table);
    enter_if_child(table);
}

/// Adds the functions of one [`children!`](crate::children).
pub fn declare(table: &'static [(&'static str, Main)]) {
    known().extend(table.iter().map(|(name, _)| name));
}

/// Runs the function this process was started for, if `table` has it, and exits.
pub fn enter_if_child(table: &'static [(&'static str, Main)]) {
    let mut args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let Some(first) = args.next() else { return };
    let Some(wanted) = first.strip_prefix(FLAG) else { return };
    if let Some((_, main)) = table.iter().find(|(name, _)| *name == wanted) {
        std::process::exit(run(*main, &args.collect::<Vec<_>>()));
    }
}

/// The exit code of a child whose function is `main`.
fn run(main: Main, args: &[String]) -> i32 {
    // SAFETY: SIG_IGN is a valid disposition; Rust's own start, which comes later, sets the same.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // The panic hook has printed the message by then.
    if catch_unwind(AssertUnwindSafe(|| main(args))).is_ok() { 0 } else { 101 }
}

/// In a child: waits for the next line of [`Child::say`](super::Child::say).
///
/// # Panics
/// Where the parent is gone.
pub fn parent_says() -> String {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    assert!(matches!(read, Ok(1..)), "the parent says nothing more: {read:?}");
    line.trim_end_matches('\n').to_owned()
}

/// In a child: sends one line to [`Child::hear`](super::Child::hear).
///
/// # Panics
/// Where the line is not one line, or the parent is gone.
pub fn tell_parent(line: &str) {
    assert!(!line.contains('\n'), "one line at a time: {line:?}");
    let mut out = std::io::stdout().lock();
    let sent = writeln!(out, "{line}").and_then(|()| out.flush());
    assert!(sent.is_ok(), "the parent does not listen: {sent:?}");
}
