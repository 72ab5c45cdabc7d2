//! Values come out as they went in, and whatever else comes is an error value, and no more.
#![cfg(not(any(shm_loom, shm_explore)))]
mod spsc_common;
use bytemuck::{CheckedBitPattern, NoUninit};
use proptest::prelude::*;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::spsc::{AttachError, Queue};
use shm_mq::stream::OneMapping;
use shm_mq::typed::{
    BadRecord, Code, Message, Plain, Text, TypedError, TypedReceiver, TypedSender,
};
use shm_testkit::depth::cases;
use spsc_common::queue;

#[derive(Clone, Copy, Debug, PartialEq, NoUninit, CheckedBitPattern)]
#[repr(u8)]
enum Kind {
    Red = 1,
    Blue = 7,
}

#[derive(Clone, Copy, Debug, PartialEq, NoUninit, CheckedBitPattern)]
#[repr(C)]
struct Order {
    number: u32,
    kind: Kind,
    is_late: bool,
    count: u16,
}

impl Message for Order {
    const FINGERPRINT: u64 =
        shm_core::fingerprint!(Order { number: u32, kind: Kind, is_late: bool, count: u16 });
}

fn order() -> impl Strategy<Value = Order> {
    (any::<u32>(), any::<bool>(), any::<bool>(), any::<u16>()).prop_map(
        |(number, blue, is_late, count)| {
            let kind = if blue { Kind::Blue } else { Kind::Red };
            Order { number, kind, is_late, count }
        },
    )
}

/// What a record of these bytes is to be received as.
fn expected(bytes: &[u8]) -> Result<Order, BadRecord> {
    let Ok(all) = <[u8; 8]>::try_from(bytes) else {
        return Err(BadRecord::Length { len: bytes.len(), expected: 8 });
    };
    let kind = match all[4] {
        1 => Kind::Red,
        7 => Kind::Blue,
        _ => return Err(BadRecord::Bits),
    };
    let is_late = match all[5] {
        0 => false,
        1 => true,
        _ => return Err(BadRecord::Bits),
    };
    let number = u32::from_ne_bytes(all[..4].try_into().unwrap());
    Ok(Order { number, kind, is_late, count: u16::from_ne_bytes([all[6], all[7]]) })
}

/// Sends each as it is, and receives it as a value.
fn received<T: OneMapping, M, C: Code<M>>(records: &[Vec<u8>]) -> Vec<Result<M, BadRecord>> {
    let (queue, me) = queue(1024);
    let queue = queue.with_peers::<T>();
    let mut sender = queue.sender(&me).unwrap();
    let mut receiver = TypedReceiver::<M, C, T>::new(queue.receiver(&me).unwrap());
    let take = |record: &Vec<u8>| {
        assert!(sender.try_send(record).unwrap());
        match receiver.try_recv() {
            Ok(value) => Ok(value.expect("it is there")),
            Err(TypedError::Record(bad)) => Err(bad),
            Err(other) => panic!("{other}"),
        }
    };
    records.iter().map(take).collect()
}

fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = prop_oneof![Just(0_u8), Just(1), Just(7), any::<u8>()];
    let exact = prop::collection::vec(byte.clone(), 8..=8);
    prop::collection::vec(prop_oneof![3 => exact, 1 => prop::collection::vec(byte, 0..20)], 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(128)))]

    #[test]
    fn values_come_out_as_they_went_in(orders in prop::collection::vec(order(), 1..20)) {
        let (queue, me) = queue(1024);
        let mut sender = TypedSender::<Order>::new(queue.sender(&me).unwrap());
        let mut receiver = TypedReceiver::<Order>::new(queue.receiver(&me).unwrap());
        for order in orders {
            sender.send(&order).unwrap();
            prop_assert_eq!(receiver.recv().unwrap(), order);
        }
        prop_assert_eq!(receiver.try_recv(), Ok(None));
    }

    #[test]
    fn what_is_no_value_is_an_error(records in records()) {
        let all: Vec<_> = records.iter().map(|bytes| expected(bytes)).collect();
        prop_assert_eq!(received::<Crashing, Order, Plain>(&records), all.clone());
        prop_assert_eq!(received::<Buggy, Order, Plain>(&records), all);
    }

    #[test]
    fn what_is_no_text_is_an_error(records in records()) {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).map_err(|_| BadRecord::Text);
        let all: Vec<_> = records.iter().map(text).collect();
        prop_assert_eq!(received::<Crashing, String, Text>(&records), all);
    }
}

#[test]
fn another_type_does_not_attach() {
    let (_, me) = queue(1024);
    let mapping = shm_core::mapping::Mapping::heap(Queue::bytes_for(1024) as usize);
    // SAFETY: nobody else has the mapping.
    unsafe { Queue::create(&mapping, 0, 1024, Order::FINGERPRINT) }.unwrap();
    let other = TypedSender::<String, Text>::attach(&mapping, 0, &me);
    assert!(matches!(other, Err(AttachError::OtherRecords { .. })));
    assert!(TypedSender::<Order>::attach(&mapping, 0, &me).is_ok());
}

#[cfg(feature = "serde")]
mod serde_values {
    use super::*;
    use shm_mq::typed::Postcard;

    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Event {
        Started,
        Said { who: String, what: Vec<u32> },
    }

    fn event() -> impl Strategy<Value = Event> {
        let said = (".{0,10}", prop::collection::vec(any::<u32>(), 0..8));
        prop_oneof![Just(Event::Started), said.prop_map(|(who, what)| Event::Said { who, what }),]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(64)))]

        #[test]
        fn values_come_out_as_they_went_in(events in prop::collection::vec(event(), 1..10)) {
            let (queue, me) = queue(1024);
            let mut sender = TypedSender::<Event, Postcard>::new(queue.sender(&me).unwrap());
            let mut receiver = TypedReceiver::<Event, Postcard>::new(queue.receiver(&me).unwrap());
            for event in events {
                sender.send(&event).unwrap();
                prop_assert_eq!(receiver.recv().unwrap(), event);
            }
        }

        #[test]
        fn any_bytes_are_a_value_or_an_error(records in records()) {
            for value in received::<Buggy, Event, Postcard>(&records) {
                prop_assert!(value.is_ok() || value == Err(BadRecord::Postcard));
            }
        }
    }
}
