//! `fan_in` under the explorer: whichever senders and receivers die where, each record that was
//! acknowledged comes once, in its sender's order, and then the sender's end, once; lanes go from
//! one sender to the next; who stands still holds up nobody; and nonsense does no harm.
//!
//! Senders are the first processes, receivers the next ones; a check is the last one.
#![cfg(shm_explore)]
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::fan_in::{
    Event, FanIn, FanInConfig, JoinError, LINE_BYTES, LaneState, Receiver, RecvError, SendError,
    Why,
};
use shm_mq::stream::OneMapping;
use shm_mq::waitset::WaitSet;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

/// Said by a sender: it has a lane; so many of its records are sent.
const JOINED: u64 = 1;
const SENT: u64 = 10;
/// Said by a receiver: it begins; it used and let go of a record, or an end, of process number
/// `said / 100`.
const BEGINS: u64 = 1;
const RECORD: u64 = 10;
const ENDED: u64 = 50;

struct World {
    mapping: Arc<Mapping>,
    at: u64,
    fan_in: FanIn,
    /// Of processes 1, 2, …
    members: Vec<Arc<Member>>,
    senders: usize,
    receivers: usize,
    /// Receivers sleep in a set.
    has_set: bool,
}

fn world(lanes: u32, lines: u64, senders: usize, receivers: usize) -> World {
    let seats = (senders + receivers + 1) as u32;
    let config = FanInConfig::new(lanes, lines * LINE_BYTES);
    let at = Table::bytes_for(seats).next_multiple_of(64);
    let mapping = Mapping::heap((at + FanIn::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let fan_in = unsafe { FanIn::create(&mapping, at, &config) }.unwrap();
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members = (1..=seats).map(join).collect();
    kernel::become_process(kernel::BUILDER);
    World { mapping, at, fan_in, members, senders, receivers, has_set: false }
}

impl World {
    /// The lanes are given to the first senders, and the role to the first receiver, so that their
    /// deaths are known.
    fn given(lanes: u32, lines: u64, senders: usize, receivers: usize) -> World {
        let world = world(lanes, lines, senders, receivers);
        let last = world.members.last().unwrap();
        for member in &world.members[..senders.min(lanes as usize)] {
            world.fan_in.set_sender(last, member.id()).unwrap();
        }
        world.fan_in.set_receiver(last, world.members[senders].id()).unwrap();
        world
    }

    fn member(&self, me: &Me) -> &Arc<Member> {
        &self.members[me.pid() as usize - 1]
    }

    /// Takes the role once those before are dead.
    fn receiver(&self, me: &Me) -> Receiver {
        (self.senders as u32 + 1..me.pid()).for_each(dies);
        self.fan_in.receiver(self.member(me)).unwrap()
    }

    /// Which process has sent this.
    fn process(&self, event: &Event<'_>) -> u64 {
        let is_its = |member: &Arc<Member>| member.id() == event.sender();
        self.members.iter().position(is_its).expect("a participant's") as u64 + 1
    }

    /// What is said of an event.
    fn name(&self, event: &Event<'_>) -> u64 {
        let what = match event {
            Event::Record(record) => {
                assert_eq!(**record, [record.number() as u8 + 1], "torn, lost or twice");
                RECORD + record.number()
            }
            Event::End(end) => ENDED + 10 * (end.why() as u64) + end.received(),
        };
        100 * self.process(event) + what
    }
}

/// Waits until it has: no log grows by it, as by asking again and again.
fn dies(pid: u32) {
    while !kernel::is_dead(pid) {
        kernel::sleep_until_dead(pid, false);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    let states = if is_deep() { 1_000_000 } else { 35_000 };
    Scenario::new("fan_in", name).alone_at_most(2000).states_at_most(states)
}

/// Joins, sends so many records and leaves.
fn sends(world: &World, count: u64) -> Process<'_> {
    Process::new("sender", move |me| {
        let mut sender = match world.fan_in.sender(world.member(me)) {
            Ok(sender) => sender,
            Err(error) => return assert!(matches!(error, JoinError::AllTaken { .. })),
        };
        me.say(JOINED);
        for number in 0..count {
            match sender.send(&[number as u8 + 1]) {
                Ok(()) => me.say(SENT + number + 1),
                Err(SendError::PeerDied | SendError::Detached) => return,
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// Takes the role, and receives until so many ends were told, by it and those before it.
fn receives(world: &World, ends: usize) -> Process<'_> {
    Process::new("receiver", move |me| {
        let (mut receiver, mut set) = (world.receiver(me), WaitSet::new());
        me.say(BEGINS);
        let is_free = |world: &World| {
            world.fan_in.status().iter().filter(|lane| lane.state == LaneState::Free).count()
        };
        while is_free(world) < ends {
            let event = if world.has_set {
                set.wait(&mut [((), &mut receiver)], None).unwrap();
                receiver.try_recv().unwrap().expect("it is ready")
            } else {
                receiver.recv().unwrap()
            };
            let name = world.name(&event);
            drop(event);
            me.say(name);
        }
    })
}

/// What receivers said, and what is still there, is of each sender one sequence and one end, in
/// which all that it was told is sent.
fn all_came(world: &World, end: &End<'_>) {
    let receivers = world.senders..world.senders + world.receivers;
    let mut came: Vec<Vec<u64>> = receivers.map(|process| end.said(process).to_vec()).collect();
    // Who lives has the role still.
    if let Ok(mut receiver) = world.fan_in.receiver(world.members.last().unwrap()) {
        let mut left = Vec::new();
        for _ in 0..20 {
            if let Some(event) = receiver.try_recv().unwrap() {
                left.push(world.name(&event));
            }
        }
        came.push(left);
    }
    for sender in 0..world.senders {
        let of_it = |said: &&u64| **said / 100 == sender as u64 + 1;
        let mut next = 0;
        let mut ends = 0;
        for part in &came {
            for said in part.iter().filter(of_it) {
                assert_eq!(ends, 0, "after its end: {came:?}");
                let what = said % 100;
                if what < ENDED {
                    // One that was let go of and not said is left out.
                    assert!((next..=next + 1).contains(&(what - RECORD)), "{came:?}");
                    next = what - RECORD + 1;
                } else {
                    // Of one that another receiver died over, too.
                    let counted = what % 10;
                    let is_again = counted == 0 && world.receivers > 1;
                    assert!((next..=next + 1).contains(&counted) || is_again, "{came:?}");
                    ends += 1;
                }
            }
        }
        let said = end.said(sender);
        let sent = said.iter().map(|said| said.saturating_sub(SENT)).max().unwrap_or(0);
        let unsaid = u64::from(world.receivers > 1);
        assert!(ends == 0 || next + unsaid >= sent, "{sent} were sent: {came:?}");
    }
}

/// Senders come at once, and some of them die; receivers come one after the other, and all die but
/// the last.
fn deaths(world: &World, count: u64, deaths: u32, most: u32) {
    let (senders, receivers) = (world.senders, world.receivers);
    let set = if world.has_set { ", in a set" } else { "" };
    let name = format!("{senders} senders, {receivers} receivers{set}, {deaths} deaths");
    let mut scenario = scenario(&name).preemptions_at_most(most).deaths(deaths);
    let mortal_senders = deaths as usize + 1 - receivers;
    for number in 0..senders {
        let process = sends(world, count);
        scenario =
            scenario.process(if number < mortal_senders { process.mortal() } else { process });
    }
    for number in 0..receivers {
        let process = receives(world, senders);
        let is_mortal = number + 1 < receivers;
        scenario = scenario.process(if is_mortal { process.mortal() } else { process });
    }
    let scenario = if is_deep() { scenario.lingering() } else { scenario };
    // Who succeeds one that does not die waits.
    let check = |end: &End<'_>| all_came(world, end);
    scenario.check(check).may_all_wait(check).explore();
}

#[test]
fn senders_may_die_anywhere() {
    deaths(&World::given(1, 4, 1, 1), 2, 1, 1);
    deaths(&World::given(2, 4, 2, 1), 1, 1, 0);
    deaths(&World::given(2, 4, 2, 1), 1, 2, 0);
}

#[test]
fn senders_may_die_while_a_set_waits() {
    deaths(&World { has_set: true, ..World::given(1, 4, 1, 1) }, 2, 1, 1);
    deaths(&World { has_set: true, ..World::given(2, 4, 2, 1) }, 1, 2, 0);
}

#[test]
fn a_sender_may_die_that_waits_for_room() {
    deaths(&World::given(1, 2, 1, 1), 2, 1, 1);
}

#[test]
fn receivers_may_die_anywhere() {
    deaths(&World::given(1, 4, 1, 2), 2, 1, 1);
    deaths(&World::given(1, 4, 1, 3), 1, 2, 0);
}

#[test]
fn both_may_die_anywhere() {
    deaths(&World::given(2, 4, 2, 2), 1, 2, 0);
}

/// One lane goes from one that dies, or leaves, to another that waits for nobody.
#[test]
fn a_lane_goes_from_one_to_the_next() {
    let world = World::given(1, 4, 2, 1);
    let tries = Process::new("next sender", |me: &Me| {
        for _ in 0..2 {
            let Ok(mut sender) = world.fan_in.sender(world.member(me)) else { continue };
            me.say(JOINED);
            assert_eq!(sender.sent(), 0);
            match sender.try_send(&[1]) {
                Ok(true) => me.say(SENT + 1),
                other => assert_eq!(other, Err(SendError::Detached)),
            }
        }
    });
    let takes = Process::new("receiver", |me: &Me| {
        let mut receiver = world.receiver(me);
        me.say(BEGINS);
        for _ in 0..5 {
            if let Some(event) = receiver.try_recv().unwrap() {
                let name = world.name(&event);
                drop(event);
                me.say(name);
            }
        }
    });
    let scenario = scenario("one lane, two senders").deaths(1).preemptions_at_most(2);
    let scenario = scenario.process(sends(&world, 1).mortal().never_waits());
    let scenario = scenario.process(tries.never_waits()).process(takes.never_waits());
    scenario.check(|end| all_came_of_two_lives(&world, end)).explore();
}

/// As `all_came`, where the second sender may have come twice.
fn all_came_of_two_lives(world: &World, end: &End<'_>) {
    let mut came = end.said(2).to_vec();
    if let Ok(mut receiver) = world.fan_in.receiver(world.members.last().unwrap()) {
        for _ in 0..20 {
            if let Some(event) = receiver.try_recv().unwrap() {
                came.push(world.name(&event));
            }
        }
    }
    for sender in 0..2 {
        let of_it: Vec<u64> =
            came.iter().filter(|said| **said / 100 == sender + 1).map(|said| said % 100).collect();
        let joined = end.said(sender as usize).iter().filter(|said| **said == JOINED).count();
        let is_end = |said: &&u64| **said >= ENDED;
        let ends = of_it.iter().filter(is_end).count();
        assert!(ends >= joined, "{joined} joined, {of_it:?}");
        assert!(ends <= joined + usize::from(end.is_dead(0)), "{joined} joined, {of_it:?}");
        let sent = end.said(sender as usize).iter().filter(|said| **said > SENT).count();
        let records = of_it.len() - ends;
        assert!((sent..=sent + 1).contains(&records), "{sent} sent, {of_it:?}");
        // A record, and then its end.
        assert!(of_it.windows(2).all(|two| two[0] >= ENDED || two[1] >= ENDED), "{of_it:?}");
    }
}

/// What does not wait does not, whoever stands still, and what waits for some time ends.
#[test]
fn who_stands_still_holds_up_nobody() {
    let (world, past) = (World::given(2, 2, 2, 1), Instant::now());
    let tries = Process::new("sender", |me: &Me| {
        let Ok(mut sender) = world.fan_in.sender(world.member(me)) else { return };
        let first = sender.try_send(&[1]);
        assert!(matches!(first, Ok(true) | Err(SendError::Detached)), "{first:?}");
        let _ = sender.push(&[2]).map(|_| sender.flush());
    });
    let waits = Process::new("other sender", |me: &Me| {
        let Ok(mut sender) = world.fan_in.sender(world.member(me)) else { return };
        for number in [1, 2] {
            match sender.send_deadline(&[number], past) {
                Ok(()) | Err(SendError::Detached | SendError::PeerDied) => {}
                Err(SendError::TimedOut) if number == 2 => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    let takes = Process::new("receiver", |me: &Me| {
        let Ok(mut receiver) = world.fan_in.receiver(world.member(me)) else { return };
        for _ in 0..2 {
            match receiver.recv_deadline(past) {
                Ok(Event::Record(record)) => record.put_back(),
                Ok(Event::End(_)) | Err(RecvError::TimedOut) => {}
                Err(other) => panic!("{other}"),
            }
            receiver.drain(1, |_| ()).unwrap();
        }
    });
    let scenario = scenario("calls that do not wait, or with a limit").deaths(1);
    let scenario = scenario.preemptions_at_most(0).process(tries.mortal().never_waits());
    scenario.process(waits.mortal()).process(takes.mortal()).explore();
}

/// Each is told lies: about lanes, bits, roles, positions, headers, bytes, and the head of it all.
fn lies_to<T: OneMapping>(level: &str) {
    let lies = if is_deep() { 2 } else { 1 };
    let world = World::given(2, 2, 1, 1);
    let attach = || Some(FanIn::attach(&world.mapping, world.at, 0).ok()?.with_peers::<T>());
    let sends = Process::new("sender", |me: &Me| {
        let Some(fan_in) = attach() else { return };
        let Ok(mut sender) = fan_in.sender(world.member(me)) else { return };
        for length in [1, 0] {
            if sender.try_send(&vec![7; length]).is_err() {
                return;
            }
        }
    });
    let receives = Process::new("receiver", |me: &Me| {
        let Some(fan_in) = attach() else { return };
        let Ok(mut receiver) = fan_in.receiver(world.member(me)) else { return };
        for _ in 0..3 {
            match receiver.try_recv().unwrap() {
                Some(Event::Record(record)) => assert!(record.len() as u64 <= 2 * LINE_BYTES),
                Some(Event::End(end)) if end.why() == Why::Corrupt => me.say(ENDED),
                Some(Event::End(_)) | None => {}
            }
        }
        let _ = fan_in.status();
    });
    let name = format!("{level} peers, {lies} lies");
    let scenario = scenario(&name).lies(lies).preemptions_at_most(0);
    let once = |end: &End<'_>| assert!(end.said(1).len() <= 3);
    scenario.process(sends).process(receives).check(once).may_all_wait(|_| ()).explore();
}

#[test]
fn a_lie_of_a_crashing_peer_does_no_harm() {
    lies_to::<Crashing>("crashing");
}

#[test]
fn a_lie_of_a_buggy_peer_does_no_harm() {
    lies_to::<Buggy>("buggy");
}

/// Planted bug: a receiver that frees the lane of a dead sender before it has looked for its last
/// record, in short.
#[test]
fn finds_an_end_told_too_early() {
    let mapping = Mapping::heap(16);
    let words = MappedSlice::<AtomicU64>::new(&mapping, 0, 2).unwrap();
    let sends = Process::new("sender", |_| words[0].store(1, Relaxed));
    let receives = Process::new("receiver", |_| {
        let record = words[0].load(Relaxed);
        if kernel::is_dead(1) {
            words[1].store(record + 1, Relaxed);
        }
    });
    let check = |_: &End<'_>| {
        let freed = words[1].load(Relaxed);
        assert!(freed == 0 || freed == words[0].load(Relaxed) + 1, "a record is lost");
    };
    let scenario = || {
        let scenario = scenario("an end in short").deaths(1).process(sends.mortal());
        scenario.process(receives).check(check).explore()
    };
    finds("a record is lost", scenario);
}

/// Planted bug: a receiver that clears a bit after it has looked, in short.
#[test]
fn finds_a_bit_cleared_too_late() {
    let mapping = Mapping::heap(16);
    let words = MappedSlice::<AtomicU64>::new(&mapping, 0, 2).unwrap();
    words[1].store(1, Relaxed);
    let sends = Process::new("sender", |_| {
        words[0].store(1, Relaxed);
        if words[1].load(Relaxed) == 0 {
            words[1].store(1, Relaxed);
        }
    });
    let receives = Process::new("receiver", |me: &Me| {
        me.say(words[0].load(Relaxed));
        words[1].store(0, Relaxed);
    });
    let check = |end: &End<'_>| {
        assert!(end.said(1) == [1] || words[1].load(Relaxed) == 1, "nobody looks there");
    };
    let scenario =
        || scenario("a bit in short").process(sends).process(receives).check(check).explore();
    finds("nobody looks there", scenario);
}
