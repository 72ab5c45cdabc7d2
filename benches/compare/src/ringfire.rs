//! `ringfire`: its ring of one producer, lossless, polled.
use crate::queue::{Payload, Receiver, Sender, check, poll, slots};
use ringfire::{FlowControl, RingConsumer, RingProducer, RingProducerBuilder};
use std::ops::Range;
use std::path::Path;

pub(crate) struct Ringfire<End>(End);

/// Its items have a type, and so a size.
macro_rules! of_size {
    ($bytes:expr, $function:ident, $at:expr; $($N:literal)*) => {
        match $bytes {
            $($N => Box::new(Ringfire($function::<$N>($at))),)*
            bytes => panic!("no items of {bytes} bytes"),
        }
    };
}

fn producer<const N: usize>(at: &Path) -> RingProducer<[u8; N]> {
    let ring = RingProducerBuilder::new(slots(N)).flow_control(FlowControl::LosslessBackpressure);
    ring.max_readers(1).build(at).expect("a ring")
}

fn consumer<const N: usize>(at: &Path) -> RingConsumer<[u8; N]> {
    RingConsumer::attach(at).expect("a ring")
}

impl Ringfire<()> {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        of_size!(bytes, producer, at; 8 56 64 120 248 1024 65536)
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        of_size!(bytes, consumer, at; 8 56 64 120 248 1024 65536)
    }
}

impl<const N: usize> Sender for Ringfire<RingProducer<[u8; N]>> {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            self.0.push(payload.numbered(number).first_chunk().expect("as long"));
        }
    }
}

impl<const N: usize> Receiver for Ringfire<RingConsumer<[u8; N]>> {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            check(&poll(|| self.0.try_recv()), number);
        }
    }
}
