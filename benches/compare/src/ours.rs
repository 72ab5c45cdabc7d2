//! Ours: `spsc`, written by copy and in place, and `stream`, in files that both processes map.
use crate::queue::{Payload, Receiver, Sender, check, poll, slots};
use dsm::backend::{self, Place};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::{spsc, stream};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Where the queue is, behind the table.
const QUEUE_AT: u64 = Table::bytes_for(2).next_multiple_of(128);

fn place(at: &Path) -> (Place, &str) {
    let name = at.file_name().and_then(|name| name.to_str()).expect("a name");
    (Place::mmap(at.parent().expect("a directory")), name)
}

/// A file of so many bytes, zeroed.
pub(crate) fn create(at: &Path, len: u64) -> Arc<Mapping> {
    let (place, name) = place(at);
    backend::create(&place, name, len).expect("memory").mapping().clone()
}

/// The file, which is there.
pub(crate) fn open(at: &Path) -> Arc<Mapping> {
    let (place, name) = place(at);
    backend::open(&place, name).expect("ours").expect("it is there").mapping().clone()
}

/// A file with a table, a seat in it, and so many bytes behind it.
fn create_table(at: &Path, bytes: u64) -> (Arc<Mapping>, Arc<Member>) {
    let mapping = create(at, QUEUE_AT + bytes);
    // SAFETY: nobody else knows of the file.
    let table = unsafe { Table::create(&mapping, 0, 2) }.expect("a table");
    let me = table.join().expect("a seat");
    (mapping, me)
}

fn open_table(at: &Path) -> (Arc<Mapping>, Arc<Member>) {
    let mapping = open(at);
    let me = Table::attach(&mapping, 0).expect("a table").join().expect("a seat");
    (mapping, me)
}

/// With their headers.
fn ring_bytes(bytes: usize) -> u64 {
    slots(bytes) * (bytes as u64 + 8).next_multiple_of(spsc::LINE_BYTES)
}

fn spsc_sender(at: &Path, bytes: usize) -> spsc::Sender {
    let (mapping, me) = create_table(at, spsc::Queue::bytes_for(ring_bytes(bytes)));
    // SAFETY: nobody else knows of the file; the table ends before.
    let queue = unsafe { spsc::Queue::create(&mapping, QUEUE_AT, ring_bytes(bytes), 0) };
    queue.expect("a queue").sender(&me).expect("free")
}

fn spsc_receiver(at: &Path) -> spsc::Receiver {
    let (mapping, me) = open_table(at);
    spsc::Receiver::attach(&mapping, QUEUE_AT, 0, &me).expect("a queue")
}

/// Records, published as many at a time as are sent at a time.
pub(crate) struct Spsc<End>(End);

impl Spsc<()> {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        Box::new(Spsc(spsc_sender(at, bytes)))
    }

    pub(crate) fn receiver(at: &Path, _bytes: usize) -> Box<dyn Receiver> {
        Box::new(Spsc(spsc_receiver(at)))
    }
}

impl Sender for Spsc<spsc::Sender> {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        let last = numbers.end - 1;
        for number in numbers {
            let record = payload.numbered(number);
            poll(|| {
                let sent =
                    if number == last { self.0.try_send(record) } else { self.0.push(record) };
                sent.expect("sound").then_some(())
            });
        }
    }
}

impl Receiver for Spsc<spsc::Receiver> {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            poll(|| self.0.try_recv().expect("sound").map(|record| check(&record, number)));
        }
    }
}

/// Records that change hands where they lie. Nobody writes or reads more of them than the number,
/// which lies in the line of the header.
pub(crate) struct InPlace<End> {
    end: End,
    bytes: usize,
}

impl InPlace<()> {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        Box::new(InPlace { end: spsc_sender(at, bytes), bytes })
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        Box::new(InPlace { end: spsc_receiver(at), bytes })
    }
}

impl Sender for InPlace<spsc::Sender> {
    fn send(&mut self, _payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            let mut put = || {
                let mut place = self.end.reserve(self.bytes).expect("sound")?;
                place[..8].copy_from_slice(&number.to_ne_bytes());
                place.commit();
                Some(())
            };
            poll(&mut put);
        }
    }
}

impl Receiver for InPlace<spsc::Receiver> {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            poll(|| {
                let record = self.end.try_recv().expect("sound")?;
                assert_eq!(record.len(), self.bytes);
                check(&record[..8], number);
                Some(())
            });
        }
    }
}

/// Messages, published when the stream thinks fit, or when the last of them is sent.
pub(crate) struct Stream<End>(End);

impl Stream<()> {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        let ring_bytes = ring_bytes(bytes).next_power_of_two();
        let (mapping, me) = create_table(at, stream::Stream::bytes_for(ring_bytes));
        // SAFETY: nobody else knows of the file; the table ends before.
        let stream = unsafe { stream::Stream::create(&mapping, QUEUE_AT, ring_bytes) };
        Box::new(Stream(stream.expect("a stream").sender(&me).expect("free")))
    }

    pub(crate) fn receiver(at: &Path, _bytes: usize) -> Box<dyn Receiver> {
        let (mapping, me) = open_table(at);
        let stream = stream::Stream::attach(&mapping, QUEUE_AT).expect("a stream");
        Box::new(Stream(stream.receiver(&me).expect("free")))
    }
}

impl Sender for Stream<stream::Sender> {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            self.0.push(payload.numbered(number)).expect("it lives");
        }
        self.0.flush().expect("it lives");
    }
}

impl Receiver for Stream<stream::Receiver> {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            check(&self.0.recv().expect("it lives"), number);
        }
    }
}
