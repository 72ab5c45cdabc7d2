//! A process without a free descriptor attaches: it learns later, from `join`, where it lives; and
//! it does not forget who it is. In a file of its own, for the limit is the whole process's.
#![cfg(not(any(shm_loom, shm_explore)))]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shm_core::mapping::Mapping;
use shm_core::participants::{JoinError, Table};
use shm_core::process::{Liveness, ProcessId};

#[test]
fn a_member_that_attached_without_proc_still_tells_the_living() {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    drop(unsafe { Table::create(&mapping, 0, 2) }.unwrap());

    let me = ProcessId::try_me().unwrap();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let attached = Table::attach(&mapping, 0);
    let refused = attached.as_ref().unwrap().join().unwrap_err();
    let still_me = ProcessId::me();
    // SAFETY: the child makes a few system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let nobody = ProcessId::try_me().is_err() && ProcessId::me().start_ticks() == 0;
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!nobody)) };
    }
    setrlimit(Resource::Nofile, before).unwrap();

    assert!(matches!(refused, JoinError::Proc(_)), "{refused}");
    assert_eq!(still_me, me);
    let mut status = -1;
    // SAFETY: our child, and a status of ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "a forked child is somebody else, and cannot tell who");

    let member = attached.unwrap().join().unwrap();
    assert_eq!(member.table().liveness(member.id()), Liveness::Alive);
}
