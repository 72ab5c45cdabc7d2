//! A process is killed at each instruction of changing, mending, writing out, loading and cleaning
//! up: whoever comes next finds each change whole or not at all, what was told is there, what is
//! not dirty is in its file, and every intent can be used again.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod pages_common;

use buffer_pool::latch::LatchError;
use buffer_pool::pages::{Pages, Shape, ShareExclusive, User, UserError, WriteError};
use crash_common::{said, shared, words_from};
use pages_common::{PAGE_BYTES, copy, shape, tear, value, write};
use shm_core::bytes::{Word, relaxed};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHAPE: Shape = shape(2, 3, 1);
/// One a thread, and four.
const INTENTS: usize = SHAPE.seats as usize + 4;
const PAGES_AT: u64 = Table::bytes_for(SHAPE.seats).next_multiple_of(4096);
/// The file of the page that it is about.
const FILE_AT: u64 = PAGES_AT + Pages::bytes_for(SHAPE);
const END_AT: u64 = FILE_AT + PAGE_BYTES as u64;
/// The frame that it is about, and one that nobody else wants.
const FRAME: u32 = 0;
const OTHER: u32 = 1;
/// In the notes: the value that the page was last told to have.
const TOLD: usize = 0;
/// What one that died in the midst of a change was writing.
const TORN: u8 = 7;
const PATIENCE: Duration = Duration::from_secs(20);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    member: Arc<Member>,
    me: User,
}

/// A participant, and its use of the pages where it has begun to use them.
type Sitter = (Arc<Member>, Option<User>);

impl World {
    fn new() -> World {
        let (_, mapping) = shared(END_AT);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SHAPE.seats) }.unwrap();
        // SAFETY: as above, and the table ends before.
        unsafe { Pages::create(&mapping, PAGES_AT, SHAPE) }.unwrap();
        let pages = Pages::attach(&mapping, PAGES_AT, SHAPE).unwrap();
        let member = table.join().unwrap();
        World { me: pages.user(&member, 0).unwrap(), member, mapping }
    }

    fn table(&self) -> &Table {
        self.member.table()
    }

    fn pages(&self) -> &Pages {
        self.me.pages()
    }

    /// A new participant.
    fn sit(&self) -> Result<User, String> {
        let member = self.table().join_with(Default::default(), |dead| self.pages().clean_up(dead));
        self.pages().user(&member.map_err(said)?, 0).map_err(said)
    }

    fn file(&self) -> &[Word] {
        self.mapping.region().share_slice(FILE_AT, PAGE_BYTES as u64 / 8).unwrap()
    }

    fn write_out(&self, page: &mut ShareExclusive<'_>) {
        relaxed::copy_in(self.file(), 0, &copy(page));
        page.mark_clean().unwrap();
    }

    /// The page's value, which is in its file where it is not dirty.
    fn look(&self, user: &User) -> Result<u8, String> {
        let page = user.share_exclusive(FRAME, soon()).map_err(said)?;
        let (bytes, mut file) = (copy(&page), [0; PAGE_BYTES]);
        relaxed::copy_out(self.file(), 0, &mut file);
        if !page.is_dirty() && bytes != file {
            return Err("changed, and not to be written out".to_owned());
        }
        value(&bytes).ok_or("half changed".to_owned())
    }

    /// Changes a page, and reads it in each way.
    fn use_it(&self, user: &User, frame: u32) -> Result<(), String> {
        let mut page = user.exclusive(frame, soon()).map_err(said)?;
        let next = value(&copy(&page)).ok_or("half changed")?.wrapping_add(1);
        write(&mut page, next);
        drop(page);
        let mut bytes = [0; PAGE_BYTES];
        user.read(frame, 0, &mut bytes, soon()).map_err(said)?;
        let page = user.share(frame, soon()).map_err(said)?;
        let is_there = value(&bytes) == Some(next) && copy(&page) == bytes && page.is_dirty();
        if is_there { Ok(()) } else { Err("changed, and not as it was told".to_owned()) }
    }

    /// All intents but ours are to be had, once nobody lives but the test.
    fn nothing_leaks(&self) -> Result<(), String> {
        self.table().reap(|dead| self.me.clean_up(dead));
        let member = self.table().join().map_err(said)?;
        let users: Vec<_> = (0..).map_while(|_| self.pages().user(&member, 0).ok()).collect();
        let has_none = matches!(self.pages().user(&member, 0), Err(UserError::NoIntent(INTENTS)));
        if has_none && users.len() == INTENTS - 1 {
            return Ok(());
        }
        Err(format!("{} of {} intents are left", users.len(), INTENTS - 1))
    }

    /// Somebody has died in the midst of changing the page.
    fn die_in_a_change(&self) {
        assert!(in_a_fork(|| {
            let user = std::mem::ManuallyDrop::new(self.sit().unwrap());
            let mut page = user.exclusive(FRAME, None).unwrap();
            let before = copy(&page);
            write(&mut page, TORN);
            tear(&self.mapping, (PAGES_AT, SHAPE), FRAME, &before, |word| word % 2 == 0);
            std::mem::forget(page);
            true
        }));
    }

    /// Somebody has died that had all intents but ours.
    fn die_with_all_intents(&self) {
        assert!(in_a_fork(|| {
            let member = self.table().join().unwrap();
            (1..INTENTS).for_each(|_| std::mem::forget(self.pages().user(&member, 0).unwrap()));
            std::mem::forget(member);
            true
        }));
    }
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

/// The first user of the second seat, which those who die beforehand have.
fn the_dead() -> ParticipantId {
    ParticipantId::from_bits(1 << 22 | 1).unwrap()
}

/// What a process does with the page.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    before: fn(&World),
    /// The value that the page has at least, whoever dies.
    least: u8,
    /// Whether all that it does is to begin to use them, and to end.
    begins: bool,
    operate: fn(&World, &User, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Sitter;

    fn name(&self) -> String {
        format!("pages, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        (self.before)(&world);
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Sitter {
        let member = world.table().join().unwrap();
        let user = (!self.begins).then(|| world.pages().user(&member, 0).unwrap());
        (member, user)
    }

    fn operate(&self, world: &World, (member, user): &mut Sitter, notes: &Notes) {
        match user {
            Some(user) => (self.operate)(world, user, notes),
            None => drop(world.pages().user(member, 0).unwrap()),
        }
    }

    /// Without the table, which names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, PAGES_AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let (found, told) = (world.look(&world.me)?, notes.get(TOLD) as u8);
        if found < told.max(self.least) {
            return Err(format!("{found} is there, and {told} was told"));
        }
        world.use_it(&world.me, FRAME)?;
        world.use_it(&world.me, OTHER)?;
        world.nothing_leaks()
    }

    /// Another participant looks, and waits for a moment: it has the page or not, and comes back.
    /// What the doomed one has nothing to do with it has.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let user = world.sit()?;
            world.use_it(&user, OTHER)?;
            let mut bytes = [0; PAGE_BYTES];
            match user.read(FRAME, 0, &mut bytes, Some(Instant::now())) {
                Ok(()) if value(&bytes).is_none() => return Err("read half a change".to_owned()),
                Ok(()) | Err(LatchError::TimedOut) => {}
                Err(error) => return Err(said(error)),
            }
            match user.exclusive(FRAME, Some(Instant::now())) {
                Ok(page) if value(&copy(&page)).is_none() => Err("had half a change".to_owned()),
                Ok(_) | Err(LatchError::TimedOut) => Ok(()),
                Err(error) => Err(said(error)),
            }
        }))
    }

    /// Another participant cleans up, and uses the page.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let user = world.sit()?;
            world.table().reap(|dead| user.clean_up(dead));
            world.look(&user).map(drop)
        }))
    }

    fn forked(&self, world: &World, (_, user): &mut Sitter) -> Result<(), String> {
        let user = user.as_ref().ok_or("has not begun")?;
        let is_forked = |error| matches!(error, Some(LatchError::Forked(_)));
        let refused = is_forked(user.share(FRAME, None).err())
            && is_forked(user.exclusive(FRAME, None).err())
            && is_forked(user.mend(FRAME).err())
            && is_forked(user.load(FRAME).err())
            && world.pages().user(&world.member, 0).is_err();
        if refused { Ok(()) } else { Err("takes it in its parent's name".to_owned()) }
    }
}

const USES: Uses = Uses {
    name: "",
    operations: &[],
    before: |_| (),
    least: 0,
    begins: false,
    operate: |_, _, _| (),
};

fn change(user: &User, values: &[u8], notes: &Notes) {
    let mut page = user.exclusive(FRAME, None).unwrap();
    for value in values {
        write(&mut page, *value);
        notes.set(TOLD, u64::from(*value));
    }
}

/// Twice with one latch, and once more with another: each time by one intent.
const CHANGES: Uses = Uses {
    name: "write",
    operations: &["buffer_pool::pages::Exclusive::write", "buffer_pool::pages::User::exclusive"],
    operate: |_, user, notes| {
        change(user, &[1, 2], notes);
        change(user, &[3], notes);
    },
    ..USES
};

/// What libc fills with hangs on where malloc put the bytes.
fn stops(scenario: &Uses) -> Run<'_, Uses> {
    let run = Run::new(scenario).bystander_at_most(BYSTANDER_MAX);
    run.allow_missed(100).allow_drifted(50)
}

#[test]
fn who_changes_may_die_anywhere() {
    Run::new(&CHANGES).points(1000).kill().passes();
    stops(&CHANGES).points(60).stop().passes();
    Run::new(&CHANGES).points(200).fork().passes();
}

#[test]
fn who_mends_who_changed_may_die_too() {
    Run::new(&CHANGES).points(60).deep_at_most(1000).nested().passes();
}

/// It asks the kernel about the dead one, which takes most of its instructions.
#[test]
fn who_mends_may_die_anywhere() {
    let scenario = Uses {
        name: "mend",
        operations: &["buffer_pool::pages::User::mend"],
        before: World::die_in_a_change,
        least: TORN,
        operate: |_, user, _| assert!(user.mend(FRAME).unwrap()),
        ..USES
    };
    Run::new(&scenario).points(300).kill().passes();
    Run::new(&scenario).points(20).deep_at_most(1000).nested().passes();
    Run::new(&scenario).points(50).fork().passes();
}

#[test]
fn who_finds_a_torn_page_may_die_anywhere() {
    for (name, operations, operate) in FINDS {
        let before = World::die_in_a_change;
        let scenario = Uses { name, operations, before, least: TORN, operate, ..USES };
        Run::new(&scenario).points(100).kill().passes();
    }
}

type Find = (&'static str, &'static [&'static str], fn(&World, &User, &Notes));

const FINDS: [Find; 3] = [
    ("read, after a death", &["buffer_pool::pages::User::read"], |_, user, _| {
        let mut bytes = [0; PAGE_BYTES];
        user.read(FRAME, 0, &mut bytes, None).unwrap();
        assert_eq!(value(&bytes), Some(TORN));
    }),
    ("share, after a death", &["buffer_pool::pages::User::share"], |_, user, _| {
        assert_eq!(value(&copy(&user.share(FRAME, None).unwrap())), Some(TORN));
    }),
    (
        "share-exclusive, after a death",
        &[
            "buffer_pool::pages::User::share_exclusive",
            "buffer_pool::pages::ShareExclusive::mark_clean",
        ],
        |world, user, _| world.write_out(&mut user.share_exclusive(FRAME, None).unwrap()),
    ),
];

#[test]
fn who_writes_out_may_die_anywhere() {
    let scenario = Uses {
        name: "write out",
        operations: &[
            "buffer_pool::pages::ShareExclusive::mark_clean",
            "buffer_pool::pages::Exclusive::mark_clean",
            "buffer_pool::pages::User::try_share_exclusive",
        ],
        before: |world| write(&mut world.me.exclusive(FRAME, None).unwrap(), TORN),
        least: TORN,
        operate: |world, user, notes| {
            world.write_out(&mut user.try_share_exclusive(FRAME).unwrap().unwrap());
            change(user, &[TORN + 1], notes);
            let mut page = user.exclusive(FRAME, None).unwrap();
            relaxed::copy_in(world.file(), 0, &copy(&page));
            page.mark_clean().unwrap();
        },
        ..USES
    };
    Run::new(&scenario).points(500).kill().passes();
    stops(&scenario).points(60).stop().passes();
    Run::new(&scenario).points(100).fork().passes();
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    for (name, operation, operate) in CLEANS_UP {
        let before = World::die_in_a_change;
        let scenario = Uses { name, operations: operation, before, least: TORN, operate, ..USES };
        Run::new(&scenario).points(300).kill().passes();
        Run::new(&scenario).points(20).deep_at_most(1000).nested().passes();
    }
}

const CLEANS_UP: [Find; 2] = [
    ("clean up", &["buffer_pool::pages::Pages::clean_up"], |world, _, _| {
        world.pages().clean_up(the_dead());
    }),
    ("clean up and mend", &["buffer_pool::pages::User::clean_up"], |_, user, _| {
        user.clean_up(the_dead());
    }),
];

/// Puts another page into the frame, once whoever died as it did has been waited for.
struct Loads;

impl Scenario for Loads {
    type World = World;
    type Doomed = User;

    fn name(&self) -> String {
        "pages, load".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["buffer_pool::pages::User::load", "buffer_pool::pages::Loading::done"]
    }

    /// The page that was there somebody left torn.
    fn world(&self) -> World {
        let world = World::new();
        world.die_in_a_change();
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> User {
        world.pages().user(&world.table().join().unwrap(), 0).unwrap()
    }

    fn operate(&self, _: &World, user: &mut User, notes: &Notes) {
        load(user, 1);
        notes.set(TOLD, 1);
        load(user, 2);
        notes.set(TOLD, 2);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, PAGES_AT)
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        if end != End::Killed && notes.get(TOLD) == 2 && world.pages().is_dirty(FRAME) {
            return Err("loaded, and dirty".to_owned());
        }
        load(&world.me, 3);
        let page = world.me.share(FRAME, soon()).map_err(said)?;
        if (value(&copy(&page)), page.is_dirty()) != (Some(3), false) {
            return Err("another page than was loaded".to_owned());
        }
        drop(page);
        world.use_it(&world.me, FRAME)?;
        world.nothing_leaks()
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let user = world.sit()?;
            world.table().reap(|dead| user.clean_up(dead));
            load(&user, 4);
            Ok(())
        }))
    }

    fn forked(&self, _: &World, user: &mut User) -> Result<(), String> {
        let is_forked = matches!(user.load(FRAME), Err(LatchError::Forked(_)));
        if is_forked { Ok(()) } else { Err("loads in its parent's name".to_owned()) }
    }
}

fn load(user: &User, value: u8) {
    let mut page = user.load(FRAME).unwrap().expect("nobody is at it");
    page.copy_in(0, &[value; PAGE_BYTES]);
    page.done().unwrap();
}

#[test]
fn who_loads_may_die_anywhere() {
    Run::new(&Loads).points(300).kill().passes();
    Run::new(&Loads).points(20).deep_at_most(1000).nested().passes();
    // What libc copies with hangs on where malloc put the bytes.
    Run::new(&Loads).points(50).allow_missed(100).allow_drifted(50).fork().passes();
}

/// A thread begins to use the pages, and ends.
#[test]
fn who_begins_and_ends_may_die_anywhere() {
    for (name, before) in BEGINS {
        let scenario = Uses {
            name,
            operations: &["buffer_pool::pages::Pages::user", "buffer_pool::pages::User::drop"],
            before,
            begins: true,
            ..USES
        };
        Run::new(&scenario).points(200).kill().passes();
    }
}

type Before = fn(&World);

const BEGINS: [(&str, Before); 2] =
    [("begin and end", |_| ()), ("begin, short of an intent", World::die_with_all_intents)];

#[test]
fn a_forked_child_writes_nothing() {
    let world = World::new();
    let mut page = world.me.exclusive(FRAME, None).unwrap();
    write(&mut page, 1);
    let before = words_from(&world.mapping, PAGES_AT);
    let page = std::mem::ManuallyDrop::new(page);
    assert!(in_a_fork(|| {
        // SAFETY: the parent's copy is another one.
        let mut page = unsafe { std::ptr::read(&*page) };
        let refused = matches!(page.write(&[(0, b"no")]), Err(WriteError::Forked(_)));
        refused && page.mark_clean().is_err()
    }));
    assert_eq!(words_from(&world.mapping, PAGES_AT), before);
    drop(std::mem::ManuallyDrop::into_inner(page));
    world.use_it(&world.me, FRAME).unwrap();
}
