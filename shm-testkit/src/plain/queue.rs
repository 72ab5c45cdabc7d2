//! A bounded queue of messages with one sender and one receiver.
use std::collections::VecDeque;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// There is no room now.
    Full,
    /// There never is room for so long a message.
    TooLong,
    /// The receiver has left.
    Detached,
    /// The receiver was killed.
    PeerDied,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMessage {
    /// None has been sent.
    Empty,
    /// The sender has left, and all it sent has been received.
    Detached,
    /// The sender was killed, and all it sent has been received.
    PeerDied,
}

/// A queue of messages whose costs never exceed its capacity.
///
/// ```
/// use shm_testkit::plain::{NoMessage, NotSent, Queue};
///
/// let mut queue = Queue::new(32, |bytes| 8 + bytes.next_multiple_of(8));
/// assert_eq!(queue.try_send(b"twelve bytes"), Ok(()));
/// assert_eq!(queue.try_send(b"x"), Err(NotSent::Full));
/// queue.detach_sender();
/// assert_eq!(queue.try_receive(), Ok(b"twelve bytes".to_vec()));
/// assert_eq!(queue.try_receive(), Err(NoMessage::Detached));
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    capacity_bytes: usize,
    cost_bytes: fn(usize) -> usize,
    messages: VecDeque<Vec<u8>>,
    /// Why a side is gone; none while it is there.
    sender: Option<NoMessage>,
    receiver: Option<NotSent>,
}

impl Queue {
    /// An empty queue; a message of n bytes occupies `cost_bytes(n)` of the capacity.
    pub fn new(capacity_bytes: usize, cost_bytes: fn(usize) -> usize) -> Queue {
        Queue {
            capacity_bytes,
            cost_bytes,
            messages: VecDeque::new(),
            sender: None,
            receiver: None,
        }
    }

    /// Bytes that the waiting messages occupy.
    pub fn used_bytes(&self) -> usize {
        self.messages.iter().map(|message| (self.cost_bytes)(message.len())).sum()
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Appends a copy of `message`, whole or not at all.
    ///
    /// # Errors
    /// [`NotSent`]: a receiver that is gone comes before a lack of room.
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), NotSent> {
        let cost_bytes = (self.cost_bytes)(message.len());
        match self.receiver {
            Some(gone) => Err(gone),
            None if cost_bytes > self.capacity_bytes => Err(NotSent::TooLong),
            None if self.used_bytes() + cost_bytes > self.capacity_bytes => Err(NotSent::Full),
            None => {
                self.messages.push_back(message.to_vec());
                Ok(())
            }
        }
    }

    /// Takes the oldest message.
    ///
    /// # Errors
    /// [`NoMessage`]: what was sent before the sender went is received first.
    pub fn try_receive(&mut self) -> Result<Vec<u8>, NoMessage> {
        self.messages.pop_front().ok_or(self.sender.unwrap_or(NoMessage::Empty))
    }

    /// The sender leaves.
    pub fn detach_sender(&mut self) {
        self.sender.get_or_insert(NoMessage::Detached);
    }

    /// The sender is killed.
    pub fn kill_sender(&mut self) {
        self.sender.get_or_insert(NoMessage::PeerDied);
    }

    /// The receiver leaves.
    pub fn detach_receiver(&mut self) {
        self.receiver.get_or_insert(NotSent::Detached);
    }

    /// The receiver is killed.
    pub fn kill_receiver(&mut self) {
        self.receiver.get_or_insert(NotSent::PeerDied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_each(bytes: usize) -> usize {
        bytes
    }

    #[test]
    fn messages_come_out_in_order_and_make_room() {
        let mut queue = Queue::new(4, one_each);
        assert_eq!(queue.try_receive(), Err(NoMessage::Empty));
        assert_eq!(queue.try_send(b"abc"), Ok(()));
        assert_eq!(queue.try_send(b"d"), Ok(()));
        assert_eq!(queue.try_send(b""), Ok(()));
        assert_eq!((queue.used_bytes(), queue.len()), (4, 3));
        assert_eq!(queue.try_send(b"e"), Err(NotSent::Full));
        assert_eq!(queue.try_receive(), Ok(b"abc".to_vec()));
        assert_eq!(queue.try_send(b"efg"), Ok(()));
        assert_eq!(queue.try_receive(), Ok(b"d".to_vec()));
        assert_eq!(queue.try_receive(), Ok(b"".to_vec()));
        assert_eq!(queue.try_receive(), Ok(b"efg".to_vec()));
        assert!(queue.is_empty());
    }

    #[test]
    fn what_never_fits_is_not_called_full() {
        assert_eq!(Queue::new(4, one_each).try_send(b"abcde"), Err(NotSent::TooLong));
    }

    #[test]
    fn a_dead_sender_is_seen_after_its_messages() {
        let mut queue = Queue::new(4, one_each);
        assert_eq!(queue.try_send(b"a"), Ok(()));
        queue.kill_sender();
        assert_eq!(queue.try_receive(), Ok(b"a".to_vec()));
        assert_eq!(queue.try_receive(), Err(NoMessage::PeerDied));
    }

    #[test]
    fn the_first_reason_for_going_stays() {
        let mut queue = Queue::new(4, one_each);
        queue.detach_receiver();
        queue.kill_receiver();
        assert_eq!(queue.try_send(b"abcde"), Err(NotSent::Detached));
        queue.detach_sender();
        queue.kill_sender();
        assert_eq!(queue.try_receive(), Err(NoMessage::Detached));
    }
}
