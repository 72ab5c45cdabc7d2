//! Records in lanes: `spsc`, whose two roles are taken again, and `fan_in`, whose senders come and
//! go.
use super::{Lives, NOBODY_SENDS, ONLY_WHAT_IS_LEFT, Scene, Told, World};
use super::{message, next, read, soon};
use shm_mq::fan_in::{Event, FanIn, FanInConfig, JoinError, LaneState};
use shm_mq::spsc::{self, Queue, SendError, Sender};

const RING: u64 = 4096;
/// Of a `spsc`, whoever has the roles writes into the words of the first life.
const SPSC_WORDS: u64 = 0;

pub(crate) const SPSC: Scene = Scene {
    name: "spsc",
    senders: ("sends", 1),
    receivers: ("receives", 1),
    bytes: Queue::bytes_for(RING),
    // SAFETY: nobody else has the mapping's name.
    make: |mapping, at| drop(unsafe { Queue::create(mapping, at, RING, 0) }.unwrap()),
    has_ledger: false,
    check: |world, _| {
        let [begun, sent, used] =
            [Told::Begun, Told::Sent, Told::Used].map(|what| world.count(SPSC_WORDS, what));
        accounts(begun, sent, used)?;
        Ok([sent, used])
    },
};

fn accounts(begun: u64, sent: u64, used: u64) -> Result<(), String> {
    let is_right = (sent..=begun).contains(&used);
    is_right.then_some(()).ok_or(format!("{begun} begun, {sent} sent, {used} received"))
}

/// Goes on where its predecessor was killed.
pub(crate) fn sends(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, false);
    let queue = Queue::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut sender = queue.sender(&world.me).unwrap();
    let (begun, known) =
        (world.count(SPSC_WORDS, Told::Begun), world.count(SPSC_WORDS, Told::Sent));
    assert!((known..=begun).contains(&sender.sent()), "{known}, {}, {begun}", sender.sent());
    while !world.is_over(NOBODY_SENDS) {
        send_some(&world, SPSC_WORDS, &mut sender, &mut seed);
    }
}

/// Sends up to three records, in one of the ways.
fn send_some(world: &World, of: u64, sender: &mut Sender, seed: &mut u64) {
    let number = sender.sent();
    world.set(of, Told::Begun, number + 3);
    let bytes = message(of, number);
    let result = match next(seed) % 4 {
        0 => sender.try_send(&bytes).map(drop),
        1 => sender.send_deadline(&bytes, soon()),
        2 => sender.reserve(bytes.len()).map(|place| {
            if let Some(mut place) = place {
                place.copy_from_slice(&bytes);
                place.commit();
            }
        }),
        _ => push_some(of, number, sender),
    };
    match result {
        Ok(()) => world.set(of, Told::Sent, sender.sent()),
        // Somebody will come in its place.
        Err(SendError::PeerDied | SendError::TimedOut | SendError::Detached) => {
            std::thread::yield_now();
        }
        Err(error) => panic!("{error}"),
    }
}

fn push_some(of: u64, number: u64, sender: &mut Sender) -> Result<(), SendError> {
    for number in number..number + 3 {
        if !sender.push(&message(of, number))? {
            break;
        }
    }
    sender.flush()
}

/// A record is the next one, or that which a predecessor was killed over.
fn uses(world: &World, bytes: &[u8], number: u64) {
    let (of, said) = read(bytes);
    let used = world.count(of, Told::Used);
    assert!(number == used || number + 1 == used, "{number}, and {used} were used");
    assert_eq!(said, number);
    world.set(of, Told::Used, number + 1);
}

/// Goes on where its predecessor was killed.
pub(crate) fn receives(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, false);
    let queue = Queue::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut receiver = queue.receiver(&world.me).unwrap();
    loop {
        let is_last = world.is_over(ONLY_WHAT_IS_LEFT);
        let got = match next(&mut seed) % 4 {
            0 => receiver.try_recv(),
            _ => receiver.recv_deadline(soon()).map(Some),
        };
        match got {
            Ok(Some(record)) if next(&mut seed).is_multiple_of(16) => record.put_back(),
            Ok(Some(record)) => uses(&world, &record, record.number()),
            Ok(None) => {}
            Err(spsc::RecvError::Corrupt | spsc::RecvError::Forked) => panic!("{got:?}"),
            Err(_) if is_last => return,
            Err(_) => std::thread::yield_now(),
        }
    }
}

const LANES: FanInConfig = FanInConfig::new(4, 2048);

pub(crate) const FAN_IN: Scene = Scene {
    name: "fan_in",
    senders: ("joins_and_sends", 3),
    receivers: ("receives_from_all", 1),
    bytes: FanIn::bytes_for(&LANES),
    // SAFETY: nobody else has the mapping's name.
    make: |mapping, at| drop(unsafe { FanIn::create(mapping, at, &LANES) }.unwrap()),
    has_ledger: false,
    check: check_lanes,
};

fn check_lanes(world: &World, lives: &Lives) -> Result<[u64; 2], String> {
    let mut all = [0, 0];
    for &life in &lives.senders {
        let [begun, sent, used] =
            [Told::Begun, Told::Sent, Told::Used].map(|what| world.count(life, what));
        accounts(begun, sent, used)?;
        if sent > 0 && world.count(life, Told::Ends) == 0 {
            return Err(format!("{life} has no end"));
        }
        all = [all[0] + sent, all[1] + used];
    }
    Ok(all)
}

pub(crate) fn joins_and_sends(args: &[String]) {
    let (world, life, mut seed) = World::attach(args, false);
    world.set(life, Told::Id, world.me.id().to_bits().into());
    let fan_in = FanIn::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut sender = None;
    while !world.is_over(NOBODY_SENDS) {
        match &mut sender {
            Some(sender) => send_some(&world, life, sender, &mut seed),
            None => match fan_in.sender(&world.me) {
                Ok(joined) => sender = Some(joined),
                Err(JoinError::AllTaken { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            },
        }
    }
}

pub(crate) fn receives_from_all(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, false);
    let fan_in = FanIn::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut receiver = fan_in.receiver(&world.me).unwrap();
    loop {
        let is_last = world.is_over(ONLY_WHAT_IS_LEFT);
        let event = match next(&mut seed) % 4 {
            0 => receiver.try_recv().unwrap(),
            _ => receiver.recv_deadline(soon()).ok(),
        };
        match event {
            Some(event) if next(&mut seed).is_multiple_of(16) => event.put_back(),
            Some(Event::Record(record)) => {
                let (of, _) = read(&record);
                assert_eq!(u64::from(record.sender().to_bits()), world.count(of, Told::Id));
                assert_eq!(world.count(of, Told::Ends), 0, "after its end");
                uses(&world, &record, record.number());
            }
            Some(Event::End(end)) => {
                let id = u64::from(end.sender().to_bits());
                let is_its = |life: &u64| world.count(*life, Told::Id) == id;
                let life = (0..super::LIVES_MAX).find(is_its).expect("one that was");
                let before = world.count(life, Told::Ends);
                world.set(life, Told::Ends, before + 1);
                let is_right = end.received() == world.count(life, Told::Used);
                assert!(is_right || before > 0 && end.received() == 0, "{end:?}");
            }
            None if is_last && fan_in.status().iter().all(|lane| lane.state == LaneState::Free) => {
                return;
            }
            None => {}
        }
    }
}
