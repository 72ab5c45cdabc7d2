//! `shaq`: its `spsc`, in batches, of items written and read in place.
use crate::queue::{Payload, Receiver, Sender, check, slots};
use shaq::spsc::{Consumer, Producer, minimum_file_size};
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;

pub(crate) struct Shaq<End>(End);

/// Its items have a type, and so a size.
macro_rules! of_size {
    ($bytes:expr, $function:ident, $at:expr; $($N:literal)*) => {
        match $bytes {
            $($N => Box::new(Shaq($function::<$N>($at))),)*
            bytes => panic!("no items of {bytes} bytes"),
        }
    };
}

fn file(at: &Path, is_new: bool) -> File {
    let file = File::options().read(true).write(true).create_new(is_new).open(at);
    file.expect("a file")
}

fn producer<const N: usize>(at: &Path) -> Producer<[u8; N]> {
    let len = minimum_file_size::<[u8; N]>(slots(N) as usize).next_multiple_of(4096);
    // SAFETY: nobody else knows of the file.
    unsafe { Producer::create(&file(at, true), len) }.expect("a queue")
}

fn consumer<const N: usize>(at: &Path) -> Consumer<[u8; N]> {
    // SAFETY: the file's producer made it for arrays of bytes, and this is its only consumer.
    unsafe { Consumer::join(&file(at, false)) }.expect("a queue")
}

impl Shaq<()> {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        of_size!(bytes, producer, at; 8 56 64 120 248 1024 65536)
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        of_size!(bytes, consumer, at; 8 56 64 120 248 1024 65536)
    }
}

impl<const N: usize> Sender for Shaq<Producer<[u8; N]>> {
    fn send(&mut self, payload: &mut Payload, mut numbers: Range<u64>) {
        while !numbers.is_empty() {
            let first = numbers.start;
            let mut batch = self.0.write_batch();
            while numbers.start < numbers.end {
                // SAFETY: it is written at once.
                let Some(item) = (unsafe { batch.try_as_mut() }) else { break };
                let message = payload.numbered(numbers.start);
                item.write(*message.first_chunk().expect("as long"));
                numbers.start += 1;
            }
            if numbers.start == first {
                // It would publish nothing, and that takes a line from the consumer.
                std::mem::forget(batch);
                std::hint::spin_loop();
            }
        }
    }
}

impl<const N: usize> Receiver for Shaq<Consumer<[u8; N]>> {
    fn recv(&mut self, mut numbers: Range<u64>) {
        while let Some(most) = NonZeroUsize::new((numbers.end - numbers.start) as usize) {
            let Some(batch) = self.0.try_reserve_read_batch(most) else {
                std::hint::spin_loop();
                continue;
            };
            for (item, number) in batch.iter().zip(&mut numbers) {
                check(item, number);
            }
        }
    }
}
