//! Each operation of a domain, with every error at every call.
use crate::on_each_backend;
use crate::scene::{Holds, Operation, SIZE, Scene, inherit};
use dsm::backend::{Backend, HugePages};
use dsm::{Domain, DomainConfig, SegmentOptions};
use shm_testkit::fault::Footprint;
use std::convert::Infallible;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

on_each_backend! {
    opening, opening_for_a_group, opening_what_is_there, coming_in_by_the_environment,
    taking_over_from_the_dead, creating, creating_in_a_new_piece, creating_with_huge_pages,
    attaching, attaching_to_read, growing, detaching, destroying_by_detaching, pinning, unpinning,
    reaping, leaving, leaving_as_the_last, destroying, handing_over, being_handed_over,
}

fn backend(args: &[String]) -> Backend {
    args[0].parse().unwrap()
}

fn done() -> Result<(), Infallible> {
    Ok(())
}

fn opening(args: &[String]) {
    let operation = Operation {
        name: "open a new one",
        holds: Holds::Same,
        prepare: |_: &Scene| (),
        perform: |scene: &Scene, (): &mut ()| Domain::open(scene.config.clone()),
    };
    operation.survives(backend(args));
}

fn opening_for_a_group(args: &[String]) {
    let operation = Operation {
        name: "open a new one for a group",
        holds: Holds::Same,
        prepare: |_: &Scene| (),
        perform: |scene: &Scene, (): &mut ()| Domain::open(scene.config.clone()),
    };
    operation.survives(backend(args));
}

fn opening_what_is_there(args: &[String]) {
    if backend(args) == Backend::Memfd {
        return;
    }
    let operation = Operation {
        name: "open an existing one",
        holds: Holds::Same,
        prepare: |scene: &Scene| scene.open(),
        perform: |scene: &Scene, _: &mut Domain| Domain::open_existing(scene.config.clone()),
    };
    operation.survives(backend(args));
}

/// The descriptors inherited and not taken are the process's own affair: closed here.
struct Inherited {
    _domain: Domain,
    numbers: Vec<i32>,
    without: Footprint,
}

impl Drop for Inherited {
    fn drop(&mut self) {
        for number in &self.numbers {
            // SAFETY: asks only whether it is open.
            if unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0 {
                // SAFETY: `from_env` failed before it took this one, so it is nobody's.
                drop(unsafe { OwnedFd::from_raw_fd(*number) });
            }
        }
        if !std::thread::panicking() {
            self.without.assert_same();
        }
    }
}

fn coming_in_by_the_environment(args: &[String]) {
    let operation = Operation {
        name: "from_env",
        holds: Holds::Less,
        prepare: |scene: &Scene| {
            let (domain, _) = scene.open_pinned();
            let without = Footprint::now();
            let numbers = inherit(&domain);
            Inherited { _domain: domain, numbers, without }
        },
        perform: |_: &Scene, _: &mut Inherited| Domain::from_env(),
    };
    operation.survives(backend(args));
}

fn taking_over_from_the_dead(args: &[String]) {
    if backend(args) == Backend::Memfd {
        return;
    }
    let operation = Operation {
        name: "open after a death",
        holds: Holds::Same,
        prepare: |scene: &Scene| scene.dead(None),
        perform: |scene: &Scene, (): &mut ()| Domain::open(scene.config.clone()),
    };
    operation.survives(backend(args));
}

fn creating(args: &[String]) {
    let operation = Operation {
        name: "create_segment",
        holds: Holds::Same,
        prepare: |scene: &Scene| scene.open(),
        perform: |_: &Scene, domain: &mut Domain| domain.create_segment(SIZE),
    };
    operation.survives(backend(args));
}

/// The first piece of the table is full.
fn creating_in_a_new_piece(args: &[String]) {
    let operation = Operation {
        name: "create_segment where the table grows",
        holds: Holds::Same,
        prepare: |scene: &Scene| {
            let config = DomainConfig { segments_max: Some(66), ..scene.config.clone() };
            let domain = Domain::open(config).unwrap();
            (0..64).for_each(|_| domain.create_segment(1).unwrap().pin().unwrap());
            domain
        },
        perform: |_: &Scene, domain: &mut Domain| domain.create_segment(SIZE),
    };
    operation.survives(backend(args));
}

/// What was only asked for may be refused at any call.
fn creating_with_huge_pages(args: &[String]) {
    let operation = Operation {
        name: "create with huge pages, prefaulted",
        holds: Holds::Same,
        prepare: |scene: &Scene| scene.open(),
        perform: |_: &Scene, domain: &mut Domain| {
            let huge_pages = HugePages::Pool;
            let options = SegmentOptions { huge_pages, prefault: true, ..Default::default() };
            domain.create_segment_with(SIZE, options)
        },
    };
    operation.survives(backend(args));
}

fn attaching(args: &[String]) {
    let operation = Operation {
        name: "attach",
        holds: Holds::Same,
        prepare: |scene: &Scene| {
            let (first, handle) = scene.open_pinned();
            let second = scene.second(&first);
            (first, second, handle)
        },
        perform: |_: &Scene, (_, second, handle): &mut (Domain, Domain, _)| second.attach(*handle),
    };
    operation.survives(backend(args));
}

fn attaching_to_read(args: &[String]) {
    let operation = Operation {
        name: "attach read-only",
        holds: Holds::Same,
        prepare: |scene: &Scene| {
            let (first, handle) = scene.open_pinned();
            let second = scene.second(&first);
            (first, second, handle)
        },
        perform: |_: &Scene, (_, second, handle): &mut (Domain, Domain, _)| {
            second.attach_read_only(*handle)
        },
    };
    operation.survives(backend(args));
}

/// Every other error of growing leaves it as long as it was.
fn growing(args: &[String]) {
    if backend(args) == Backend::Sysv {
        return;
    }
    let operation = Operation {
        name: "grow and shrink",
        holds: Holds::Same,
        prepare: |scene: &Scene| {
            let domain = scene.open();
            let options = SegmentOptions::growable(8 * SIZE);
            let segment = domain.create_segment_with(SIZE, options).unwrap();
            (segment, domain)
        },
        perform: |_: &Scene, (segment, _): &mut (dsm::Segment, Domain)| {
            let before = segment.len();
            let grown = segment.grow(4 * SIZE);
            let now = segment.current().unwrap().len() as u64;
            assert_eq!(now, *grown.as_ref().unwrap_or(&before));
            grown.and_then(|_| segment.shrink(SIZE))
        },
    };
    operation.survives(backend(args));
}

fn detaching(args: &[String]) {
    let operation = Operation {
        name: "detach",
        holds: Holds::Less,
        prepare: |scene: &Scene| {
            let (first, handle) = scene.open_pinned();
            let second = scene.second(&first);
            let segment = second.attach(handle).unwrap();
            (first, second, segment)
        },
        perform: |_: &Scene, (_, _, segment): &mut (Domain, Domain, Option<_>)| {
            drop(segment.take());
            done()
        },
    };
    operation.survives(backend(args));
}

fn destroying_by_detaching(args: &[String]) {
    let operation = Operation {
        name: "detach as the last",
        holds: Holds::Less,
        prepare: |scene: &Scene| {
            let domain = scene.open();
            let segment = domain.create_segment(SIZE).unwrap();
            (domain, Some(segment))
        },
        perform: |_: &Scene, (_, segment): &mut (Domain, Option<_>)| {
            drop(segment.take());
            done()
        },
    };
    operation.survives(backend(args));
}

fn pinning(args: &[String]) {
    let operation = Operation {
        name: "pin",
        holds: Holds::Same,
        prepare: |scene: &Scene| {
            let domain = scene.open();
            let segment = domain.create_segment(SIZE).unwrap();
            (segment, domain)
        },
        perform: |_: &Scene, (segment, _): &mut (dsm::Segment, Domain)| segment.pin(),
    };
    operation.survives(backend(args));
}

fn unpinning(args: &[String]) {
    let operation = Operation {
        name: "unpin",
        holds: Holds::Less,
        prepare: |scene: &Scene| scene.open_pinned(),
        perform: |_: &Scene, (domain, handle): &mut (Domain, _)| domain.unpin(*handle),
    };
    operation.survives(backend(args));
}

fn reaping(args: &[String]) {
    let operation = Operation {
        name: "reap",
        holds: Holds::Same,
        prepare: |scene: &Scene| {
            let domain = scene.open();
            scene.dead(Some(&domain));
            domain
        },
        perform: |_: &Scene, domain: &mut Domain| -> Result<usize, Infallible> {
            let reaped = domain.reap();
            assert!(reaped <= 1);
            Ok(reaped)
        },
    };
    operation.survives(backend(args));
}

fn leaving(args: &[String]) {
    let operation = Operation {
        name: "leave",
        holds: Holds::Less,
        prepare: |scene: &Scene| {
            let first = scene.open();
            let second = scene.second(&first);
            let segment = second.create_segment(SIZE).unwrap();
            segment.pin_mapping();
            drop(segment);
            (first, Some(second))
        },
        perform: |_: &Scene, (_, second): &mut (Domain, Option<Domain>)| {
            drop(second.take());
            done()
        },
    };
    operation.survives(backend(args));
}

fn leaving_as_the_last(args: &[String]) {
    let operation = Operation {
        name: "leave as the last",
        holds: Holds::Less,
        prepare: |scene: &Scene| {
            let domain = scene.open();
            domain.create_segment(SIZE).unwrap().pin_mapping();
            Some(domain)
        },
        perform: |_: &Scene, domain: &mut Option<Domain>| {
            drop(domain.take());
            done()
        },
    };
    operation.survives(backend(args));
}

fn destroying(args: &[String]) {
    let operation = Operation {
        name: "destroy",
        holds: Holds::Less,
        prepare: |scene: &Scene| Some(scene.open_pinned().0),
        perform: |_: &Scene, domain: &mut Option<Domain>| domain.take().unwrap().destroy(),
    };
    operation.survives(backend(args));
}

type Sockets = (UnixStream, UnixStream);

fn handing_over(args: &[String]) {
    let operation = Operation {
        name: "inheritance and send",
        holds: Holds::Same,
        prepare: |scene: &Scene| (scene.open_pinned(), UnixStream::pair().unwrap()),
        perform: |_: &Scene, ((domain, handle), (here, _)): &mut ((Domain, _), Sockets)| {
            let inheritance = domain.inheritance().map_err(|error| error.to_string())?;
            domain.send(here, *handle).map_err(|error| error.to_string())?;
            Ok::<_, String>(inheritance)
        },
    };
    operation.survives(backend(args));
}

fn being_handed_over(args: &[String]) {
    let operation = Operation {
        name: "receive and attach",
        holds: Holds::Less,
        prepare: |scene: &Scene| {
            let first = scene.open();
            let second = scene.second(&first);
            let segment = first.create_segment(SIZE).unwrap();
            let (here, there) = UnixStream::pair().unwrap();
            first.send(&here, segment.handle()).unwrap();
            (segment, first, second, (here, there))
        },
        perform: |_: &Scene, (_, _, second, (_, there)): &mut (_, Domain, Domain, Sockets)| {
            let handle = second.receive(there).map_err(|error| error.to_string())?;
            second.attach(handle).map_err(|error| error.to_string())
        },
    };
    operation.survives(backend(args));
}
