//! Facts about one stream, in one process: roles, ends, limits, and nonsense in shared memory.
use super::frame::Header;
use super::sender::Outgoing;
use super::*;
use shm_core::bytes::WORD_BYTES;
use shm_core::participants::Table;
use shm_core::process::ProcessId;
use shm_core::trust::Hostile;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(20);

/// A stream and two who may have its roles.
struct World {
    mapping: Arc<Mapping>,
    stream: Stream,
    me: Arc<Member>,
    other: Arc<Member>,
}

const STREAM_AT: u64 = 1024;

fn world(ring_bytes: u64) -> World {
    assert!(Table::bytes_for(2) <= STREAM_AT);
    let mapping = Mapping::heap((STREAM_AT + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, STREAM_AT, ring_bytes) }.unwrap();
    let (me, other) = (table.join().unwrap(), table.join().unwrap());
    World { mapping, stream, me, other }
}

impl World {
    fn ends(&self) -> (Sender, Receiver) {
        (self.stream.sender(&self.me).unwrap(), self.stream.receiver(&self.other).unwrap())
    }

    /// Writes a word of the ring, as nobody should.
    fn scribble(&self, word: u64, value: u64) {
        let at = STREAM_AT + size_of::<Shared>() as u64 + word * WORD_BYTES as u64;
        let address = self.mapping.region().at::<u64>(at).unwrap();
        // SAFETY: in the mapping, and the test has only this thread.
        unsafe { address.write(value) };
    }
}

#[test]
fn the_ends_can_move_to_another_thread() {
    fn moves<T: Send>() {}
    moves::<Sender>();
    moves::<Receiver>();
}

#[test]
fn a_role_is_given_once() {
    let world = world(64);
    world.stream.set_sender(world.other.id()).unwrap();
    let by_other = RoleTaken { by: Some(world.other.id()) };
    assert_eq!(world.stream.set_sender(world.me.id()), Err(by_other));
    assert_eq!(world.stream.set_sender(world.other.id()), Err(by_other), "even the same one");
    assert_eq!(world.stream.sender(&world.me).unwrap_err(), AttachError::Taken(by_other));
    let sender = world.stream.sender(&world.other).unwrap();
    assert_eq!(world.stream.sender(&world.other).unwrap_err(), AttachError::OpenAlready);
    drop(sender);
    assert_eq!(world.stream.sender(&world.other).unwrap_err(), AttachError::OpenAlready);
    world.stream.set_receiver(world.me.id()).unwrap();
    world.stream.receiver(&world.me).unwrap();
    let by_me = RoleTaken { by: Some(world.me.id()) };
    assert_eq!(world.stream.set_receiver(world.other.id()), Err(by_me));
    assert_eq!(world.stream.receiver(&world.other).unwrap_err(), AttachError::Taken(by_me));
}

#[test]
fn the_status_says_who_is_there() {
    let world = world(70);
    let (mut sender, receiver) = world.ends();
    sender.send(b"12345").unwrap();
    drop(receiver);
    let status = world.stream.status();
    assert_eq!((status.ring_bytes, status.written, status.read), (64, 16, 0));
    let owner = Some(world.me.id());
    let expected = RoleStatus { owner, has_attached: true, has_detached: false };
    assert_eq!(status.sender, expected);
    let owner = Some(world.other.id());
    let expected = RoleStatus { owner, has_attached: true, has_detached: true };
    assert_eq!(status.receiver, expected);
}

#[test]
fn what_is_no_stream_is_refused() {
    let world = world(64);
    let at = |offset| Stream::attach(&world.mapping, offset).unwrap_err();
    assert!(matches!(at(0), AttachError::NotAStream { .. }));
    assert!(matches!(at(STREAM_AT + 1), AttachError::Place(BadPtr::Misaligned { .. })));
    assert!(matches!(at(1 << 20), AttachError::Place(BadPtr::OutOfBounds { .. })));
    for ring_bytes in [0, 63, 72, u64::MAX - 7] {
        world.stream.shared.ring_bytes.store(ring_bytes, Ordering::Relaxed);
        assert_eq!(at(STREAM_AT), AttachError::Corrupt { ring_bytes });
    }
}

#[test]
fn a_stream_needs_a_ring_and_room() {
    let mapping = Mapping::heap(4096);
    for ring_bytes in [0, 7] {
        // SAFETY: the mapping is this test's alone.
        let end = unsafe { Stream::create(&mapping, 0, ring_bytes) };
        assert_eq!(end.unwrap_err(), CreateError::RingTooSmall { ring_bytes });
    }
    for ring_bytes in [4096, u64::MAX] {
        // SAFETY: as above.
        let end = unsafe { Stream::create(&mapping, 0, ring_bytes) };
        assert!(matches!(end.unwrap_err(), CreateError::Place(_)));
    }
}

#[test]
fn a_detached_sender_leaves_what_it_sent() {
    let (mut sender, mut receiver) = world(256).ends();
    sender.send(b"sent").unwrap();
    sender.push(b"pushed").unwrap();
    drop(sender);
    assert_eq!(*receiver.recv().unwrap(), *b"sent");
    assert_eq!(*receiver.try_recv().unwrap(), *b"pushed");
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Detached);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Detached);
}

#[test]
fn after_the_receiver_has_left_every_send_says_so() {
    let (mut sender, receiver) = world(256).ends();
    sender.push(b"not received").unwrap();
    drop(receiver);
    assert_eq!(sender.flush(), Err(SendError::Detached));
    assert_eq!(sender.try_send(b""), Err(SendError::Detached));
    assert_eq!(sender.send(b""), Err(SendError::Detached));
    assert_eq!(sender.push(b""), Err(SendError::Detached));
    assert_eq!(sender.free_space(), Err(SendError::Detached));
    assert_eq!(sender.wait_for_peer(None), Err(SendError::Detached));
}

#[test]
fn nobody_has_attached_yet() {
    let world = world(8);
    let mut sender = world.stream.sender(&world.me).unwrap();
    sender.send(b"fits").unwrap();
    assert_eq!(sender.send_timeout(b"", SHORT), Err(SendError::TimedOut));
    assert_eq!(sender.wait_for_peer(Some(Instant::now())), Err(SendError::TimedOut));
    let mut receiver = world.stream.receiver(&world.other).unwrap();
    sender.wait_for_peer(None).unwrap();
    receiver.wait_for_peer(None).unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"fits");
}

#[test]
fn an_expected_peer_that_has_died_does_not_come() {
    let me = ProcessId::me();
    let dead = ProcessId::new(me.pid(), me.start_ticks() - 1).unwrap();
    let soon = || Some(Instant::now() + SHORT);
    let (one, two) = (world(64), world(64));
    let mut receiver = one.stream.receiver(&one.other).unwrap();
    assert_eq!(receiver.wait_for_peer(soon()), Err(RecvError::TimedOut));
    receiver.expect_peer(dead);
    assert_eq!(receiver.wait_for_peer(soon()), Err(RecvError::PeerDied));
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::PeerDied);
    let mut sender = two.stream.sender(&two.me).unwrap();
    sender.expect_peer(dead);
    assert_eq!(sender.wait_for_peer(soon()), Err(SendError::PeerDied));
}

#[test]
fn a_receiver_without_a_sender_has_nothing_to_receive() {
    let world = world(8);
    let mut receiver = world.stream.receiver(&world.other).unwrap();
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    assert_eq!(receiver.recv_timeout(SHORT).unwrap_err(), RecvError::TimedOut);
    drop(world.stream.sender(&world.me).unwrap());
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Detached, "come and gone");
}

#[test]
fn try_send_is_all_or_nothing() {
    let (mut sender, mut receiver) = world(32).ends();
    assert_eq!(sender.try_send(&[1; 25]), Err(SendError::TooLarge { largest: 24 }));
    sender.try_send(&[1; 16]).unwrap();
    assert_eq!(sender.free_space(), Ok(8));
    assert_eq!(sender.try_send(&[2; 5]), Err(SendError::WouldBlock));
    assert_eq!(sender.free_space(), Ok(8), "nothing is left behind");
    sender.try_send(&[3; 4]).unwrap();
    assert_eq!(*receiver.try_recv().unwrap(), [1; 16]);
    assert_eq!(*receiver.try_recv().unwrap(), [3; 4]);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    sender.try_send(&[4; 24]).unwrap();
    assert_eq!(*receiver.try_recv().unwrap(), [4; 24], "the largest");
}

#[test]
fn pushed_messages_show_after_a_quarter_of_the_ring() {
    let (mut sender, mut receiver) = world(64).ends();
    sender.push(b"1").unwrap();
    sender.push(b"2").unwrap();
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    sender.push(b"3").unwrap();
    assert_eq!(receiver.occupied_bytes(), Ok(24));
    for text in [b"1", b"2", b"3"] {
        assert_eq!(*receiver.try_recv().unwrap(), *text);
    }
    sender.push(b"4").unwrap();
    sender.flush().unwrap();
    assert_eq!(*receiver.try_recv().unwrap(), *b"4");
}

#[test]
fn the_sender_is_told_when_more_than_a_quarter_of_the_ring_is_consumed() {
    let world = world(64);
    let (mut sender, mut receiver) = world.ends();
    for (consumed, told) in [(16, 0), (32, 32), (48, 32), (64, 64)] {
        sender.send(&[0; 8]).unwrap();
        assert_eq!(*receiver.recv().unwrap(), [0; 8]);
        assert_eq!(world.stream.status().read, told, "of {consumed}");
    }
}

#[test]
fn a_message_cut_off_by_a_deadline_is_discarded() {
    let (mut sender, mut receiver) = world(16).ends();
    assert_eq!(sender.send_timeout(&[1; 40], SHORT), Err(SendError::TimedOut));
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    sender.send(b"whole").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"whole");
    let _ = sender.start(&[2; 40]).unwrap().poll();
    drop(sender);
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Detached);
}

#[test]
fn pieces_arrive_as_one_message() {
    let (mut sender, mut receiver) = world(16).ends();
    let pieces: [&[u8]; 5] = [b"", b"one", b"", b"and another", b"."];
    let mut sending = sender.start_vectored(&pieces).unwrap();
    assert_eq!(sending.remaining(), 15);
    while sending.poll().is_err() {
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    }
    assert_eq!(sending.remaining(), 0);
    assert_eq!(*receiver.recv().unwrap(), *b"oneand another.");
    sender.send_vectored(&[]).unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"");
}

#[test]
fn a_message_too_long_is_refused() {
    let (mut sender, _receiver) = world(64).ends();
    let page = [0; 1 << 16];
    let pieces = vec![&page[..]; 1 << 14];
    assert_eq!(sender.send_vectored(&pieces), Err(SendError::TooLong { len: 1 << 30 }));
    assert_eq!(sender.free_space(), Ok(64));
}

#[test]
fn the_longest_message_that_a_receiver_takes_of_a_hostile_sender_is_taken() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let limits = Limits { ring_bytes_max: 64, message_bytes_max: 300 };
    let peer = std::thread::spawn(move || {
        let mut receiver = Receiver::<Hostile>::connect(theirs, limits, None).unwrap();
        let got = receiver.recv().map(|message| message.to_vec());
        // It stays until the sender is done: what is sent to one that leaves counts as not sent.
        (got, receiver)
    });
    let mut sender = Sender::<Hostile>::connect(ours, 64, None).unwrap();
    assert_eq!(sender.send(&[7; 301]), Err(SendError::TooLong { len: 301 }));
    sender.send(&[7; 300]).unwrap();
    assert_eq!(peer.join().unwrap().0.unwrap(), [7; 300]);
}

#[test]
fn a_message_put_back_is_received_again() {
    let (mut sender, mut receiver) = world(16).ends();
    let long: Vec<u8> = (0..50).collect();
    for message in [b"short".as_slice(), &long] {
        let mut sending = sender.start(message).unwrap();
        loop {
            let _ = sending.poll();
            if let Ok(got) = receiver.try_recv() {
                assert_eq!(*got, *message);
                got.put_back();
                break;
            }
        }
        let mut out = vec![9];
        receiver.recv_into(&mut out).unwrap();
        assert_eq!(out, message);
    }
}

#[test]
fn a_whole_message_is_not_copied() {
    let world = world(64);
    let (mut sender, mut receiver) = world.ends();
    sender.send(&[7; 40]).unwrap();
    let message = receiver.recv().unwrap();
    assert_eq!(format!("{message:?}"), format!("Message({:?})", [7; 40]));
    let base = world.mapping.region().base().addr().get();
    let address = message.as_ptr().addr();
    assert!((base..base + world.mapping.len()).contains(&address), "it lies in the mapping");
    assert_eq!(address % 8, 0);
}

#[test]
fn the_buffer_begins_with_8192_bytes_and_doubles() {
    let (mut sender, mut receiver) = world(64).ends();
    for (len, capacity) in [(100, 8192), (8192, 8192), (8193, 16384), (10, 16384)] {
        let message = vec![5; len];
        let mut sending = sender.start(&message).unwrap();
        while sending.poll().is_err() {
            assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
        }
        assert_eq!(*receiver.recv().unwrap(), *message);
        assert_eq!(receiver.buffer_bytes(), capacity);
    }
}

#[test]
fn a_position_of_nonsense_is_corrupt_for_good() {
    for written in [4, 72, u64::MAX, 1 << 63] {
        let world = world(64);
        let (_sender, mut receiver) = world.ends();
        world.stream.shared.written.store(written, Ordering::Relaxed);
        assert_eq!(receiver.recv().unwrap_err(), RecvError::Corrupt);
        world.stream.shared.written.store(0, Ordering::Relaxed);
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Corrupt, "it stays so");
    }
    for read in [4, 72, u64::MAX, 1 << 63] {
        let world = world(64);
        let (mut sender, _receiver) = world.ends();
        sender.send(&[0; 56]).unwrap();
        world.stream.shared.read.store(read, Ordering::Relaxed);
        assert_eq!(sender.send(b""), Err(SendError::Corrupt));
        world.stream.shared.read.store(0, Ordering::Relaxed);
        assert_eq!(sender.try_send(b""), Err(SendError::Corrupt), "it stays so");
    }
}

#[test]
fn a_position_more_than_a_ring_ahead_of_what_was_given_back_is_corrupt() {
    let world = world(64);
    let (mut sender, mut receiver) = world.ends();
    sender.send(&[0; 32]).unwrap();
    assert_eq!(receiver.occupied_bytes(), Ok(40));
    world.stream.shared.written.store(64, Ordering::Relaxed);
    assert_eq!(receiver.occupied_bytes(), Ok(64));
    world.stream.shared.written.store(72, Ordering::Relaxed);
    assert_eq!(receiver.occupied_bytes(), Err(RecvError::Corrupt));
}

#[test]
fn a_frame_of_nonsense_is_corrupt() {
    let bad = [
        (Header::new(9, true, true), "more than is published"),
        (Header::new(MESSAGE_BYTES_MAX, true, false), "far more"),
        (Header::new(1, false, true), "a rest of nothing"),
    ];
    for (header, why) in bad {
        let world = world(64);
        let (_sender, mut receiver) = world.ends();
        world.scribble(0, header.to_word());
        world.stream.shared.written.store(16, Ordering::Relaxed);
        assert_eq!(receiver.recv().unwrap_err(), RecvError::Corrupt, "{why}");
    }
    let world = world(64);
    let (_sender, mut receiver) = world.ends();
    world.scribble(0, Header::new(1, true, false).to_word());
    world.scribble(1, Header::new(0, false, false).to_word());
    world.stream.shared.written.store(16, Ordering::Relaxed);
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Corrupt, "an empty rest");
}

#[test]
fn a_peer_that_is_nobody_has_died() {
    let world = world(64);
    world.stream.shared.sender.owner.store(u32::MAX, Ordering::Relaxed);
    let mut receiver = world.stream.receiver(&world.other).unwrap();
    assert_eq!(receiver.recv().unwrap_err(), RecvError::PeerDied);
}

#[test]
fn a_named_peer_that_leaves_without_having_come_has_detached() {
    let World { stream, me, other, .. } = world(64);
    stream.set_sender(me.id()).unwrap();
    let mut receiver = stream.receiver(&other).unwrap();
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    drop(me);
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Detached);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Detached, "it stays so");
}

#[test]
fn the_deadline_counts_though_there_is_always_room() {
    let (mut sender, mut receiver) = world(64).ends();
    let message = vec![7; 256];
    let mut sending = Outgoing::new(&message, &[], MESSAGE_BYTES_MAX).unwrap();
    let passed = Some(Instant::now());
    // The receiver makes room each time before the sender looks.
    for _ in 0..2 {
        let end = sender.advance(&mut sending, None);
        assert_eq!(end, Err(SendError::WouldBlock));
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    }
    let left = sending.left;
    assert_eq!(sender.advance(&mut sending, passed), Err(SendError::TimedOut));
    assert_eq!(sending.left, left, "not a fragment more");
}

#[test]
fn a_deadline_far_away_cuts_nothing_off() {
    let (mut sender, mut receiver) = world(16).ends();
    let far = Instant::now() + Duration::from_secs(600);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // By now the receiver sleeps; whether or not, it must receive.
            std::thread::sleep(SHORT);
            sender.send_deadline(b"late", far).unwrap();
            sender.send_deadline(&[7; 100], far).unwrap();
        });
        assert_eq!(*receiver.recv_deadline(far).unwrap(), *b"late");
        std::thread::sleep(SHORT);
        assert_eq!(*receiver.recv_deadline(far).unwrap(), [7; 100]);
    });
}
