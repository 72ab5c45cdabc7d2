//! `WaitSet` under the explorer: one waits for two queues whose senders die anywhere. What is
//! ready is said to be ready, and nothing else; no wake-up is lost; lies do no harm.
//!
//! Senders are processes 1 and 2, who waits is process 3.
#![cfg(shm_explore)]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sealed::Doorbell;
use shm_core::trust::Hostile;
use shm_mq::spsc::explored::Hostiles;
use shm_mq::spsc::{LINE_BYTES, Queue, Receiver, RecvError, SendError};
use shm_mq::waitset::{Alarm, Source, WaitSet};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, kernel};
use std::sync::Arc;
use std::time::Instant;

struct World {
    queues: [Queue; 2],
    /// Of process 2, to process 3.
    hostile: Hostiles,
    members: [Arc<Member>; 3],
}

fn world() -> World {
    let (at, ring) = (Table::bytes_for(4).next_multiple_of(64), 2 * LINE_BYTES);
    let bytes = Queue::bytes_for(ring).next_multiple_of(64);
    let mapping = Mapping::heap((at + 2 * bytes) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    // SAFETY: as above, and each ends before the next.
    let queues = [0, bytes].map(|place| unsafe { Queue::create(&mapping, at + place, ring, 0) });
    let queues = queues.map(Result::unwrap);
    let members = [1, 2, 3].map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    for (queue, member) in queues.iter().zip(&members) {
        queue.set_sender(&members[2], member.id()).unwrap();
        queue.set_receiver(&members[2], members[2].id()).unwrap();
    }
    kernel::become_process(kernel::BUILDER);
    World { queues, hostile: Hostiles::new(2).unwrap(), members }
}

/// Sends so many records to its queue, and says each that was taken.
fn sends(world: &World, number: usize, count: u64) -> Process<'_> {
    Process::new("sender", move |me: &Me| {
        let mut sender = world.queues[number].sender(&world.members[number]).unwrap();
        for record in 0..count {
            match sender.send(&[record as u8]) {
                Ok(()) => me.say(record),
                Err(SendError::Detached | SendError::PeerDied) => return,
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// Receives what is ready until both have ended; says each record, and queue.
fn waits(world: &World, queues: usize) -> Process<'_> {
    Process::new("waits", move |me: &Me| {
        let receiver = |number: usize| world.queues[number].receiver(&world.members[2]).unwrap();
        let mut receivers: Vec<_> = (0..queues).map(|number| (number, receiver(number))).collect();
        let mut set = WaitSet::new();
        while !receivers.is_empty() {
            let mut sources: Vec<(usize, &mut dyn Source)> = Vec::new();
            for (number, receiver) in &mut receivers {
                sources.push((*number, receiver));
            }
            let ready = set.wait(&mut sources, None).unwrap();
            assert!(!ready.is_empty(), "nothing woke it");
            receivers.retain_mut(|(number, receiver)| {
                if !ready.contains(number) {
                    return true;
                }
                match receiver.try_recv() {
                    Ok(Some(record)) => me.say(*number as u64 * 100 + u64::from(record[0])),
                    Ok(None) => panic!("it was said to be ready"),
                    Err(RecvError::PeerDied | RecvError::Detached) => return false,
                    Err(other) => panic!("{other}"),
                }
                true
            });
        }
    })
}

/// All that was acknowledged was received, in its order, and from the living all.
fn all_is_received(end: &End<'_>) {
    for number in 0..2 {
        let sent = end.said(number).len() as u64;
        let received = end.said(2).iter().filter(|said| **said / 100 == number as u64);
        let received: Vec<u64> = received.map(|said| said % 100).collect();
        let most = sent + u64::from(end.is_dead(number));
        assert!(received.iter().copied().eq(0..received.len() as u64), "{end:?}");
        assert!((sent..=most).contains(&(received.len() as u64)), "{end:?}");
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("waitset", name).alone_at_most(3000).states_at_most(50_000)
}

#[test]
fn senders_of_two_queues_may_die_anywhere() {
    for (deaths, records, most) in [(2, [1, 1], 2), (1, [2, 1], 1)] {
        let world = world();
        let name = format!("two queues, {records:?} records, {deaths} deaths");
        let scenario = scenario(&name).deaths(deaths).preemptions_at_most(most);
        let scenario = scenario.process(sends(&world, 0, records[0]).mortal());
        let scenario = scenario.process(sends(&world, 1, records[1]).mortal());
        scenario.process(waits(&world, 2)).check(all_is_received).explore();
    }
}

/// Who waits for two may die anywhere: the senders send what there is room for.
#[test]
fn who_waits_may_die_anywhere() {
    let world = world();
    let scenario = scenario("who waits dies").deaths(1).preemptions_at_most(1);
    let scenario = scenario.process(sends(&world, 0, 1)).process(sends(&world, 1, 1));
    scenario.process(waits(&world, 2).mortal()).explore();
}

/// With a deadline it ends, whoever stands still.
#[test]
fn a_wait_with_a_deadline_ends() {
    let (world, past) = (world(), Instant::now());
    let looks = Process::new("waits", |me: &Me| {
        let [mut one, mut other] =
            [0, 1].map(|number| world.queues[number].receiver(&world.members[2]).unwrap());
        let (mut set, mut never) = (WaitSet::new(), Alarm::never());
        let sources: &mut [(u64, &mut dyn Source)] =
            &mut [(0, &mut one), (1, &mut other), (2, &mut never)];
        for key in set.wait(sources, Some(past)).unwrap() {
            me.say(key);
        }
    });
    let scenario = scenario("a deadline").deaths(2).preemptions_at_most(2);
    let scenario = scenario.process(sends(&world, 0, 1).mortal());
    let scenario = scenario.process(sends(&world, 1, 1).mortal()).process(looks);
    scenario.check(|end| assert!(end.said(2).iter().all(|key| *key < 2))).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world();
    let lied_to = Process::new("waits", |_: &Me| {
        let Ok(mut one) = world.queues[0].receiver(&world.members[2]) else { return };
        let Ok(mut other) = world.queues[1].receiver(&world.members[2]) else { return };
        let mut set = WaitSet::new();
        let sources: &mut [(u64, &mut dyn Source)] = &mut [(0, &mut one), (1, &mut other)];
        for key in set.wait(sources, None).unwrap() {
            let _ = if key == 0 { one.try_recv() } else { other.try_recv() };
        }
    });
    let sends = |number: usize| {
        let world = &world;
        Process::new("sender", move |_: &Me| {
            let Ok(mut sender) = world.queues[number].sender(&world.members[number]) else {
                return;
            };
            let _ = sender.try_send(&[1]);
        })
    };
    let scenario = scenario("lies").lies(1).preemptions_at_most(1);
    let scenario = scenario.process(sends(0)).process(sends(1)).process(lied_to);
    scenario.may_all_wait(|_| ()).explore();
}

/// Planted bug: of two queues only the first one's sender is watched.
#[test]
fn finds_a_source_that_names_no_peers() {
    struct Unwatched<'r>(&'r mut Receiver);
    impl Source for Unwatched<'_> {
        fn is_ready(&mut self) -> bool {
            self.0.is_ready()
        }
        fn bed(&self) -> Option<&shm_core::event::EventCount> {
            self.0.bed()
        }
    }
    let world = world();
    let waits = Process::new("waits", |_: &Me| {
        let [mut one, mut other] =
            [0, 1].map(|number| world.queues[number].receiver(&world.members[2]).unwrap());
        let mut other = Unwatched(&mut other);
        let sources: &mut [(u64, &mut dyn Source)] = &mut [(0, &mut one), (1, &mut other)];
        WaitSet::new().wait(sources, None).unwrap();
    });
    let dies = sends(&world, 1, 1).mortal();
    let stands = Process::new("silent", |_: &Me| {});
    let scenario =
        || scenario("unwatched").deaths(1).process(stands).process(dies).process(waits).explore();
    finds("wait", scenario);
}

/// Sends so many records to its hostile queue, and says each that was taken.
fn stranger_sends(world: &World, count: u64) -> Process<'_> {
    Process::new("stranger", move |me: &Me| {
        let mut sender = world.hostile.sender(3);
        for record in 0..count {
            match sender.send(&[record as u8]) {
                Ok(()) => me.say(record),
                Err(SendError::Detached | SendError::PeerDied) => return,
                Err(SendError::Corrupt) => return assert!(is_after_a_lie()),
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// What became of a receiver that was said to be ready; `None`: it has ended.
fn taken<R>(received: Result<Option<R>, RecvError>, number: impl Fn(&R) -> u64) -> Option<u64> {
    match received {
        Ok(Some(record)) => Some(number(&record)),
        Err(RecvError::PeerDied | RecvError::Detached) => None,
        other => {
            let what = other.err();
            assert!(is_after_a_lie(), "it was said to be ready: {what:?}");
            None
        }
    }
}

/// Receives from one that it trusts and from a stranger until both have ended; says each record.
fn waits_for_both(world: &World) -> Process<'_> {
    Process::new("waits", move |me: &Me| {
        let Ok(trusting) = world.queues[0].receiver(&world.members[2]) else { return };
        let (mut trusting, mut hostile) = (Some(trusting), Some(world.hostile.receiver(2)));
        let mut set = WaitSet::new();
        // A liar may send without end.
        for _ in 0..8 {
            let mut sources: Vec<(u64, &mut dyn Source)> = Vec::new();
            sources.extend(trusting.iter_mut().map(|end| (0, end as &mut dyn Source)));
            sources.extend(hostile.iter_mut().map(|end| (1, end as &mut dyn Source)));
            if sources.is_empty() {
                return;
            }
            for key in set.wait(&mut sources, None).unwrap() {
                let number = if key == 0 {
                    let end = trusting.as_mut().expect("it was in the set");
                    taken(end.try_recv(), |record| record.number())
                } else {
                    let end = hostile.as_mut().expect("it was in the set");
                    taken(end.try_recv(), |record| record.number())
                };
                match number {
                    Some(number) => me.say(key * 100 + number),
                    None if key == 0 => trusting = None,
                    None => hostile = None,
                }
            }
        }
    })
}

#[test]
fn a_stranger_among_others_may_die_anywhere() {
    let world = world();
    let scenario = scenario("a stranger among others").deaths(2).preemptions_at_most(1);
    let scenario = scenario.process(sends(&world, 0, 1).mortal());
    let scenario = scenario.process(stranger_sends(&world, 1).mortal());
    scenario.process(waits_for_both(&world)).check(all_is_received).explore();
}

#[test]
fn a_strangers_lie_does_no_harm() {
    let world = world();
    let scenario = scenario("a stranger lies").lies(1).preemptions_at_most(1);
    let sends = Process::new("sender", |_: &Me| {
        let Ok(mut sender) = world.queues[0].sender(&world.members[0]) else { return };
        let _ = sender.try_send(&[0]);
    });
    let scenario = scenario.process(sends).process(stranger_sends(&world, 1));
    scenario.process(waits_for_both(&world)).may_all_wait(|_| ()).explore();
}

/// Planted bug: the stranger is not told that somebody sleeps.
#[test]
fn finds_a_source_that_does_not_announce_itself() {
    struct Mute(Receiver<Hostile>);
    impl Source for Mute {
        fn is_ready(&mut self) -> bool {
            self.0.is_ready()
        }
        fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
            self.0.doorbells(to);
        }
    }
    let world = world();
    let stranger = Process::new("stranger", |_: &Me| {
        let mut sender = world.hostile.sender(3);
        sender.send(&[0]).unwrap();
        std::mem::forget(sender);
    });
    let waits = Process::new("waits", |_: &Me| {
        let mut mute = Mute(world.hostile.receiver(2));
        WaitSet::new().wait(&mut [((), &mut mute)], None).unwrap();
    });
    let stands = || Process::new("silent", |_: &Me| {});
    finds("wait", || scenario("mute").process(stands()).process(stranger).process(waits).explore());
}
