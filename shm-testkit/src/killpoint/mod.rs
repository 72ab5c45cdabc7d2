//! Kills a process at *every* instruction of an operation on shared memory; checks what is left.
//!
//! A process may be killed between any two instructions: after it took a slot and before it wrote
//! its name there, after the message and before the wake-up. A [`Scenario`] is one operation on
//! your structure and a check of what its survivors find; a [`Run`] takes it through all such
//! deaths.
//!
//! # How
//!
//! The operation is performed once by a forked child under `ptrace`, one instruction at a time, and
//! for each is noted where it is, a hash of the shared bytes, and whether a death there leaves
//! something else than one at the instruction before: whether a system call lies between them, or
//! anything in the writable shared mappings of the process or in the robust lists of its threads
//! differs. Then, for each instruction: a fresh world, a fresh child, which runs to that
//! instruction at full speed (breakpoints, and numbers of arrivals there); a look whether the
//! shared bytes are those of the trace; SIGKILL; and the check. These are real deaths of real
//! processes, with all that the kernel does at a death (robust futexes, file locks, mappings);
//! about one millisecond each.
//!
//! | mode | at each instruction |
//! | --- | --- |
//! | [`kill`](Run::kill) | the process is killed; survivors recover and go on |
//! | [`stop`](Run::stop) | it is stopped; a bystander must finish meanwhile, in a bounded number of instructions. Then it is killed, or goes on |
//! | [`nested`](Run::nested) | it is killed, and so is who recovers, both where that leaves something new |
//! | [`fork`](Run::fork) | it is made to fork; the child's handles must refuse to work, and change nothing |
//! | [`asleep`](Run::asleep) | it is killed while it sleeps in a system call |
//!
//! A scenario for a structure of one's own, of some fifty lines, is `examples/2_killpoint.rs`.
//!
//! # Which instructions
//!
//! Of an operation with many, those are tried at which a death leaves something new, its *worlds*.
//! That leaves no death out: what outlives a process is what it shares and what the kernel does at
//! its end, and of all this nothing differs between two neighbours of one world. (A page of a file
//! may have been touched, and so been given memory; it holds zeroes either way.) A process that is
//! stopped or forked has its private memory still, so there it is a sample.
//!
//! # What it shows, and what not
//!
//! Every machine instruction of *one* path through the operation, in program order. Other paths
//! (full, empty, contended) are other scenarios; reorderings by a weaker machine are for loom; two
//! processes inside at the same time are for an explorer. A system call is one instruction, and so
//! is a call into the vDSO (which reads clocks). Threads of the process itself that the operation
//! makes or wakes are waited for until they sleep.
//!
//! # Where
//!
//! On x86-64 Linux where `ptrace` of a child is allowed. Elsewhere a report says `not run: …`, in a
//! line of its own, and proves nothing: have your CI look for it.
//!
//! What an operation does must be the same each time. [`Heap`] sees to that for what it allocates,
//! and arrivals are counted from the last system call; but texts of changing lengths remain, clocks
//! and other threads: a point that is not reached is tried again, then counted as *missed*. One at
//! which the shared bytes differ from the trace has *drifted*; the death is checked all the same.
//! Of both a scenario has none unless the run allows some.

mod dog;
mod heap;
mod hunt;
#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), path = "machine_elsewhere.rs")]
mod machine;
mod modes;
mod page;
mod report;
mod run;
#[cfg(test)]
mod tests;
mod trace;
mod tracee;
mod view;

pub use heap::Heap;
pub use page::{Notes, SharedMemory};
pub use report::Report;
pub use run::Run;

/// How the process that performed the operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By SIGKILL, somewhere in the operation.
    Killed,
    /// It came to the end of the operation, dropped what it had, and exited.
    Finished,
}

/// Work that is prepared and then done, between two marks.
pub type Work<'a> = Box<dyn FnOnce() -> Result<(), String> + 'a>;

/// One operation on a shared structure, and what its survivors find.
///
/// What is shared must lie in memory that a forked child shares: a `MAP_SHARED` mapping.
pub trait Scenario {
    /// What the survivors have: the mapping, their membership, their handles.
    type World;
    /// What the process has that is killed: its membership, its handles.
    type Doomed;

    /// Names it in reports.
    fn name(&self) -> String;

    /// Paths of the public functions that it kills somebody in, such as `ring::Sender::send`.
    fn operations(&self) -> &'static [&'static str];

    /// A new world, made by the test process for each death.
    fn world(&self) -> Self::World;

    /// In the forked child: what comes before the operation, and is not traced. It may start
    /// threads; they run, but are not traced.
    fn prepare(&self, world: &Self::World, notes: &Notes) -> Self::Doomed;

    /// In the forked child: the operation. What it was told succeeded goes into the notes at once.
    fn operate(&self, world: &Self::World, doomed: &mut Self::Doomed, notes: &Notes);

    /// The shared bytes. What differs from process to process (pids, start times) is left out.
    fn image(&self, world: &Self::World) -> Vec<u8>;

    /// Survivors recover, go on using the structure, and compare it with what they expect: what was
    /// noted is there, what was not noted is there wholly or not at all, nothing leaks.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, world: Self::World, notes: &Notes, end: End) -> Result<(), String>;

    /// For [`Run::stop`], in a forked child of its own, while the process stands still somewhere in
    /// its operation: another participant. What is returned must come to its end.
    fn bystander<'a>(&'a self, _world: &'a Self::World) -> Option<Work<'a>> {
        None
    }

    /// For [`Run::nested`], in a forked child of its own, after the death: what a survivor does
    /// first. It is killed too, and then comes the check.
    fn recover<'a>(&'a self, _world: &'a Self::World) -> Option<Work<'a>> {
        None
    }

    /// For [`Run::fork`], in a child of the process, forked in the midst of the operation: handles
    /// refuse to work, and dropping them changes nothing. Private state that the operation was
    /// changing is better left alone: the thread that was at it does not exist here, nor does who
    /// holds the allocator's lock.
    ///
    /// # Errors
    /// What is wrong.
    fn forked(&self, _world: &Self::World, _doomed: &mut Self::Doomed) -> Result<(), String> {
        Err("cannot do anything: the scenario does not say what".to_owned())
    }
}
