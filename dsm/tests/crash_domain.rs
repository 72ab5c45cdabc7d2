//! Domains outlive whoever dies in opening, leaving, destroying them and in cleaning up, on every
//! backend.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::on_each_forked;
use crash_common::{ALL, BYTES, Case, DONE, NAMED, World, come_in, in_own_table, on_each};
use dsm::Domain;
use dsm::backend::Backend::{Memfd, Mmap, Posix, Sysv};
use dsm::backend::{self, Backend};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{Heap, Run};

#[global_allocator]
static HEAP: Heap = Heap;

fn first(backend: Backend) -> Case {
    Case {
        name: "first to open",
        backend,
        operations: &["dsm::domain::Domain::open", "dsm::backend::create"],
        world: World::new,
        prepare: |_, _| {},
        operate: |world, has, notes| {
            has.domain = Some(world.open().unwrap());
            notes.set(DONE, 1);
        },
        expect: |_, _| Ok(()),
    }
}

fn second(backend: Backend) -> Case {
    Case {
        name: "second to open",
        operations: &["dsm::domain::Domain::open"],
        world: World::accompanied,
        expect: |world, _| match world.survivor.as_ref().map(|domain| domain.segments().len()) {
            Some(2) => Ok(()),
            count => Err(format!("of two segments there are {count:?}")),
        },
        ..first(backend)
    }
}

fn leave(backend: Backend) -> Case {
    Case {
        name: "detach, leave as the last one out",
        operations: &["dsm::segment::Segment::drop", "dsm::domain::Domain::drop"],
        world: World::new,
        prepare: |world, has| {
            come_in(world, has);
            has.segment = has.domain.as_ref().map(|domain| domain.create_segment(BYTES).unwrap());
        },
        operate: |_, has, notes| {
            has.segment = None;
            has.domain = None;
            notes.set(DONE, 1);
        },
        expect: |world, notes| match notes.get(DONE) {
            1 => world.assert_nothing_left(),
            _ => Ok(()),
        },
        backend,
    }
}

fn destroy(backend: Backend) -> Case {
    Case {
        name: "destroy, with a pinned segment",
        operations: &["dsm::domain::Domain::destroy"],
        prepare: |world, has| {
            come_in(world, has);
            has.domain.as_ref().unwrap().create_segment(BYTES).unwrap().pin().unwrap();
        },
        operate: |_, has, notes| {
            has.domain.take().unwrap().destroy().unwrap();
            notes.set(DONE, 1);
        },
        ..leave(backend)
    }
}

fn reap(backend: Backend) -> Case {
    Case {
        name: "reap",
        operations: &["dsm::domain::Domain::reap"],
        world: World::accompanied,
        prepare: |world, has| {
            come_in(world, has);
            die_attached(world);
        },
        operate: |_, has, notes| {
            assert_eq!(has.domain.as_ref().unwrap().reap(), 1);
            notes.set(DONE, 1);
        },
        expect: |world, _| match world.survivor.as_ref().map(|domain| domain.segments().len()) {
            Some(2) => Ok(()),
            count => Err(format!("of two segments there are {count:?}")),
        },
        backend,
    }
}

/// A process comes in, creates a segment, and ends as if it were killed.
fn die_attached(world: &World) {
    assert!(in_a_fork(|| {
        let domain = Domain::open(world.config.clone()).unwrap();
        let segment = domain.create_segment(BYTES).unwrap();
        let is_there = !segment.is_empty();
        std::mem::forget((segment, domain));
        is_there
    }));
}

#[test]
fn the_first_to_open_may_die_anywhere() {
    on_each(&[Posix, Memfd], &ALL, first);
}

#[test]
fn the_second_to_open_may_die_anywhere() {
    on_each(&[Mmap], &NAMED, second);
    on_each_forked(&[Posix], &NAMED, second);
}

#[test]
fn the_last_one_out_may_die_anywhere() {
    on_each(&ALL, &ALL, leave);
}

#[test]
fn who_destroys_the_domain_may_die_anywhere() {
    on_each(&[Sysv, Mmap], &NAMED, destroy);
}

#[test]
fn who_reaps_may_die_anywhere() {
    on_each(&[Posix, Sysv], &NAMED, reap);
}

/// A creator that tells nobody what it makes, as ours must not.
fn forgetful(backend: Backend) -> Case {
    Case {
        name: "planted: an object that no table lists",
        operations: &[],
        operate: |world, _, notes| {
            let name = format!("shm-{}", world.unique.name());
            backend::create(&world.place, &name, BYTES).unwrap();
            notes.set(DONE, 1);
        },
        ..first(backend)
    }
}

#[test]
fn what_is_left_behind_is_found() {
    in_own_table(Posix, || {
        Run::new(&forgetful(Posix)).points(100).kill().finds("left behind");
    });
}
