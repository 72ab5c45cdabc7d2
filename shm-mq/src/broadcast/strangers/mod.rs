//! A broadcast among those who do not trust each other: one publisher, any number of subscribers.
//!
//! ```text
//!   the publisher's memory                      a subscriber's memory, one for each
//!   +------+-----------+-----------+---         +------+
//!   | Half | a cell    | a cell    | ...        | Half |
//!   +------+-----------+-----------+---         +------+
//!     its number of records,                      the record that it reads next, or that it
//!     and whether it sleeps                       has not begun; and whether it sleeps
//! ```
//!
//! Each memory is written by its owner alone, sealed, and mapped read-only by the other side:
//! [`hostile`](crate::hostile) says how. The publisher's is one, however many have it; a subscriber
//! sees the publisher, and nothing of the other subscribers. Cells and marks are those of every
//! broadcast, and so a record costs a subscriber its lines; it is copied into private memory, as
//! words, and is the record if its mark stands there before and after.
//!
//! **Who begins where.** A subscriber begins where the publisher's number is when it comes, and its
//! word says so. Until it does, the word says that it has not begun: it holds nobody back, and
//! lags behind by nothing. From then on:
//!
//! | kind | the publisher |
//! | --- | --- |
//! | lossy | never waits for anybody |
//! | lossless | writes over nothing that a subscriber, which it has admitted, says it has not read; which lags, and how far, it sees, and it may expel that one: it asks nobody |
//!
//! A lossless publisher goes by its last look at the words, and who begins may not be in it yet. So
//! it says where it begins, passes a fence, and looks at the publisher's number once more: each
//! look that has not seen it was one at that number or before, and what is written by such a look
//! is written over records before that number. With that number it begins, and misses nothing from
//! there on once it is admitted. Of what is older it has what is still there, and is told how much
//! it missed, as always when it is lapped.
//!
//! What kind it is stands in no memory: who trusts nobody could not rely on it. It is what the
//! publisher does.
//!
//! **States** of a subscriber, which the publisher alone has:
//!
//! | state | moved on by | the subscriber has |
//! | --- | --- | --- |
//! | met: a `Guest` | `admit`, or dropping it | records; the first to come may pass it by |
//! | admitted: has not begun | its word; its end, a lie, `expel` | as before |
//! | admitted, and has begun | its end, a lie, `expel` | records; of a lossless one all |
//! | ended | `next_end`, which tells of it | `PublisherDied`, once it has read what it finds, if it lives and the publisher hung up |
//!
//! | dies after | the others |
//! | --- | --- |
//! | (publisher) saying that a record is written, or writing its bytes | all subscribers: the records before, and then `PublisherDied`. Who has not read what was in that cell is told that he missed it |
//! | the record is there, before its number is said, or before it rings | the record, and then `PublisherDied`: who sleeps is woken by the hang-up |
//! | it says that it leaves | all records, and then `Detached` |
//! | (subscriber) anything | the publisher: its end, `Died`; it is waited for no more. The other subscribers see nothing |
//!
//! A stopped subscriber costs a lossy publisher one ring in vain, and holds a lossless one back
//! until it is expelled. A stopped publisher is waited for, up to the deadline.
//!
//! **Lies**, besides those of [`hostile`](crate::hostile):
//!
//! | the subscriber | achieves |
//! | --- | --- |
//! | says that it has read what was not published, or less than it said before, or that it has not begun when it had | its end: `Corrupt`. A lossy publisher does not care, until it asks |
//! | never says where it begins | a place among the subscribers, until it is expelled: it is waited for by nobody, and nothing is promised to it |
//! | never says that it reads | a lossless publisher that has no room, until that expels it |
//! | says all the time that it sleeps, with a new number | one system call, which never blocks, for each record |
//! | hears no bell, so that none can be rung | its end: `Died` |
//! | has its page swapped out to where there is no room | the publisher's wait, as [`sealed`](shm_core::sealed) says |
//! | rings the publisher | its sleep ends early; only the bell of who is slowest is listened to |
//! | keeps the memory after its end | records to read, as long as some are published: what was once handed over cannot be taken back. So meet nobody who is not to read |
//! | sets the file's offset, or takes its locks, which all who have it share | nothing: nobody uses either |
//!
//! | the publisher | achieves |
//! | --- | --- |
//! | says cells of no size, or cells or records of too much | an error of `connect` |
//! | says of a cell what no publisher would: a record of another cell, one beyond those it says there are, one from the far future, a length beyond the longest | `Corrupt`, for good, and is told that we have left |
//! | writes over records, or says that it has | `Missed`, as often as we ask: each time we are further on |
//! | says that a record is there which it has not written, or changes one while, or after, it is read | some bytes it chose, once: what is checked and lent is our copy |
//! | says that there are more records than its cells say | `Corrupt`, from who waits for the one that is not there |
//! | publishes nothing | we wait until our deadline, or its end |
//! | tells each subscriber something else | nothing: there is one memory. Over time it may tell one who reads late something else than it told who read early |
mod publisher;
mod subscriber;

pub use publisher::{Ended, Guest, Invitation, StrangePublisher};
pub use subscriber::StrangeSubscriber;

use crate::hostile::Kind;

/// Cells are a multiple of so many bytes.
const CELL_UNIT: u64 = 64;

/// "shmcpub", "shmcsub", version 2.
const CAST: Kind = Kind {
    sender: u64::from_be_bytes(*b"shmcpub\x02"),
    receiver: u64::from_be_bytes(*b"shmcsub\x02"),
    ring_unit: CELL_UNIT,
    ring_min: CELL_UNIT,
    message_bytes_max: usize::MAX,
};

/// What a subscriber's word says: one more than the number of the record that it reads next. 0, as
/// it is made, says that it has not begun.
fn begun(number: u64) -> u64 {
    number + 1
}

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}

/// What models need.
#[cfg(shm_loom)]
pub(super) mod modelled {
    use super::super::cells::{Cells, mapped_bytes};
    use super::super::{BroadcastConfig, Kind, Subscription};
    use super::{CAST, Guest, StrangePublisher, StrangeSubscriber};
    use crate::hostile::modelled::{Ends, meet_one, sender_memory};
    use crate::hostile::{HALF_BYTES, Half, Wire};
    use shm_core::BadPtr;
    use shm_core::mapping::Mapped;
    use shm_core::trust::Hostile;

    /// A publisher's memory.
    #[derive(Debug)]
    pub struct Strangers {
        half: Mapped<Half>,
        cells: Cells<Hostile>,
    }

    impl Strangers {
        /// The memory, and the publisher.
        ///
        /// # Errors
        /// [`BadPtr`] where the config is none.
        pub fn create<K>(
            config: &BroadcastConfig,
        ) -> Result<(Strangers, StrangePublisher<K>), BadPtr> {
            let (memory, half) = sender_memory(&CAST, mapped_bytes(config))?;
            // SAFETY: our own memory, which nobody has yet.
            unsafe { Cells::<Hostile>::create(&memory, HALF_BYTES, config) }?;
            let (count, longest) = (config.cells.into(), config.record_bytes);
            let cells = Cells::attach(&memory, HALF_BYTES, Kind::Lossy, count, longest)?;
            let publisher = StrangePublisher::of(half.clone(), cells.clone(), config);
            Ok((Strangers { half, cells }, publisher))
        }

        /// A guest to admit, and its subscriber, which have met.
        ///
        /// # Errors
        /// [`BadPtr`], never.
        ///
        /// # Panics
        /// Never.
        pub fn meet(&self, how: Subscription) -> Result<Ends<Guest, StrangeSubscriber>, BadPtr> {
            let Ends { sender, sender_held, receiver, receiver_held } = self.meet_newcomer()?;
            Ok(Ends { sender, sender_held, receiver: receiver.begin(how), receiver_held })
        }

        /// The same of one that has not begun.
        ///
        /// # Errors
        /// [`BadPtr`], never.
        pub fn meet_newcomer(&self) -> Result<Ends<Guest, Newcomer>, BadPtr> {
            let ends = meet_one(&CAST, &self.half, usize::MAX)?;
            Ok(Ends {
                sender: Guest::new(ends.sender, self.half.clone()),
                sender_held: ends.sender_held,
                receiver: Newcomer { cells: self.cells.clone(), wire: ends.receiver },
                receiver_held: ends.receiver_held,
            })
        }
    }

    /// Who is to be a subscriber.
    #[derive(Debug)]
    pub struct Newcomer {
        cells: Cells<Hostile>,
        wire: Wire,
    }

    impl Newcomer {
        /// Begins.
        ///
        /// # Panics
        /// Never.
        pub fn begin(self, how: Subscription) -> StrangeSubscriber {
            StrangeSubscriber::begin(self.cells, self.wire, how).expect("nobody lies")
        }
    }
}

/// What explorations need.
#[cfg(shm_explore)]
pub(super) mod explored {
    use super::super::cells::{Cells, mapped_bytes};
    use super::super::{BroadcastConfig, Kind, Subscription};
    use super::{CAST, Guest, StrangePublisher, StrangeSubscriber};
    use crate::hostile::HALF_BYTES;
    use crate::hostile::explored::Met;
    use shm_core::BadPtr;
    use shm_core::trust::Hostile;

    /// A publisher's memory, and so many subscribers that have met it, each of whom takes its end.
    #[derive(Debug)]
    pub struct Strangers {
        met: Vec<Met>,
        cells: Cells<Hostile>,
        config: BroadcastConfig,
    }

    impl Strangers {
        /// For as many subscribers as `config` says.
        ///
        /// # Errors
        /// [`BadPtr`] where the config is none.
        pub fn new(config: &BroadcastConfig) -> Result<Strangers, BadPtr> {
            let first = Met::new(&CAST, mapped_bytes(config))?;
            // SAFETY: our own memory, which nobody has yet.
            unsafe { Cells::<Hostile>::create(&first.memory, HALF_BYTES, config) }?;
            let (count, longest) = (config.cells.into(), config.record_bytes);
            let cells = Cells::attach(&first.memory, HALF_BYTES, Kind::Lossy, count, longest)?;
            let others = (1..config.subscribers).map(|_| first.beside(&CAST));
            let mut met = others.collect::<Result<Vec<_>, _>>()?;
            met.insert(0, first);
            Ok(Strangers { met, cells, config: *config })
        }

        /// The publisher, which has admitted all; subscriber n is process `peers[n]`.
        ///
        /// # Panics
        /// Where there are not so many.
        pub fn publisher(&self, peers: &[u32]) -> StrangePublisher<u32> {
            let half = self.met[0].sender_half();
            let mut publisher =
                StrangePublisher::of(half.clone(), self.cells.clone(), &self.config);
            for (met, peer) in self.met.iter().zip(peers) {
                let guest = Guest::new(met.wire(0, *peer), half.clone());
                assert!(publisher.admit(*peer, guest).is_ok());
            }
            publisher
        }

        /// Subscriber number `number`; the publisher is process `peer`. `None` after a lie.
        pub fn subscriber(
            &self,
            number: usize,
            peer: u32,
            how: Subscription,
        ) -> Option<StrangeSubscriber> {
            StrangeSubscriber::begin(self.cells.clone(), self.met[number].wire(1, peer), how)
        }
    }
}
