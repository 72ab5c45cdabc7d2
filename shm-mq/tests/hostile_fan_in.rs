//! A fan-in that lies, before a process attaches and while it is used: each call ends, sleepers
//! obey their deadline, errors are those that the call may have, no record is longer than one can
//! be, or changes once it was received, and nothing but the fan-in's bytes is touched. And one that
//! lies about its own lane harms no other.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::fan_in::{
    AttachError, Event, FanIn, FanInConfig, JoinError, LaneState, Receiver, RecvError, SendError,
    Sender, Why,
};
use shm_mq::stream::OneMapping;
use shm_testkit::liar::{Liar, Lie, Random, Scribbler, Trials};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONFIG: FanInConfig = FanInConfig::new(3, 512);
const BYTES: usize = FanIn::bytes_for(&CONFIG) as usize;
const LONGEST: usize = FanIn::record_bytes_max(&CONFIG) as usize;
const HEAD: usize = 256;
const LANE: usize = (BYTES - HEAD) / 3;

fn more(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// Senders and a receiver, in a table that is honest, and what came of their calls.
struct World {
    members: [Arc<Member>; 3],
    sent: Cell<u64>,
    received: Cell<u64>,
    ends: Cell<u64>,
    corrupt: Cell<u64>,
}

impl World {
    fn new() -> World {
        let mapping = Mapping::heap(Table::bytes_for(3) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
        let members = [(); 3].map(|()| table.join().unwrap());
        let (sent, received, ends, corrupt) = Default::default();
        World { members, sent, received, ends, corrupt }
    }

    /// What a fan-in holds in the course of its life: nothing yet, lanes that are given, in use,
    /// left and used again, records of one line and of several.
    fn images(&self) -> Vec<Vec<u8>> {
        let (block, mapping) = guarded(&[0; BYTES], 0);
        let [one, other, receiver] = &self.members;
        // SAFETY: nobody else has the mapping.
        let fan_in = unsafe { FanIn::create(&mapping, 0, &CONFIG) }.unwrap();
        let mut images = vec![block.outside().read()];
        fan_in.set_sender(one, other.id()).unwrap();
        fan_in.set_receiver(one, receiver.id()).unwrap();
        images.push(block.outside().read());
        for len in [5, LONGEST, 0, 100, 200, 56, LONGEST] {
            let mut senders = [one, other].map(|member| fan_in.sender(member).unwrap());
            let mut receiver = fan_in.receiver(receiver).unwrap();
            for sender in &mut senders {
                assert!(sender.try_send(&vec![1; len]).unwrap());
            }
            images.push(block.outside().read());
            drop(senders);
            images.push(block.outside().read());
            while receiver.try_recv().unwrap().is_some() {}
        }
        images.push(block.outside().read());
        images
    }

    fn liar(&self, seed: u64, images: &[Vec<u8>]) -> Liar {
        let [one, other, receiver] = &self.members;
        let seats = [one, other, receiver].map(|member| u64::from(member.id().to_bits()));
        let seats = (0..7).flat_map(|state| seats.map(|id| state << 32 | id));
        let headers = (0..8_u64).flat_map(|number| {
            let lens = [1, 6, 57, 58, LONGEST as u64 + 1, LONGEST as u64 + 2, 0xffff_fffe];
            lens.into_iter().chain([0xffff_ffff]).map(move |len| number << 32 | len)
        });
        let mut values: Vec<u64> = headers.chain(seats).collect();
        values.extend([0, 1, 2, 7, 8, 9, u64::MAX, u64::MAX - 7, 1 << 63, u64::MAX / 64]);
        let liar = Liar::new(seed, &images[seed as usize % images.len()]);
        let liar = liar.with_images(images).with_values(&values);
        match seed % 4 {
            0 => liar,
            // A lane, and the words of all but for the beginning, which hides what follows.
            1 => liar.about(HEAD..HEAD + LANE),
            2 => liar.about(32..HEAD),
            _ => liar.about(32..BYTES),
        }
    }

    /// Every call there is; whether the fan-in could be attached.
    fn use_it<T: OneMapping>(&self, trials: &Trials, seed: u64, mapping: &Arc<Mapping>) -> bool {
        let attached = trials.call(seed, "attach", || FanIn::attach(mapping, 0, 0));
        let Some(Ok(fan_in)) = attached else { return false };
        let [one, other, receiver] = &self.members;
        let given = trials.call(seed, "set_sender", || fan_in.set_sender(one, other.id()));
        self.is_joined(trials, seed, given);
        let given = trials.call(seed, "set_receiver", || fan_in.set_receiver(one, receiver.id()));
        self.is_taken(trials, seed, given);
        let fan_in = fan_in.with_peers::<T>();
        let mut senders = [one, other].map(|member| {
            let sender = trials.call(seed, "sender", || fan_in.sender(member));
            self.is_joined(trials, seed, sender)
        });
        let receiver = trials.call(seed, "receiver", || fan_in.receiver(receiver));
        let mut receiver = self.is_taken(trials, seed, receiver);
        let mut random = Random::new(seed);
        for _ in 0..10 {
            for sender in senders.iter_mut().flatten() {
                self.send(trials, seed, sender, random.word());
            }
            if let Some(receiver) = &mut receiver {
                self.receive(trials, seed, receiver, random.word());
            }
            if random.word().is_multiple_of(8) {
                let at = random.word() as usize % 2;
                let gone = senders[at].take();
                trials.call(seed, "drop sender", || drop(gone));
                let sender = trials.call(seed, "sender", || fan_in.sender(&self.members[at]));
                senders[at] = self.is_joined(trials, seed, sender);
            }
        }
        trials.call(seed, "status", || fan_in.status());
        trials.call(seed, "drop senders", || drop(senders));
        trials.call(seed, "drop receiver", || drop(receiver));
        true
    }

    fn is_taken<R>(
        &self,
        trials: &Trials,
        seed: u64,
        end: Option<Result<R, AttachError>>,
    ) -> Option<R> {
        match end? {
            Ok(taken) => return Some(taken),
            Err(AttachError::Taken { .. } | AttachError::OpenAlready | AttachError::Restless) => {}
            Err(other) => trials.find(seed, "the role", &format!("{other}")),
        }
        None
    }

    fn is_joined<R>(
        &self,
        trials: &Trials,
        seed: u64,
        end: Option<Result<R, JoinError>>,
    ) -> Option<R> {
        match end? {
            Ok(joined) => return Some(joined),
            Err(JoinError::AllTaken { .. }) => {}
            Err(JoinError::Corrupt) => more(&self.corrupt),
            Err(other) => trials.find(seed, "a lane", &format!("{other}")),
        }
        None
    }

    fn send<T: OneMapping>(&self, trials: &Trials, seed: u64, sender: &mut Sender<T>, random: u64) {
        let bytes = [0xa5; LONGEST];
        let record = &bytes[..(random >> 32) as usize & 127];
        let waits = random >> 8 & 7 == 6;
        let call = if waits { "send_deadline" } else { "try_send" };
        let end = trials.call(seed, call, || {
            if waits {
                sender.send_deadline(record, soon())
            } else {
                sender.try_send(record).map(drop)
            }
        });
        match end {
            None | Some(Err(SendError::Detached)) => {}
            Some(Ok(())) => more(&self.sent),
            Some(Err(SendError::TimedOut | SendError::PeerDied)) if waits => {}
            Some(Err(SendError::Corrupt)) => {
                more(&self.corrupt);
                let stays = trials.call(seed, "try_send", || sender.try_send(b""));
                let stays = stays == Some(Err(SendError::Corrupt));
                trials.check(seed, "try_send", stays, "was corrupt, and is not any more");
            }
            Some(Err(other)) => trials.find(seed, call, &format!("{other}")),
        }
    }

    fn receive<T: OneMapping>(
        &self,
        trials: &Trials,
        seed: u64,
        receiver: &mut Receiver<T>,
        random: u64,
    ) {
        let look = |event: Event<'_, T>| {
            match &event {
                Event::Record(record) => {
                    assert!(record.len() <= LONGEST, "a record of {} bytes", record.len());
                    let before = record.to_vec();
                    assert_eq!(**record, *before, "it changed");
                    more(&self.received);
                }
                Event::End(end) if end.why() == Why::Corrupt => more(&self.corrupt),
                Event::End(_) => more(&self.ends),
            }
            if random >> 16 & 7 == 0 {
                event.put_back();
            }
        };
        let call = ["try_recv", "recv_deadline", "drain"][(random >> 8) as usize % 3];
        let end = trials.call(seed, call, || match call {
            "try_recv" => receiver.try_recv().map(|event| event.map_or((), look)),
            "drain" => receiver.drain(3, look).map(drop),
            _ => receiver.recv_deadline(soon()).map(look),
        });
        match end {
            None | Some(Ok(())) => {}
            Some(Err(RecvError::TimedOut)) if call == "recv_deadline" => {}
            Some(Err(other)) => trials.find(seed, call, &format!("{other}")),
        }
    }

    /// Both values and lies that were found out came of it.
    fn finish(&self, trials: Trials, attached: u64) {
        let [sent, received, ends, corrupt] =
            [&self.sent, &self.received, &self.ends, &self.corrupt].map(Cell::get);
        println!(
            "attached {attached}, sent {sent}, received {received}, ends {ends}, corrupt {corrupt}"
        );
        trials.finish();
        assert!(attached.min(sent) > 10 && corrupt > 2);
        // Under one who scribbles few stay whole.
        assert!(received > 0);
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_micros(100)
}

fn lied_to_before<T: OneMapping>(name: &'static str) {
    let (trials, world) = (Trials::new(name, LIMIT), World::new());
    let (images, mut attached) = (world.images(), 0);
    for seed in trials.seeds(1000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut world.liar(seed, &images), seed / 4 % 5);
        attached += u64::from(world.use_it::<T>(&trials, seed, &mapping));
        trials.check(seed, "fan-in", block.is_intact(), "wrote beside the fan-in");
    }
    world.finish(trials, attached);
}

#[test]
fn a_fan_in_of_lies_is_used_or_refused() {
    lied_to_before::<Crashing>("fan_in, before, crashing");
    lied_to_before::<Buggy>("fan_in, before, buggy");
}

#[test]
fn a_fan_in_that_changes_all_the_time_is_used_or_refused() {
    let (trials, world) = (Trials::new("fan_in, meanwhile", LIMIT), World::new());
    let (images, mut attached) = (world.images(), 0);
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = world.liar(seed, &images).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(400, || {
            attached += u64::from(world.use_it::<Buggy>(&trials, seed, &mapping));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "fan-in", block.is_intact(), "wrote beside the fan-in");
    }
    world.finish(trials, attached);
}

/// Though one lies in its own lane, and about all bits, the records of another one come all the
/// same, in order, and so does its end.
#[test]
fn one_that_lies_spoils_its_own_lane_only() {
    let (trials, world) = (Trials::new("fan_in, one lane", LIMIT), World::new());
    let (images, [honest, lies, receives]) = (world.images(), &world.members);
    let mut found_out = 0;
    for seed in trials.seeds(1000) {
        let (block, mapping) = guarded(&[0; BYTES], seed);
        // SAFETY: nobody else has the mapping.
        let fan_in = unsafe { FanIn::create(&mapping, 0, &CONFIG) }.unwrap().with_peers::<Buggy>();
        let mut honest = Some(fan_in.sender(honest).unwrap());
        let mut liar_has = fan_in.sender(lies).unwrap();
        let mut receiver = fan_in.receiver(receives).unwrap();
        let lane = HEAD + LANE..HEAD + 2 * LANE;
        let bits = 136..HEAD;
        let about = if seed.is_multiple_of(4) { bits } else { lane };
        let mut liar = Liar::new(seed, &images[seed as usize % images.len()]).with_images(&images);
        liar = liar.about(about);
        let (mut random, mut sent, mut received) = (Random::new(seed), 0_u64, 0_u64);
        let mut end_of_honest = None;
        for round in 0..60 {
            if random.word().is_multiple_of(4) {
                // One that reaches into another lane is not what this is about.
                let lie = liar.next_lie();
                if !matches!(lie, Lie::Swap { .. }) {
                    liar.tell(&lie, &block.outside());
                    trials.add(1);
                }
            }
            let _ = liar_has.try_send(b"of the liar");
            match &mut honest {
                Some(sender) if round < 40 => {
                    sent += u64::from(sender.try_send(&sent.to_ne_bytes()) == Ok(true));
                }
                _ => honest = None,
            }
            let event = trials.call(seed, "try_recv", || receiver.try_recv());
            match event {
                Some(Ok(Some(Event::Record(record)))) if record.lane() == 0 => {
                    let is_it = *record == received.to_ne_bytes();
                    trials.check(seed, "try_recv", is_it, "another's record is torn");
                    received += 1;
                }
                Some(Ok(Some(Event::End(end)))) if end.lane() == 0 => {
                    end_of_honest = Some((end.why(), end.received()));
                }
                Some(Ok(Some(Event::End(end)))) => {
                    found_out += u64::from(end.why() == Why::Corrupt);
                }
                _ => {}
            }
        }
        // What is left.
        for _ in 0..400 {
            match receiver.try_recv() {
                Ok(Some(Event::Record(record))) if record.lane() == 0 => received += 1,
                Ok(Some(Event::End(end))) if end.lane() == 0 => {
                    end_of_honest = Some((end.why(), end.received()));
                }
                _ => {}
            }
        }
        trials.check(seed, "try_recv", received == sent, "another's records are lost");
        let is_left = end_of_honest == Some((Why::Left, sent));
        trials.check(seed, "try_recv", is_left, "another's end is not told");
    }
    println!("found out {found_out} times");
    trials.finish();
    assert!(found_out > 100);
}

/// A fan-in of which each word can be written, and two who send.
struct Open {
    fan_in: FanIn<Buggy>,
    words: MappedSlice<AtomicU64>,
    members: [Arc<Member>; 3],
}

/// Words of a lane's head, counted from its beginning.
const SENDER: usize = 3;
const SENT: usize = 16;
const RELEASED: usize = 32;
const FIRST: usize = 48;

impl Open {
    fn new(ring_bytes: u64) -> Open {
        let config = FanInConfig::new(1, ring_bytes);
        let mapping = Mapping::heap(FanIn::bytes_for(&config) as usize);
        // SAFETY: nobody else has the mapping.
        let fan_in = unsafe { FanIn::create(&mapping, 0, &config) }.unwrap().with_peers();
        let count = FanIn::bytes_for(&config) / 8;
        let words = MappedSlice::new(&mapping, 0, count).unwrap();
        Open { fan_in, words, members: World::new().members }
    }

    /// A word of the one lane.
    fn word(&self, number: usize) -> &AtomicU64 {
        &self.words[HEAD / 8 + number]
    }

    fn lie(&self, number: usize, value: u64) {
        self.word(number).store(value, Ordering::Relaxed);
    }

    fn sender(&self, member: usize) -> Sender<Buggy> {
        self.fan_in.sender(&self.members[member]).unwrap()
    }

    fn receiver(&self) -> Receiver<Buggy> {
        self.fan_in.receiver(&self.members[2]).unwrap()
    }

    /// Receives until the lane is free: who ended, and how.
    fn ends(&self, receiver: &mut Receiver<Buggy>) -> Vec<(usize, Why)> {
        let mut ends = Vec::new();
        while self.fan_in.status()[0].state != LaneState::Free {
            if let Some(Event::End(end)) = receiver.try_recv().unwrap() {
                let is_its = |member: &Arc<Member>| member.id() == end.sender();
                ends.push((self.members.iter().position(is_its).unwrap(), end.why()));
            }
        }
        ends
    }
}

#[test]
fn who_was_dropped_is_told_by_its_next_call() {
    let open = Open::new(512);
    let (mut sender, mut receiver) = (open.sender(0), open.receiver());
    open.lie(FIRST, u64::MAX / 2);
    let Ok(Event::End(end)) = receiver.recv() else { panic!("nonsense") };
    assert_eq!(end.why(), Why::Corrupt);
    drop(end);
    assert_eq!(sender.try_send(b"in vain"), Err(SendError::Corrupt));
    drop(sender);
    assert_eq!(open.ends(&mut receiver), [], "it was told");
    assert_eq!(open.sender(1).try_send(b"clean"), Ok(true));
}

#[test]
fn who_is_given_a_liars_lane_keeps_it_and_has_its_end() {
    let open = Open::new(512);
    let (_liar_has, mut receiver) = (open.sender(0), open.receiver());
    assert!(receiver.try_recv().unwrap().is_none(), "it is known");
    open.lie(SENDER, 0);
    let (mut honest, id) = (open.sender(1), open.members[1].id());
    let Ok(Event::End(end)) = receiver.recv() else { panic!("its lane is not its any more") };
    assert_eq!((end.sender(), end.why()), (open.members[0].id(), Why::Corrupt));
    drop(end);
    assert_eq!(open.fan_in.status()[0].state, LaneState::Open(id));
    assert_eq!(honest.try_send(b"honest"), Ok(true));
    let Ok(Event::Record(got)) = receiver.recv() else { panic!("it is lost") };
    assert_eq!((got.sender(), &*got), (id, b"honest".as_slice()));
    drop(got);
    drop(honest);
    assert_eq!(open.ends(&mut receiver), [(1, Why::Left)]);
}

#[test]
fn nonsense_in_a_free_lane_is_left_once_and_mended() {
    let open = Open::new(512);
    let mut receiver = open.receiver();
    open.lie(SENT, 7);
    let joined = open.fan_in.sender(&open.members[0]).err();
    assert_eq!(joined, Some(JoinError::Corrupt));
    assert_eq!(open.ends(&mut receiver), [(0, Why::Left)]);
    assert_eq!(open.sender(1).try_send(b"clean"), Ok(true));
}

/// A liar that has left its lane has left nothing in it that spoils the next one's records, be the
/// receiver replaced in the midst of them: not in the mark that is not in use, and not a position
/// from which on they would begin anew.
#[test]
fn no_lie_outlives_its_liar() {
    let lies = [(0, None), (1, None), (0, Some(u64::MAX - 19)), (1, Some(u64::MAX - 199))];
    // The marks are written in turn.
    for (count, (mark, lie)) in [1, 2].into_iter().flat_map(|count| lies.map(|lie| (count, lie))) {
        let open = Open::new(9 * 64);
        let (mut liar_has, mut receiver) = (open.sender(0), open.receiver());
        for _ in 0..count {
            assert_eq!(liar_has.try_send(b"true"), Ok(true));
            drop(receiver.recv().unwrap());
        }
        let begin = open.word(RELEASED).load(Ordering::Relaxed) + 9 * 8;
        let [position, records] = [1 + 2 * mark, 2 + 2 * mark].map(|word| RELEASED + word);
        open.lie(position, lie.unwrap_or(begin));
        open.lie(records, 666);
        if let Some(position) = lie {
            open.lie(RELEASED, position);
            drop(receiver);
            receiver = open.receiver();
        }
        drop(liar_has);
        assert_eq!(open.ends(&mut receiver).len(), 1);
        let mut honest = open.sender(1);
        for number in 0..40 {
            drop(receiver);
            receiver = open.receiver();
            assert_eq!(honest.try_send(&[number; 56]), Ok(true));
            let Event::Record(got) = receiver.recv().unwrap() else { panic!("spoiled") };
            assert_eq!((got.number(), &*got), (number.into(), &[number; 56][..]));
        }
    }
}
