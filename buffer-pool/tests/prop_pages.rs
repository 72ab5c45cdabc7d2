//! Any sequence of reads, writes, loads, deaths in a write, mendings and clean-ups agrees with
//! plain bytes:
//!
//! 1. A write is there wholly, or, where it is refused, not at all; one whose writer ended in the
//!    midst of it is there, too.
//! 2. A page is dirty since its last write, until it is marked clean or another one is loaded.
//! 3. However many end, nobody is short of an intent.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pages_common;

use buffer_pool::latch::LatchError;
use buffer_pool::pages::{Pages, PagesError, Shape, User, UserError, WriteError};
use pages_common::{PAGE_BYTES, copy, shape, tear};
use proptest::prelude::*;
use shm_core::BadPtr;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::depth::cases;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

const FRAMES: u32 = 2;
const PEOPLE: usize = 2;
/// Who has ended does nothing more, and somebody from another seat comes in.
const SEATS: u32 = 12;
const SHAPE: Shape = shape(FRAMES, SEATS, 1);
const RANGES_MAX: usize = 64;

type Ranges = Vec<(usize, Vec<u8>)>;

#[derive(Debug, Clone)]
enum Op {
    Read(usize, usize),
    Share,
    Write(Ranges),
    /// Ends in the midst of it: of the page's words those of ones are written, over and over.
    DieWriting(Ranges, u64, CleanUp),
    WriteOut {
        tries: bool,
    },
    Clean,
    Load(u8),
    Mend,
}

/// Who learns of an end.
#[derive(Debug, Clone, Copy)]
enum CleanUp {
    ByOneWithoutASeat,
    ByUser,
}

fn ranges() -> impl Strategy<Value = Ranges> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let inside = prop::collection::vec((0..PAGE_BYTES - 40, bytes.clone()), 1..8);
    let whole = any::<u8>().prop_map(|byte| vec![(0, vec![byte; PAGE_BYTES])]);
    let many = prop::collection::vec((0..PAGE_BYTES - 40, bytes.clone()), 60..70);
    let any = prop::collection::vec((0..PAGE_BYTES + 2, bytes), 0..4);
    prop_oneof![6 => inside, 1 => whole, 1 => many, 1 => any]
}

fn op() -> impl Strategy<Value = Op> {
    let ends = prop_oneof![Just(CleanUp::ByOneWithoutASeat), Just(CleanUp::ByUser)];
    prop_oneof![
        3 => (0..PAGE_BYTES, 0..200_usize).prop_map(|(at, len)| Op::Read(at, len)),
        2 => Just(Op::Share),
        6 => ranges().prop_map(Op::Write),
        3 => (ranges(), any::<u64>(), ends).prop_map(|(it, ones, by)| Op::DieWriting(it, ones, by)),
        2 => any::<bool>().prop_map(|tries| Op::WriteOut { tries }),
        1 => Just(Op::Clean),
        1 => any::<u8>().prop_map(Op::Load),
        1 => Just(Op::Mend),
    ]
}

/// One in each seat. It takes a thread to be a member: they stay, from one case to the next.
static MEMBERS: LazyLock<Vec<Arc<Member>>> = LazyLock::new(|| {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    (0..SEATS).map(|_| table.join().unwrap()).collect()
});

fn pages() -> (Arc<Mapping>, Pages) {
    let mapping = Mapping::heap(Pages::bytes_for(SHAPE) as usize);
    // SAFETY: nobody else has the mapping.
    unsafe { Pages::create(&mapping, 0, SHAPE) }.unwrap();
    let pages = Pages::attach(&mapping, 0, SHAPE).unwrap();
    (mapping, pages)
}

fn now() -> Option<Instant> {
    Some(Instant::now())
}

/// One page by the book.
struct Plain {
    bytes: Vec<u8>,
    is_dirty: bool,
    is_torn: bool,
}

/// Why a write of these is refused by the book.
fn refused(ranges: &Ranges) -> Option<WriteError> {
    if ranges.len() > RANGES_MAX {
        return Some(WriteError::TooManyRanges(ranges.len()));
    }
    let outside = ranges.iter().find(|(at, bytes)| at + bytes.len() > PAGE_BYTES);
    outside.map(|(at, bytes)| WriteError::OutsideThePage { at: *at, len: bytes.len() })
}

impl Plain {
    fn new() -> Plain {
        Plain { bytes: vec![0; PAGE_BYTES], is_dirty: false, is_torn: false }
    }

    fn writes(&mut self, ranges: &Ranges) {
        self.is_dirty = true;
        for (at, bytes) in ranges {
            self.bytes[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// What was written, or refused.
    fn write(&mut self, user: &User, frame: u32, ranges: &Ranges) {
        let slices: Vec<_> = ranges.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
        let mut page = user.exclusive(frame, now()).unwrap();
        let refused = refused(ranges);
        assert_eq!(page.write(&slices).err(), refused);
        if refused.is_none() {
            self.writes(ranges);
        }
        assert_eq!((page.frame(), &copy(&page)[..]), (frame, &self.bytes[..]));
    }

    /// `user` does it, which looks at the page, and so mends it.
    fn does(&mut self, user: &User, frame: u32, op: &Op) {
        match op {
            Op::Read(at, len) => {
                let mut out = vec![0; (*len).min(PAGE_BYTES - at)];
                user.read(frame, *at, &mut out, now()).unwrap();
                assert_eq!(out, self.bytes[*at..*at + out.len()]);
            }
            Op::Share => {
                let page = user.share(frame, now()).unwrap();
                assert_eq!(copy(&page)[..], self.bytes);
                let words = page.words().iter().flat_map(|word| word.load().to_ne_bytes());
                assert!(words.eq(self.bytes.iter().copied()));
            }
            Op::Write(ranges) => self.write(user, frame, ranges),
            Op::WriteOut { tries } => {
                let mut page = match tries {
                    true => user.try_share_exclusive(frame).unwrap().unwrap(),
                    false => user.share_exclusive(frame, now()).unwrap(),
                };
                assert_eq!((page.is_dirty(), &copy(&page)[..]), (self.is_dirty, &self.bytes[..]));
                page.mark_clean().unwrap();
                assert!(user.try_share_exclusive(frame).unwrap().is_none());
                self.is_dirty = false;
            }
            Op::Clean => {
                user.exclusive(frame, now()).unwrap().mark_clean().unwrap();
                self.is_dirty = false;
            }
            Op::Load(byte) => {
                let mut page = user.load(frame).unwrap().unwrap();
                page.copy_in(0, &[*byte; PAGE_BYTES]);
                page.done().unwrap();
                *self = Plain { bytes: vec![*byte; PAGE_BYTES], is_dirty: false, is_torn: false };
            }
            Op::Mend => assert_eq!(user.mend(frame), Ok(self.is_torn)),
            Op::DieWriting(..) => unreachable!("who ends is another one's affair"),
        }
        self.is_torn = false;
        let mut out = [0; PAGE_BYTES];
        user.read(frame, 0, &mut out, now()).unwrap();
        assert_eq!((&out[..], user.pages().is_dirty(frame)), (&self.bytes[..], self.is_dirty));
    }
}

/// `user` ends as it writes; whether it had begun.
fn dies(mapping: &Mapping, user: &User, frame: u32, ranges: &Ranges, ones: u64) -> bool {
    let slices: Vec<_> = ranges.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    let mut page = user.exclusive(frame, now()).unwrap();
    let before = copy(&page);
    let begins = page.write(&slices).is_ok();
    if begins {
        tear(mapping, (0, SHAPE), frame, &before, |word| ones >> (word % 64) & 1 == 1);
    }
    std::mem::forget(page);
    begins
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_plain_bytes(
        ops in prop::collection::vec((0..PEOPLE, 0..FRAMES, op()), 0..60),
    ) {
        let (mapping, pages) = pages();
        let mut frames = [Plain::new(), Plain::new()];
        let user = |at: usize| Some(pages.user(&MEMBERS[at], 0).unwrap());
        // Who may end, and one who does not.
        let (mut people, mut seats, mut came) = ([user(0), user(1)], [0, 1], PEOPLE);
        let other = pages.user(&MEMBERS[SEATS as usize - 1], 0).unwrap();
        for (who, frame, op) in ops {
            let plain = &mut frames[frame as usize];
            match op {
                Op::DieWriting(..) if came == SEATS as usize - 1 => {}
                Op::DieWriting(ranges, ones, clean_up) => {
                    let ended = people[who].take().unwrap();
                    // What was torn before was mended first, also where the write was refused.
                    plain.is_torn = dies(&mapping, &ended, frame, &ranges, ones);
                    if plain.is_torn {
                        plain.writes(&ranges);
                    }
                    std::mem::forget(ended);
                    match clean_up {
                        CleanUp::ByOneWithoutASeat => pages.clean_up(MEMBERS[seats[who]].id()),
                        CleanUp::ByUser => {
                            other.clean_up(MEMBERS[seats[who]].id());
                            plain.is_torn = false;
                        }
                    }
                    (people[who], seats[who]) = (user(came), came);
                    came += 1;
                }
                op => plain.does(people[who].as_ref().unwrap(), frame, &op),
            }
        }
        for (frame, plain) in (0..).zip(&mut frames) {
            plain.does(&other, frame, &Op::Share);
        }
    }
}

#[test]
fn what_nobody_says_is_told_until_another_page_is_loaded() {
    let (_, pages) = pages();
    let [one, other] = [0, 1].map(|at| pages.user(&MEMBERS[at], 0).unwrap());
    std::mem::forget(one.load(0).unwrap());
    assert!(other.load(0).unwrap().is_none(), "it lives");
    pages.clean_up(MEMBERS[0].id());
    let torn = LatchError::Torn { by: MEMBERS[0].id() };
    assert_eq!(other.mend(0).unwrap_err(), torn);
    assert_eq!(other.exclusive(0, now()).unwrap_err(), torn);
    let mut page = other.load(0).unwrap().unwrap();
    page.copy_in(0, b"another");
    page.done().unwrap();
    let mut bytes = [0; 7];
    other.read(0, 0, &mut bytes, None).unwrap();
    assert_eq!(&bytes, b"another");
}

#[test]
fn a_thread_more_than_there_are_intents_is_told() {
    let (_, pages) = pages();
    let intents = SEATS as usize + 4;
    let mut users: Vec<_> = (0..intents).map(|_| pages.user(&MEMBERS[0], 0).unwrap()).collect();
    assert_eq!(pages.user(&MEMBERS[1], 0).unwrap_err(), UserError::NoIntent(intents));
    users.pop();
    drop(pages.user(&MEMBERS[1], 0).unwrap());
}

#[test]
fn what_is_not_there_is_refused() {
    for page_bytes in [0, 8, 512, 1536, 1 << 16] {
        let (mapping, shape) = (Mapping::heap(4096), Shape { page_bytes, ..SHAPE });
        let refused = Err(PagesError::PageBytes(page_bytes));
        assert_eq!(Pages::attach(&mapping, 0, shape).map(drop), refused);
        // SAFETY: nobody else has the mapping.
        assert_eq!(unsafe { Pages::create(&mapping, 0, shape) }, refused);
    }
    let (mapping, pages) = pages();
    let misaligned = PagesError::BadPtr(BadPtr::Misaligned { offset: 64, align: 4096 });
    assert_eq!(Pages::attach(&mapping, 64, SHAPE).unwrap_err(), misaligned);
    assert!(Pages::attach(&mapping, 4096, SHAPE).is_err());
    let (user, outside) = (pages.user(&MEMBERS[0], 0).unwrap(), LatchError::NoSuchFrame(FRAMES));
    assert_eq!(user.read(FRAMES, 0, &mut [0], None).unwrap_err(), outside);
    assert_eq!(user.exclusive(FRAMES, None).unwrap_err(), outside);
    assert_eq!(user.load(FRAMES).unwrap_err(), outside);
    assert_eq!(user.mend(FRAMES).unwrap_err(), outside);
    assert_eq!(pages.bytes_of(FRAMES).unwrap_err(), outside);
    assert!(!pages.is_dirty(FRAMES));
    let place = pages.bytes_of(1).unwrap();
    assert_eq!((place.len(), pages.page_bytes()), (PAGE_BYTES, PAGE_BYTES));
    let first = pages.bytes_of(0).unwrap().cast::<u8>();
    assert_eq!(place.cast::<u8>().addr().get() - first.addr().get(), PAGE_BYTES);
}
