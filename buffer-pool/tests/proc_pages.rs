//! Real processes that change the pages of one pool, killed and stopped as they do: every page is
//! one pattern whenever it is read, what was told is there, and none that lives is short of an
//! intent.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/participants_common/mod.rs"]
mod participants_common;

use buffer_pool::pages::{Page, Pages, Shape, User};
use participants_common::{Child, WATCHDOG, World, shared_mapping, world};
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::random;
use std::time::{Duration, Instant};

const PROCESSES: u32 = 4;
/// Large pages, so that many die in the midst of a change.
const SHAPE: Shape = Shape { frames: 2, seats: PROCESSES + 2, threads: 1, page_bytes: 1 << 15 };
const PAGE_WORDS: usize = SHAPE.page_bytes as usize / 8;
const TIME: Duration = Duration::from_secs(2);

/// Words of the board: how often each page was changed, as was told; violations, reads.
const TOLD: usize = 0;
const VIOLATED: usize = 2;
const READ: usize = 3;

fn soon() -> Option<Instant> {
    Some(Instant::now() + WATCHDOG)
}

fn sit(world: &World, pages: &Pages) -> User {
    let member = world.table.join_with(Default::default(), |dead| pages.clean_up(dead)).unwrap();
    pages.user(&member, 0).unwrap()
}

/// What all words of a page are; a violation where they are not the same.
fn value(world: &World, mut words: impl Iterator<Item = u64>) -> u64 {
    let first = words.next().unwrap();
    world.board.words[VIOLATED].fetch_add(u32::from(!words.all(|word| word == first)), Relaxed);
    first
}

fn words(page: &Page<'_>) -> impl Iterator<Item = u64> {
    page.words().iter().map(|word| word.load())
}

/// By looks, or with a share.
fn read(world: &World, user: &User, frame: u32, shares: bool) {
    if shares {
        value(world, words(&user.share(frame, soon()).unwrap()));
    } else {
        let mut bytes = vec![0; SHAPE.page_bytes as usize];
        user.read(frame, 0, &mut bytes, soon()).unwrap();
        value(world, bytes.as_chunks().0.iter().map(|eight| u64::from_ne_bytes(*eight)));
    }
    world.board.words[READ].fetch_add(1, Relaxed);
}

/// All words of a page are one more, in ranges of several lengths.
fn change(world: &World, user: &User, frame: u32) {
    let mut page = user.exclusive(frame, soon()).unwrap();
    let next = value(world, words(&page)) + 1;
    let bytes: Vec<u8> = [next; PAGE_WORDS].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ends = [0, 13, 512, 20_000, 20_001, bytes.len()];
    let ranges: Vec<_> = ends.windows(2).map(|it| (it[0], &bytes[it[0]..it[1]])).collect();
    page.write(&ranges).unwrap();
    // It has the page still: what others were told is not more.
    world.board.words[TOLD + frame as usize].store(next as u32, Relaxed);
}

fn works(world: &World, user: &User, frame: u32) {
    (0..2).for_each(|shares| read(world, user, frame, shares == 0));
    change(world, user, frame);
    if let Some(mut page) = user.try_share_exclusive(frame).unwrap() {
        value(world, words(&page));
        page.mark_clean().unwrap();
    }
}

#[test]
fn whoever_is_killed_each_page_is_one_pattern() {
    let world = world(SHAPE.seats);
    let mapping = shared_mapping(Pages::bytes_for(SHAPE).next_multiple_of(4096) as usize);
    // SAFETY: nobody else has the mapping yet.
    unsafe { Pages::create(&mapping, 0, SHAPE) }.unwrap();
    let pages = Pages::attach(&mapping, 0, SHAPE).unwrap();
    let mut state = random::seed();
    let mut random = |below: u64| random::next(&mut state) % below;
    let spawn = || {
        Child::fork(|| {
            let user = sit(&world, &pages);
            loop {
                (0..SHAPE.frames).for_each(|frame| works(&world, &user, frame));
            }
        })
    };
    let mut children: Vec<_> = (0..PROCESSES).map(|_| spawn()).collect();
    let user = sit(&world, &pages);
    let (end, mut kills, mut mended) = (Instant::now() + TIME, 0, 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(500 + random(4000)));
        let at = random(children.len() as u64) as usize;
        if random(3) == 0 {
            children[at].signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(random(1000)));
        }
        children[at].kill();
        kills += 1;
        // Mostly others were there before.
        mended += (0..SHAPE.frames).filter(|frame| user.mend(*frame).unwrap()).count();
        if random(2) == 0 {
            world.table.reap(|dead| user.clean_up(dead));
        }
        children[at] = spawn();
    }
    drop(children);
    for frame in 0..SHAPE.frames {
        let found = value(&world, words(&user.share(frame, soon()).unwrap()));
        let told = world.word(TOLD + frame as usize);
        assert!(found >= u64::from(told), "{told} changes were told, and {found} are there");
        println!("frame {frame}: {found} changes");
    }
    println!("{} reads, {kills} killed, {mended} mended by the test", world.word(READ));
    assert_eq!(world.word(VIOLATED), 0);
    assert!(world.word(TOLD) > 100 && world.word(READ) > 100 && kills > 10);
}
