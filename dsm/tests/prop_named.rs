//! Any sequence of asking for names of all kinds, using what they lead to, removing and forgetting
//! agrees with a plain map, for two members of one domain.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{Area, AreaConfig};
use dsm::backend::Backend;
use dsm::hash::Size;
use dsm::registry::Kind;
use dsm::{AreaSpec, Domain, DomainConfig, HashSpec, NamedError, NamedSpec, Segment, SharedHash};
use proptest::prelude::*;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::{cases, is_deep};
use shm_testkit::unique::{TempDir, Unique};
use std::collections::BTreeMap;
use std::convert::Infallible;

const KINDS: [Kind; 3] = [Kind::Segment, Kind::Area, Kind::Hash];

#[derive(Clone, Debug)]
enum Op {
    /// Member, name, kind.
    Ask(usize, usize, usize),
    Remove(usize, usize),
    Forget(usize, usize),
    /// Member, name, key, value.
    Put(usize, usize, u8, u8),
    Look(usize, usize, u8),
    Reap(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (member, name) = (0..2usize, 0..3usize);
    prop_oneof![
        6 => (member.clone(), name.clone(), 0..3usize).prop_map(|(m, n, k)| Op::Ask(m, n, k)),
        1 => (member.clone(), name.clone()).prop_map(|(m, n)| Op::Remove(m, n)),
        2 => (member.clone(), name.clone()).prop_map(|(m, n)| Op::Forget(m, n)),
        8 => (member.clone(), name.clone(), 0..8u8, 1..9u8)
            .prop_map(|(m, n, k, v)| Op::Put(m, n, k, v)),
        8 => (member.clone(), name, 0..8u8).prop_map(|(m, n, k)| Op::Look(m, n, k)),
        1 => member.prop_map(Op::Reap),
    ]
}

/// What a member has under a name.
enum Has {
    Segment(Segment),
    Area(Area),
    Hash(SharedHash),
}

impl Has {
    /// Segments and areas have one value, in their first word or as what their root names.
    fn put(&self, domain: &Domain, key: u8, value: u8) {
        match self {
            Has::Segment(segment) => word(segment).store(value.into(), Ordering::Relaxed),
            Has::Area(area) => {
                let heap = area.heap(domain.member()).unwrap();
                if area.root().load(Ordering::Relaxed) != 0 {
                    heap.free_from(area.root()).unwrap();
                }
                // SAFETY: a byte of a block that is ours.
                let fill = |address: std::ptr::NonNull<u8>| unsafe { address.write(value) };
                heap.alloc_to(area.root(), 1, fill).unwrap();
            }
            Has::Hash(shared) => {
                shared.join().unwrap().upsert(&[key], &[value]).unwrap();
            }
        }
    }

    fn look(&self, key: u8) -> u8 {
        match self {
            Has::Segment(segment) => word(segment).load(Ordering::Relaxed) as u8,
            Has::Area(area) => {
                let block = dsm::area::AreaPtr::from_bits(area.root().load(Ordering::Relaxed));
                // SAFETY: a block whose first byte was written.
                area.resolve(block).map_or(0, |address| unsafe { address.read() })
            }
            Has::Hash(shared) => {
                let mut hash = shared.join().unwrap();
                hash.find(&[key]).unwrap().map_or(0, |found| found.to_vec()[0])
            }
        }
    }
}

fn word(segment: &Segment) -> &AtomicU64 {
    segment.mapping().region().share(0).unwrap()
}

/// What the map knows of what a name led to; the second: by key.
type Thing = (Kind, BTreeMap<u8, u8>);

struct World<'a> {
    domains: &'a [Domain; 2],
    has: [[Option<(Has, usize)>; 3]; 2],
    /// All that were ever made; a name leads to one of them.
    things: Vec<Thing>,
    names: [Option<usize>; 3],
}

/// Two members of one domain, which stays from one case to the next.
fn with_domains(test: impl FnOnce(&[Domain; 2])) {
    let (directory, mut unique) = (TempDir::new("named"), Unique::new("prop-named"));
    unique.watch_directory(directory.path());
    let config = DomainConfig {
        backend: Some(Backend::Posix),
        directory: Some(directory.path().to_owned()),
        participants_max: 3,
        ..DomainConfig::new(unique.name())
    };
    test(&[0, 1].map(|_| Domain::open(config.clone()).unwrap()));
}

fn ask(domain: &Domain, name: &str, kind: Kind) -> Result<(Has, bool), NamedError<Infallible>> {
    Ok(match kind {
        Kind::Segment => {
            let spec = NamedSpec { size: 4096, ..NamedSpec::default() };
            let named = domain.named_segment(name, &spec, |_| Ok(()))?;
            (Has::Segment(named.segment), named.found)
        }
        Kind::Area => {
            let spec = AreaSpec::new(AreaConfig::new(1 << 20).heaps(2));
            let named = domain.named_area(name, &spec, |_| Ok(()))?;
            (Has::Area(named.area), named.found)
        }
        _ => {
            let spec = HashSpec::new(Size::Fixed(1), Size::Fixed(1));
            let spec = HashSpec { max_bytes: 1 << 20, threads: 2, threads_of_process: 1, ..spec };
            let shared = domain.named_hash(name, &spec)?;
            let found = shared.was_found();
            (Has::Hash(shared), found)
        }
    })
}

impl World<'_> {
    fn new(domains: &[Domain; 2]) -> World<'_> {
        let (has, names) = (Default::default(), Default::default());
        World { domains, has, things: Vec::new(), names }
    }

    fn ask(&mut self, member: usize, name: usize, kind: Kind) {
        let asked = ask(&self.domains[member], &format!("name{name}"), kind);
        let there = self.names[name].map(|thing| (thing, self.things[thing].0));
        match (asked, there) {
            (Err(NamedError::Kind { found, asked, .. }), Some((_, is))) => {
                assert!(found == is && asked == kind && is != kind);
            }
            (Ok((has, found)), Some((thing, is))) => {
                assert!(is == kind && (found || kind == Kind::Hash));
                self.has[member][name] = Some((has, thing));
            }
            (Ok((has, found)), None) => {
                assert!(!found, "it was removed");
                self.things.push((kind, BTreeMap::new()));
                self.names[name] = Some(self.things.len() - 1);
                self.has[member][name] = Some((has, self.things.len() - 1));
            }
            (Err(error), _) => panic!("{error}"),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Ask(member, name, kind) => self.ask(member, name, KINDS[kind]),
            Op::Remove(member, name) => {
                let removed = self.domains[member].remove_named(&format!("name{name}")).unwrap();
                assert_eq!(removed, self.names[name].take().is_some());
            }
            Op::Forget(member, name) => self.has[member][name] = None,
            Op::Put(member, name, key, value) => {
                let Some((has, thing)) = &self.has[member][name] else { return };
                has.put(&self.domains[member], key, value);
                let key = if self.things[*thing].0 == Kind::Hash { key } else { 0 };
                self.things[*thing].1.insert(key, value);
            }
            Op::Look(member, name, key) => {
                let Some((has, thing)) = &self.has[member][name] else { return };
                let key = if self.things[*thing].0 == Kind::Hash { key } else { 0 };
                let expected = self.things[*thing].1.get(&key).copied().unwrap_or(0);
                assert_eq!(has.look(key), expected);
            }
            Op::Reap(member) => assert_eq!(self.domains[member].reap(), 0),
        }
    }

    fn check(&self) {
        let mut there: Vec<_> = self.names.iter().flatten().map(|at| self.things[*at].0).collect();
        let mut told: Vec<_> = self.domains[0].named().iter().map(|entry| entry.kind).collect();
        let number = |kind: &Kind| KINDS.iter().position(|other| other == kind);
        there.sort_by_key(number);
        told.sort_by_key(number);
        assert_eq!(there, told);
    }
}

fn remove_all(domain: &Domain) {
    for name in 0..3 {
        domain.remove_named(&format!("name{name}")).unwrap();
    }
}

#[test]
fn agrees_with_a_map() {
    // Where there are many cases they are short: a name costs some system calls.
    let ops = prop::collection::vec(op(), 0..if is_deep() { 20 } else { 60 });
    with_domains(|domains| {
        proptest!(ProptestConfig::with_cases(cases(64)), |(ops in ops)| {
            remove_all(&domains[0]); // of a case that failed
            let mut world = World::new(domains);
            for op in &ops {
                world.apply(op);
                world.check();
            }
            remove_all(&domains[0]);
            drop(world);
            prop_assert_eq!(domains[1].segments().len(), 0, "something is left");
        });
    });
}
