//! `spsc` under the explorer: whichever senders and receivers die where, their successors go on
//! with the record that comes next, whole; nothing acknowledged is lost or comes twice; who stands
//! still holds up nobody but who waits for it; and nonsense is an error without harm.
//!
//! Senders are the first processes, receivers the next ones; a check is the last one.
#![cfg(shm_explore)]
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::spsc::{AttachError, LINE_BYTES, Queue, Receiver, RecvError, SendError, Sender};
use shm_mq::stream::OneMapping;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

/// A queue, and who may come to it.
struct World {
    mapping: Arc<Mapping>,
    at: u64,
    queue: Queue,
    /// Of processes 1, 2, …
    members: Vec<Arc<Member>>,
    senders: usize,
    receivers: usize,
}

fn world(lines: u64, senders: usize, receivers: usize) -> World {
    let seats = (senders + receivers + 1) as u32;
    // And for two who died before.
    let slots = seats + 2;
    let at = Table::bytes_for(slots).next_multiple_of(64);
    let ring_bytes = lines * LINE_BYTES;
    let mapping = Mapping::heap((at + Queue::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, slots) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let queue = unsafe { Queue::create(&mapping, at, ring_bytes, 0) }.unwrap();
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members = (1..=seats).map(join).collect();
    kernel::become_process(kernel::BUILDER);
    World { mapping, at, queue, members, senders, receivers }
}

impl World {
    /// Both roles are given to the first who come, so that their deaths are known. Others have had
    /// them, for so many records of one line each.
    fn given(lines: u64, before: u64, senders: usize, receivers: usize) -> World {
        let world = world(lines, senders, receivers);
        let last = &world.members[senders + receivers];
        let (mut sender, mut receiver) =
            (world.queue.sender(last).unwrap(), world.queue.receiver(last).unwrap());
        for _ in 0..before {
            sender.send(&[0]).unwrap();
            assert_eq!(*receiver.recv().unwrap(), [0]);
        }
        drop((sender, receiver));
        world.queue.set_sender(last, world.members[0].id()).unwrap();
        world.queue.set_receiver(last, world.members[senders].id()).unwrap();
        world
    }

    fn member(&self, me: &Me) -> &Arc<Member> {
        &self.members[me.pid() as usize - 1]
    }

    /// Takes the role once those before are dead.
    fn sender(&self, me: &Me) -> Sender {
        (1..me.pid()).for_each(dies);
        self.queue.sender(self.member(me)).unwrap()
    }

    fn receiver(&self, me: &Me) -> Receiver {
        (self.senders as u32 + 1..me.pid()).for_each(dies);
        self.queue.receiver(self.member(me)).unwrap()
    }
}

/// Waits until it has: no log grows by it, as by asking again and again.
fn dies(pid: u32) {
    while !kernel::is_dead(pid) {
        kernel::sleep_until_dead(pid, false);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    let states = if is_deep() { 120_000 } else { 65_000 };
    Scenario::new("spsc", name).alone_at_most(2000).states_at_most(states)
}

/// What is sent: bytes of each record, the first of which are there before.
struct Records {
    lines: u64,
    before: u64,
    lengths: &'static [usize],
}

impl Records {
    fn count(&self) -> u64 {
        self.before + self.lengths.len() as u64
    }

    fn record(&self, number: u64) -> Vec<u8> {
        vec![number as u8 + 1; self.lengths[(number - self.before) as usize]]
    }
}

/// The first one takes three words, of which two are left before the end; the next one goes to the
/// next line, and has to wait.
const AROUND: &Records = &Records { lines: 4, before: 3, lengths: &[9, 2] };
/// Once the first one is given back, the last is written where its bytes were: which the receiver
/// writes before.
const HANDED_BACK: &Records = &Records { lines: 4, before: 0, lengths: &[9, 1, 1, 2] };
/// Each fills the ring.
const SHORT: &Records = &Records { lines: 2, before: 0, lengths: &[1, 1] };

/// Says with how many records a process begins.
const BEGINS: u64 = 100;

/// Sends what is left of the records, whoever sent the others; says where it begins, and each that
/// was taken.
fn sends<'a>(world: &'a World, records: &'a Records) -> Process<'a> {
    Process::new("sender", move |me| {
        let mut sender = world.sender(me);
        me.say(BEGINS + sender.sent());
        while sender.sent() < records.count() {
            let number = sender.sent();
            match sender.send(&records.record(number)) {
                Ok(()) => me.say(number),
                Err(SendError::PeerDied | SendError::Detached) => return,
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// Receives what is left of the records, likewise.
fn receives<'a>(world: &'a World, records: &'a Records) -> Process<'a> {
    Process::new("receiver", move |me| {
        let mut receiver = world.receiver(me);
        me.say(BEGINS + receiver.received());
        while receiver.received() < records.count() {
            let number = receiver.received();
            match receiver.recv() {
                Ok(its) => assert_eq!(*its, records.record(number), "torn, lost or twice"),
                Err(RecvError::PeerDied | RecvError::Detached) => return,
                Err(other) => panic!("{other}"),
            }
            me.say(number);
        }
    })
}

/// What the first of `processes` said, and so on, is one sequence: each began where the one before
/// it was, or behind one more that it had no time to say. How many records they say there are.
fn one_after_the_other(end: &End<'_>, processes: std::ops::Range<usize>, mut next: u64) -> u64 {
    let mut said: Vec<&[u64]> = processes.map(|process| end.said(process)).collect();
    // Who came first said the least.
    said.retain(|said| !said.is_empty());
    said.sort();
    for said in said {
        let begins = said[0] - BEGINS;
        assert!((next..=next + 1).contains(&begins), "{next} were told, it begins with {begins}");
        next = begins;
        for number in &said[1..] {
            assert_eq!(*number, next, "{said:?}");
            next += 1;
        }
    }
    next
}

/// All that lived did all; and what is left in the queue is what was taken and not received.
fn nothing_is_lost(world: &World, records: &Records, end: &End<'_>) {
    let taken = one_after_the_other(end, 0..world.senders, records.before);
    let receivers = world.senders..world.senders + world.receivers;
    let received = one_after_the_other(end, receivers, records.before);
    let me = world.members.last().unwrap();
    let sender = world.queue.sender(me).ok();
    if let Some(sender) = &sender {
        assert!((taken..=taken + 1).contains(&sender.sent()), "{taken} taken: {sender:?}");
    }
    let Ok(mut receiver) = world.queue.receiver(me) else { return };
    assert!((received..=received + 1).contains(&receiver.received()), "{received}: {receiver:?}");
    loop {
        let number = receiver.received();
        match receiver.try_recv() {
            Ok(Some(its)) => assert_eq!(*its, records.record(number), "torn, lost or twice"),
            _ => break,
        }
    }
    let left = receiver.received();
    assert!(left >= taken, "{taken} were acknowledged, {left} are there");
    assert!(sender.is_none_or(|sender| sender.sent() == left));
}

/// Senders and receivers come one after the other, and all die but one of each.
fn successors(records: &Records, (senders, receivers): (usize, usize), most: u32) {
    let world = World::given(records.lines, records.before, senders, receivers);
    let name = format!("{senders} senders, {receivers} receivers, {} lines", records.lines);
    let mut scenario = scenario(&name).preemptions_at_most(most);
    scenario = scenario.deaths((senders + receivers - 2) as u32);
    for _ in 0..senders {
        let process = sends(&world, records);
        scenario = scenario.process(if senders > 1 { process.mortal() } else { process });
    }
    for _ in 0..receivers {
        let process = receives(&world, records);
        scenario = scenario.process(if receivers > 1 { process.mortal() } else { process });
    }
    let scenario = if is_deep() { scenario.lingering() } else { scenario };
    // Who succeeds one that does not die waits.
    let check = |end: &End<'_>| nothing_is_lost(&world, records, end);
    scenario.check(check).may_all_wait(check).explore();
}

#[test]
fn senders_may_die_anywhere() {
    successors(AROUND, (2, 1), 0);
    successors(SHORT, (2, 1), 1);
    successors(SHORT, (3, 1), 0);
}

#[test]
fn receivers_may_die_anywhere() {
    successors(AROUND, (1, 2), 0);
    successors(SHORT, (1, 2), 1);
    successors(SHORT, (1, 3), 0);
}

#[test]
fn what_is_given_back_is_the_senders() {
    successors(HANDED_BACK, (1, 1), 1);
}

#[test]
fn both_may_die_anywhere() {
    successors(AROUND, (2, 2), 0);
}

/// What does not wait does not, whoever stands still, and what waits for some time ends; a role is
/// had by one at a time, and taken from the dead.
#[test]
fn who_stands_still_holds_up_nobody() {
    let world = World::given(2, 0, 1, 1);
    let tries = Process::new("sender", |me: &Me| {
        let Ok(mut sender) = world.queue.sender(world.member(me)) else { return };
        let first = sender.try_send(&[1]);
        assert!(matches!(first, Ok(true) | Err(SendError::Detached)), "{first:?}");
        let _ = sender.push(&[2]).map(|_| sender.flush());
        if let Ok(Some(mut place)) = sender.reserve(1) {
            place[0] = 3;
            place.commit();
        }
    });
    let takes = Process::new("receiver", |me: &Me| {
        let Ok(mut receiver) = world.queue.receiver(world.member(me)) else { return };
        if let Ok(Some(record)) = receiver.try_recv() {
            assert_eq!(*record, [1]);
            record.put_back();
        }
        for _ in 0..2 {
            if let Ok(Some(record)) = receiver.try_recv() {
                me.say(record[0].into());
            }
        }
    });
    // It has no role while somebody has, dead or alive, whose death is not certain.
    let steals = Process::new("third", |me: &Me| {
        let one = world.queue.sender(world.member(me)).map(drop);
        let two = world.queue.receiver(world.member(me)).map(drop);
        for end in [one, two] {
            assert!(matches!(end, Ok(()) | Err(AttachError::Taken { .. })), "{end:?}");
        }
    });
    let scenario = scenario("calls that do not wait").deaths(1).preemptions_at_most(1);
    let scenario = scenario.process(tries.mortal().never_waits());
    let scenario = scenario.process(takes.mortal().never_waits());
    let order = |end: &End<'_>| assert!(end.said(1).is_sorted_by(|a, b| a < b), "{end:?}");
    scenario.process(steals.never_waits()).check(order).explore();
}

#[test]
fn calls_with_a_limit_end() {
    let (world, past) = (World::given(2, 0, 1, 1), Instant::now());
    let sends = Process::new("sender", |me: &Me| {
        let mut sender = world.sender(me);
        for number in [1, 2] {
            match sender.send_deadline(&[number], past) {
                Ok(()) => me.say(number.into()),
                Err(SendError::TimedOut) if number == 2 => {}
                Err(SendError::Detached | SendError::PeerDied) => return,
                Err(other) => panic!("{other}"),
            }
        }
    });
    let takes = Process::new("receiver", |me: &Me| {
        let mut receiver = world.receiver(me);
        for _ in 0..2 {
            match receiver.recv_deadline(past) {
                Ok(record) => me.say(record[0].into()),
                Err(RecvError::TimedOut | RecvError::Detached | RecvError::PeerDied) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    let scenario = scenario("calls with a limit").deaths(1).preemptions_at_most(1);
    let scenario = scenario.process(sends.mortal()).process(takes.mortal());
    let order = |end: &End<'_>| assert!(end.said(1).is_sorted_by(|a, b| a < b), "{end:?}");
    scenario.check(order).explore();
}

/// A queue that others have used, and in whose roles they died.
fn inherited() -> World {
    let world = world(4, 1, 1);
    let dies = |pid, acts: &dyn Fn(&Arc<Member>)| {
        kernel::become_process(pid);
        let member = world.members[0].table().join().unwrap();
        acts(&member);
        std::mem::forget(member);
        kernel::end_process(pid);
        kernel::become_process(kernel::BUILDER);
    };
    dies(50, &|member| {
        let mut sender = world.queue.sender(member).unwrap();
        sender.send(&[1]).unwrap();
        sender.send(&[2; 9]).unwrap();
        std::mem::forget(sender);
    });
    dies(51, &|member| {
        let mut receiver = world.queue.receiver(member).unwrap();
        drop(receiver.recv().unwrap());
        std::mem::forget(receiver);
    });
    let receiver = &world.members[1];
    world.queue.set_receiver(receiver, receiver.id()).unwrap();
    world
}

/// Each side is told lies: about roles, positions, marks, headers, bytes, and the head of it all.
fn lies_to<T: OneMapping>(level: &str) {
    let lies = if is_deep() { 2 } else { 1 };
    for (what, world, lengths) in
        [("new", World::given(2, 0, 1, 1), [1, 0]), ("inherited", inherited(), [9, 2])]
    {
        let attach = || Some(Queue::attach(&world.mapping, world.at, 0).ok()?.with_peers::<T>());
        let sends = Process::new("sender", |me| {
            let Some(queue) = attach() else { return };
            let Ok(mut sender) = queue.sender(world.member(me)) else { return };
            for length in lengths {
                if sender.send(&vec![7; length]).is_err() {
                    return;
                }
            }
        });
        let receives = Process::new("receiver", |me| {
            let Some(queue) = attach() else { return };
            let Ok(mut receiver) = queue.receiver(world.member(me)) else { return };
            for _ in lengths {
                match receiver.recv() {
                    Ok(record) => assert!(record.len() as u64 <= 4 * LINE_BYTES),
                    Err(_) => return,
                }
            }
        });
        let name = format!("{level} peers, a queue that is {what}, {lies} lies");
        let scenario = scenario(&name).lies(lies).preemptions_at_most(u32::from(what != "new"));
        scenario.process(sends).process(receives).may_all_wait(|_| ()).explore();
    }
}

#[test]
fn a_lie_of_a_crashing_peer_does_no_harm() {
    lies_to::<Crashing>("crashing");
}

#[test]
fn a_lie_of_a_buggy_peer_does_no_harm() {
    lies_to::<Buggy>("buggy");
}

/// Planted bug: a sender that publishes a record before it has put the end behind it, in short. In
/// the next line stands a header of the round before.
#[test]
fn finds_an_end_put_too_late() {
    let mapping = Mapping::heap(16);
    let headers = MappedSlice::<AtomicU64>::new(&mapping, 0, 2).unwrap();
    headers[1].store(1, Relaxed);
    let sends = Process::new("sender", |_| {
        headers[0].store(2, Relaxed);
        headers[1].store(0, Relaxed);
    });
    let receives = Process::new("receiver", |_| {
        if headers[0].load(Relaxed) == 2 {
            assert_eq!(headers[1].load(Relaxed), 0, "received twice");
        }
    });
    let scenario = || scenario("an end in short").process(sends).process(receives).explore();
    finds("received twice", scenario);
}

/// Planted bug: one that says how far it is before the mark does, in short.
#[test]
fn finds_a_mark_told_too_late() {
    let mapping = Mapping::heap(16);
    let words = MappedSlice::<AtomicU64>::new(&mapping, 0, 2).unwrap();
    let tells = Process::new("receiver", |_| {
        words[0].store(1, Relaxed);
        words[1].store(1, Relaxed);
    });
    let goes_on = Process::new("successor", |_| {
        dies(1);
        assert_eq!(words[0].load(Relaxed), words[1].load(Relaxed), "no mark of it");
    });
    let scenario = || {
        let scenario = scenario("a mark in short").deaths(1).process(tells.mortal());
        scenario.process(goes_on).may_all_wait(|_| ()).explore()
    };
    finds("no mark of it", scenario);
}
