//! A queue of records that lies, before a process attaches and while both sides use it: each call
//! ends, sleepers obey their deadline, errors are those that the call may have, nonsense stays
//! `Corrupt`, no record is longer than one can be, or changes once it was received, and nothing
//! but the queue's bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::spsc::{AttachError, Queue, Receiver, Record, RecvError, SendError, Sender};
use shm_mq::stream::OneMapping;
use shm_testkit::liar::{Liar, Random, Scribbler, Trials};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RING_BYTES: u64 = 512;
const BYTES: usize = Queue::bytes_for(RING_BYTES) as usize;
const LONGEST: usize = Queue::record_bytes_max(RING_BYTES) as usize;
/// Where the ring begins, and which bytes the lines of one record cannot do without.
const RING_AT: usize = BYTES - RING_BYTES as usize;

/// A sender and a receiver, in a table that is honest, and what came of their calls.
struct World {
    sender: Arc<Member>,
    receiver: Arc<Member>,
    sent: Cell<u64>,
    received: Cell<u64>,
    corrupt: Cell<u64>,
}

fn more(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl World {
    fn new() -> World {
        let mapping = Mapping::heap(Table::bytes_for(2) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
        let (sender, receiver) = (table.join().unwrap(), table.join().unwrap());
        let (sent, received, corrupt) = Default::default();
        World { sender, receiver, sent, received, corrupt }
    }

    /// What a queue holds in the course of its life: nothing yet, records of one line and of
    /// several, also around the end of the ring; and roles that are free, given and left.
    fn images(&self) -> Vec<Vec<u8>> {
        let (block, mapping) = guarded(&[0; BYTES], 0);
        // SAFETY: nobody else has the mapping.
        let queue = unsafe { Queue::create(&mapping, 0, RING_BYTES, 0) }.unwrap();
        let mut images = vec![block.outside().read()];
        queue.set_sender(&self.receiver, self.sender.id()).unwrap();
        queue.set_receiver(&self.sender, self.receiver.id()).unwrap();
        images.push(block.outside().read());
        for len in [5, LONGEST, 0, 100, 200, 56, LONGEST] {
            let mut sender = queue.sender(&self.sender).unwrap();
            let mut receiver = queue.receiver(&self.receiver).unwrap();
            assert!(sender.try_send(&vec![1; len]).unwrap());
            drop(sender);
            images.push(block.outside().read());
            assert_eq!(receiver.recv().unwrap().len(), len);
        }
        images.push(block.outside().read());
        images
    }

    fn liar(&self, seed: u64, images: &[Vec<u8>]) -> Liar {
        let seat = |state: u64, member: &Member| state << 32 | u64::from(member.id().to_bits());
        let records = 0..8_u64;
        let headers = records.flat_map(|number| {
            let lens = [1, 6, 57, 58, LONGEST as u64 + 1, LONGEST as u64 + 2, 0xffff_fffe];
            lens.into_iter().chain([0xffff_ffff]).map(move |len| number << 32 | len)
        });
        let mut values: Vec<u64> = headers.collect();
        values.extend([seat(1, &self.sender), seat(2, &self.sender), seat(3, &self.sender)]);
        values.extend([seat(1, &self.receiver), seat(2, &self.receiver), seat(3, &self.receiver)]);
        values.extend([0, 1, 2, 7, 8, 9, u64::MAX, u64::MAX - 7, 1 << 63, u64::MAX / 64]);
        let liar = Liar::new(seed, &images[seed as usize % images.len()]);
        let liar = liar.with_images(images).with_values(&values);
        match seed % 4 {
            0 => liar,
            1 => liar.about(RING_AT..BYTES),
            // The seats and how far the two are; but for the beginning, which hides what follows.
            2 => liar.about(24..RING_AT),
            _ => liar.about(24..BYTES),
        }
    }

    /// Every call there is; whether the queue could be attached.
    fn use_it<T: OneMapping>(&self, trials: &Trials, seed: u64, mapping: &Arc<Mapping>) -> bool {
        let attached = trials.call(seed, "attach", || Queue::attach(mapping, 0, 0));
        let Some(Ok(queue)) = attached else { return false };
        let (by, id) = (&self.receiver, self.sender.id());
        self.is_taken(trials, seed, trials.call(seed, "set_sender", || queue.set_sender(by, id)));
        let (by, id) = (&self.sender, self.receiver.id());
        let set = trials.call(seed, "set_receiver", || queue.set_receiver(by, id));
        self.is_taken(trials, seed, set);
        let queue = queue.with_peers::<T>();
        let sender = trials.call(seed, "sender", || queue.sender(&self.sender));
        let mut sender = self.is_taken(trials, seed, sender);
        let receiver = trials.call(seed, "receiver", || queue.receiver(&self.receiver));
        let mut receiver = self.is_taken(trials, seed, receiver);
        let mut random = Random::new(seed);
        for _ in 0..12 {
            if let Some(sender) = &mut sender {
                self.send(trials, seed, sender, random.word());
            }
            if let Some(receiver) = &mut receiver {
                self.receive(trials, seed, receiver, random.word());
            }
        }
        trials.call(seed, "drop sender", || drop(sender));
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
            Err(AttachError::Corrupt) => more(&self.corrupt),
            Err(AttachError::Taken { .. } | AttachError::OpenAlready | AttachError::Restless) => {}
            Err(other) => trials.find(seed, "a role", &format!("{other}")),
        }
        None
    }

    fn send<T: OneMapping>(&self, trials: &Trials, seed: u64, sender: &mut Sender<T>, random: u64) {
        let bytes = [0xa5; LONGEST + 1];
        let len = if random.is_multiple_of(8) { random >> 32 } else { random >> 32 & 127 };
        let len = len as usize % (LONGEST + 2);
        let record = &bytes[..len];
        let waits = random >> 8 & 7 == 6;
        let call = ["try_send", "push", "reserve", "flush"][random as usize >> 8 & 3];
        let end = if waits {
            trials.call(seed, "send_deadline", || sender.send_deadline(record, soon()))
        } else {
            trials.call(seed, call, || match call {
                "try_send" => sender.try_send(record).map(drop),
                "push" => sender.push(record).map(drop),
                "flush" => sender.flush(),
                _ => sender.reserve(len).map(|place| {
                    let Some(mut place) = place else { return };
                    assert_eq!(place.len(), len);
                    place.fill(0x5a);
                    if random >> 16 & 3 != 0 {
                        place.commit();
                    }
                }),
            })
        };
        match end {
            None | Some(Err(SendError::Detached)) => {}
            Some(Ok(())) => more(&self.sent),
            Some(Err(SendError::TooLong { len: its, .. })) if its == len && len > LONGEST => {}
            Some(Err(SendError::TimedOut | SendError::PeerDied)) if waits => {}
            Some(Err(SendError::Corrupt)) => {
                more(&self.corrupt);
                let stays = trials.call(seed, "try_send", || sender.try_send(b""));
                let stays = stays == Some(Err(SendError::Corrupt));
                trials.check(seed, "try_send", stays, "was corrupt, and is not any more");
                let stays = trials.call(seed, "send", || sender.send(b""));
                trials.check(seed, "send", stays == Some(Err(SendError::Corrupt)), "waits for it");
            }
            Some(Err(other)) => trials.find(seed, call, &format!("{other}")),
        }
        if random >> 20 & 15 == 0 {
            trials.call(seed, "wait_for_peer", || sender.wait_for_peer(Some(soon())));
        }
    }

    fn receive<T: OneMapping>(
        &self,
        trials: &Trials,
        seed: u64,
        receiver: &mut Receiver<T>,
        random: u64,
    ) {
        let look = |record: Record<'_, T>| {
            assert!(record.len() <= LONGEST, "a record of {} bytes", record.len());
            let before = record.to_vec();
            assert_eq!(*record, *before, "it changed");
            if random >> 16 & 7 == 0 {
                record.put_back();
            }
        };
        let waits = random >> 8 & 7 == 6;
        let call = if waits { "recv_deadline" } else { "try_recv" };
        let end = trials.call(seed, call, || {
            if waits {
                receiver.recv_deadline(soon()).map(look).map(Some)
            } else {
                receiver.try_recv().map(|record| record.map(look))
            }
        });
        match end {
            None | Some(Ok(None) | Err(RecvError::Detached | RecvError::PeerDied)) => {}
            Some(Ok(Some(()))) => more(&self.received),
            Some(Err(RecvError::TimedOut)) if waits => {}
            Some(Err(RecvError::Corrupt)) => {
                more(&self.corrupt);
                let stays = || receiver.try_recv().err() == Some(RecvError::Corrupt);
                let stays = trials.call(seed, "try_recv", stays) == Some(true);
                trials.check(seed, "try_recv", stays, "was corrupt, and is not any more");
                let stays = || receiver.recv().err() == Some(RecvError::Corrupt);
                let stays = trials.call(seed, "recv", stays) == Some(true);
                trials.check(seed, "recv", stays, "waits for it");
            }
            Some(Err(other)) => trials.find(seed, call, &format!("{other}")),
        }
        if random >> 20 & 15 == 0 {
            trials.call(seed, "wait_for_peer", || receiver.wait_for_peer(Some(soon())));
        }
    }

    /// Both values and lies that were found out came of it.
    fn finish(&self, trials: Trials, attached: u64) {
        let (sent, received) = (self.sent.get(), self.received.get());
        let corrupt = self.corrupt.get();
        println!("attached {attached}, sent {sent}, received {received}, corrupt {corrupt}");
        trials.finish();
        assert!(attached.min(sent).min(corrupt) > 10);
        // Under one who scribbles few records stay whole.
        assert!(received > 0);
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_micros(100)
}

fn lied_to_before<T: OneMapping>(name: &'static str) {
    let (trials, world) = (Trials::new(name, LIMIT), World::new());
    let (images, mut attached) = (world.images(), 0);
    for seed in trials.seeds(1200) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut world.liar(seed, &images), seed / 4 % 5);
        attached += u64::from(world.use_it::<T>(&trials, seed, &mapping));
        trials.check(seed, "queue", block.is_intact(), "wrote beside the queue");
    }
    world.finish(trials, attached);
}

#[test]
fn a_queue_of_lies_is_used_or_refused() {
    lied_to_before::<Crashing>("spsc, before, crashing");
    lied_to_before::<Buggy>("spsc, before, buggy");
}

#[test]
fn a_queue_that_changes_all_the_time_is_used_or_refused() {
    let (trials, world) = (Trials::new("spsc, meanwhile", LIMIT), World::new());
    let (images, mut attached) = (world.images(), 0);
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = world.liar(seed, &images).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(400, || {
            attached += u64::from(world.use_it::<Buggy>(&trials, seed, &mapping));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "queue", block.is_intact(), "wrote beside the queue");
    }
    world.finish(trials, attached);
}
