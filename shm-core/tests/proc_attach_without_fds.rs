//! A process without a free descriptor attaches: it learns later, from `join`, where it lives. In a
//! file of its own, for the limit is the whole process's.
#![cfg(not(shm_loom))]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_core::process::Liveness;

#[test]
fn a_member_that_attached_without_proc_still_tells_the_living() {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    drop(unsafe { Table::create(&mapping, 0, 2) }.unwrap());

    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let attached = Table::attach(&mapping, 0);
    setrlimit(Resource::Nofile, before).unwrap();

    let member = attached.unwrap().join().unwrap();
    assert_eq!(member.table().liveness(member.id()), Liveness::Alive);
}
