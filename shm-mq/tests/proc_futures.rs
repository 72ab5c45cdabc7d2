//! Tasks wait for queues: under tokio's runtimes of one thread and of many, with a bell that the
//! kernel rings and with one that goes by a timer. None is missed, a future that is dropped has
//! taken nothing, and the peer's end is the end.
mod fan_common;
use futures_util::{FutureExt, SinkExt, StreamExt};
use shm_core::bell::Bell;
use shm_core::participants::Table;
use shm_core::sync::{AtomicU32, Ordering};
use shm_core::trust::Hostile;
use shm_core::{mapping::Mapping, participants::Member};
use shm_mq::fan_in::{Arrival, StrangeArrival, Strangers, StrangersError, Why};
use shm_mq::futures::{Async, AsyncError, Reactor, Receives, Sends};
use shm_mq::rpc::{Rpc, RpcConfig};
use shm_mq::spsc::{Limits, Queue, Receiver, RecvError, SendError, Sender};
use shm_mq::stream;
use shm_mq::work::{WorkConfig, WorkQueue};
use shm_testkit::watchdog::within;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};
use tokio::runtime::{Builder, Runtime};

mod broadcast_common;
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it only rings here")]
mod liar;
mod strange_rpc_common;

const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

struct Tokio(AsyncFd<OwnedFd>);

impl Reactor for Tokio {
    fn register(bell: OwnedFd) -> io::Result<Tokio> {
        // SAFETY: an `OwnedFd` is one descriptor, open for as long as it lives.
        let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) };
        Ok(Tokio(bell?))
    }

    fn poll_readable(
        &mut self,
        cx: &mut Context<'_>,
        look: &mut dyn FnMut() -> io::Result<()>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready_mut(cx))?;
            if let Ok(end) = guard.try_io(|_| look()) {
                return Poll::Ready(end);
            }
        }
    }
}

type Of<S> = Async<S, Tokio>;

fn runtimes() -> [Runtime; 2] {
    [Builder::new_current_thread(), {
        let mut many = Builder::new_multi_thread();
        many.worker_threads(2);
        many
    }]
    .map(|mut builder| builder.enable_all().build().unwrap())
}

/// The memory of two queues and of jobs, and two who may have their ends.
struct World {
    mapping: Arc<Mapping>,
    members: [Arc<Member>; 2],
}

const RING_BYTES: u64 = 512;
const QUEUE_BYTES: u64 = Queue::bytes_for(RING_BYTES).next_multiple_of(64);
const AT: u64 = Table::bytes_for(4).next_multiple_of(128);
const JOBS: WorkConfig = WorkConfig::new(4, 8);

impl World {
    fn new() -> World {
        let jobs_at = AT + 2 * QUEUE_BYTES;
        let mapping = Mapping::heap((jobs_at + WorkQueue::bytes_for(&JOBS)) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
        for number in 0..2 {
            let at = AT + number * QUEUE_BYTES;
            // SAFETY: as above, and what stands before ends there.
            unsafe { Queue::create(&mapping, at, RING_BYTES, 0) }.unwrap();
        }
        // SAFETY: as above.
        unsafe { WorkQueue::create(&mapping, jobs_at, &JOBS) }.unwrap();
        let members = [table.join().unwrap(), table.join().unwrap()];
        World { mapping, members }
    }

    fn sender(&self, number: u64) -> Sender {
        let [me, _] = &self.members;
        Sender::attach(&self.mapping, AT + number * QUEUE_BYTES, 0, me).unwrap()
    }

    fn receiver(&self, number: u64) -> Receiver {
        let [_, me] = &self.members;
        Receiver::attach(&self.mapping, AT + number * QUEUE_BYTES, 0, me).unwrap()
    }

    fn jobs(&self) -> WorkQueue {
        WorkQueue::attach(&self.mapping, AT + 2 * QUEUE_BYTES, 0).unwrap()
    }
}

/// Under each runtime, with each bell.
fn everywhere<F: Future<Output = ()>>(test: impl Fn(World, fn() -> Bell) -> F) {
    for runtime in runtimes() {
        for bell in [|| Bell::new().unwrap(), || Bell::by_timer().unwrap()] as [fn() -> Bell; 2] {
            within(LIMIT, || runtime.block_on(test(World::new(), bell)));
        }
    }
}

fn wait_for<S>(end: S, bell: fn() -> Bell) -> Of<S> {
    Async::with_bell(end, bell()).unwrap()
}

#[test]
fn each_record_arrives_in_its_order() {
    const COUNT: u32 = 2000;
    everywhere(|world, bell| async move {
        let (mut to, mut from) =
            (wait_for(world.sender(0), bell), wait_for(world.receiver(0), bell));
        let sends = async move {
            for number in 0..COUNT {
                to.send(&number.to_ne_bytes()).await.unwrap();
                if number % 500 == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        };
        let receives = async move {
            for number in 0..COUNT {
                assert_eq!(from.recv().await.unwrap(), number.to_ne_bytes());
            }
            match from.recv().await {
                Err(AsyncError::Queue(RecvError::Detached)) => {}
                other => panic!("{other:?}"),
            }
        };
        let sends = tokio::spawn(sends);
        tokio::spawn(receives).await.unwrap();
        sends.await.unwrap();
        drop(world);
    });
}

#[test]
fn each_record_of_a_broadcast_arrives_and_what_was_missed_is_told() {
    use shm_mq::broadcast::{Arrival, BroadcastConfig, RecvError, Subscription};
    const COUNT: u64 = 500;
    let record = |number: u64| Arrival::Record { number, bytes: number.to_ne_bytes().to_vec() };
    everywhere(|_, bell| async move {
        let (table, feed) = broadcast_common::broadcast(&BroadcastConfig::lossless(8, 8, 2));
        let me = table.join().unwrap();
        let mut to = wait_for(feed.publisher(&me).unwrap(), bell);
        let subscriptions = [(); 2].map(|()| feed.subscribe(&me, Subscription::default()).unwrap());
        let receives = subscriptions.map(|subscriber| {
            let mut from = wait_for(subscriber, bell);
            tokio::spawn(async move {
                for number in 0..COUNT {
                    assert_eq!(from.recv().await.unwrap(), record(number));
                }
                let end = from.recv().await;
                assert!(matches!(end, Err(AsyncError::Queue(RecvError::Detached))), "{end:?}");
            })
        });
        for number in 0..COUNT {
            to.send(&number.to_ne_bytes()).await.unwrap();
        }
        drop(to);
        for receives in receives {
            receives.await.unwrap();
        }
        let (table, feed) = broadcast_common::broadcast(&BroadcastConfig::lossy(2, 8, 1));
        let me = table.join().unwrap();
        let mut to = wait_for(feed.publisher(&me).unwrap(), bell);
        let mut from = wait_for(feed.subscribe(&me, Subscription::default()).unwrap(), bell);
        for number in 0..3_u64 {
            to.send(&number.to_ne_bytes()).await.unwrap();
        }
        from.ready().await.unwrap();
        // A loss is something that comes, and ends nothing.
        assert_eq!(from.recv().await.unwrap(), Arrival::Missed { records: 1 });
        assert_eq!(from.recv().await.unwrap(), record(1));
    });
}

#[test]
fn a_dropped_future_has_taken_nothing() {
    everywhere(|world, bell| async move {
        let mut sender = world.sender(0);
        let mut from = wait_for(world.receiver(0), bell);
        for number in 0..20_u8 {
            // Polled, armed, and dropped.
            assert!(from.recv().now_or_never().is_none());
            assert!(tokio::time::timeout(Duration::from_millis(1), from.recv()).await.is_err());
            sender.send(&[number]).unwrap();
            assert_eq!(from.recv().await.unwrap(), [number]);
        }
        let mut to = wait_for(sender, bell);
        while to.send(&[7; 100]).now_or_never().is_some() {}
        assert!(to.send(&[8; 100]).now_or_never().is_none());
        while let Some(record) = from.end().try_recv().unwrap() {
            assert_eq!(*record, [7; 100], "the one that was not sent");
        }
        to.send(&[9; 100]).await.unwrap();
        assert_eq!(from.recv().await.unwrap(), [9; 100]);
    });
}

#[test]
fn a_stream_ends_with_the_error_of_its_end() {
    everywhere(|world, bell| async move {
        let mut sink = wait_for(world.sender(0), bell).into_sink();
        let mut stream = wait_for(world.receiver(0), bell).into_stream();
        let sends = tokio::spawn(async move {
            for number in 0..100_u8 {
                sink.send(vec![number; 60]).await.unwrap();
            }
            sink.close().await.unwrap();
        });
        for number in 0..100_u8 {
            assert_eq!(stream.next().await.unwrap().unwrap(), [number; 60]);
        }
        sends.await.unwrap();
        let end = stream.next().await.unwrap();
        assert!(matches!(end, Err(AsyncError::Queue(RecvError::Detached))), "{end:?}");
        assert!(stream.next().await.is_none());
    });
}

#[test]
fn who_waits_for_room_learns_of_the_end() {
    everywhere(|world, bell| async move {
        let mut to = wait_for(world.sender(0), bell);
        let receiver = world.receiver(0);
        while to.send(&[7; 100]).now_or_never().is_some() {}
        let leaves = tokio::spawn(async move {
            tokio::time::sleep(SHORT).await;
            drop(receiver);
        });
        let end = to.send(&[7; 100]).await;
        assert!(matches!(end, Err(AsyncError::Queue(SendError::Detached))), "{end:?}");
        leaves.await.unwrap();
    });
}

#[test]
fn records_of_many_arrive_and_their_ends() {
    const COUNT: u8 = 50;
    everywhere(|_, bell| async move {
        let (fan_in, me) = fan_common::fan_in(3, 128);
        let mut stream = wait_for(fan_in.receiver(&me).unwrap(), bell).into_stream();
        for _ in 0..fan_in.lanes() {
            let mut to = wait_for(fan_in.sender(&me).unwrap(), bell);
            tokio::spawn(async move {
                for number in 0..COUNT {
                    to.send(&[number; 56]).await.unwrap();
                }
            });
        }
        let (mut next, mut ended) = ([0; 3], Vec::new());
        while ended.len() < next.len() {
            match stream.next().await.unwrap().unwrap() {
                Arrival::Record { lane, number, bytes, .. } => {
                    let next = &mut next[lane as usize];
                    assert_eq!((number, &*bytes), (u64::from(*next), [*next; 56].as_slice()));
                    *next += 1;
                }
                Arrival::End { lane, received, why, .. } => {
                    assert_eq!((received, why), (COUNT.into(), Why::Left));
                    ended.push(lane);
                }
            }
        }
        assert_eq!(next, [COUNT; 3]);
    });
}

#[test]
fn a_job_is_waited_for() {
    everywhere(|world, bell| async move {
        let mut worker = wait_for(world.jobs().worker(&world.members[0]).unwrap(), bell);
        let mut producer = world.jobs().producer(&world.members[1]).unwrap();
        for _ in 0..3 {
            assert!(worker.ready().now_or_never().is_none());
            assert!(producer.try_send(b"job").unwrap());
            worker.ready().await.unwrap();
            worker.end().try_claim().unwrap().unwrap().ack().unwrap();
        }
    });
}

/// One task waits for two queues by `select`, in whose arms futures are dropped all the time.
#[test]
fn selecting_loses_nothing() {
    const COUNT: u32 = 300;
    everywhere(|world, bell| async move {
        let [one, other] = [0, 1].map(|number| world.sender(number));
        let [mut first, mut second] = [0, 1].map(|number| wait_for(world.receiver(number), bell));
        let mut sends = Vec::new();
        for mut sender in [one, other] {
            sends.push(std::thread::spawn(move || {
                for number in 0..COUNT {
                    sender.send(&number.to_ne_bytes()).unwrap();
                }
                // Its end is not to come before all has been received.
                sender
            }));
        }
        let mut counts = [0_u32; 2];
        while counts != [COUNT; 2] {
            let (which, record) = tokio::select! {
                record = first.recv() => (0, record),
                record = second.recv() => (1, record),
            };
            assert_eq!(record.unwrap(), counts[which].to_ne_bytes());
            counts[which] += 1;
        }
        sends.into_iter().for_each(|sends| drop(sends.join().unwrap()));
    });
}

#[test]
fn a_call_is_awaited_at_both_ends() {
    const CALLS: RpcConfig = RpcConfig::new(1, 1, 8, 8);
    everywhere(|world, bell| async move {
        let mapping = Mapping::heap(Rpc::bytes_for(&CALLS) as usize);
        // SAFETY: nobody else has the mapping.
        let rpc = unsafe { Rpc::create(&mapping, 0, &CALLS) }.unwrap();
        let [one, other] = &world.members;
        let (client, mut server) =
            (rpc.client(one).unwrap(), wait_for(rpc.server(other).unwrap(), bell));
        let asks = async {
            tokio::time::sleep(SHORT).await;
            let mut call = wait_for(client.try_ask(b"how many").unwrap().unwrap(), bell);
            call.ready().await.unwrap();
            assert_eq!(*call.end().poll().unwrap().expect("it has ended"), *b"seven");
        };
        let serves = async {
            server.ready().await.unwrap();
            let request = server.end().try_take().unwrap().expect("there is one");
            tokio::time::sleep(SHORT).await;
            request.answer(b"seven").unwrap();
        };
        tokio::join!(asks, serves);
    });
}

/// Both ends of a hostile queue of records.
fn hostile_queue() -> (Sender<Hostile>, Receiver<Hostile>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let receives = || Receiver::<Hostile>::connect(theirs, Limits::default(), 0, None);
    let receiving = std::thread::spawn(receives);
    let sender = Sender::<Hostile>::connect(ours, RING_BYTES, 0, None).unwrap();
    (sender, receiving.join().unwrap().unwrap())
}

/// Both ends of a hostile stream.
fn hostile_stream() -> (stream::Sender<Hostile>, stream::Receiver<Hostile>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let receives = || stream::Receiver::<Hostile>::connect(theirs, Limits::default(), None);
    let receiving = std::thread::spawn(receives);
    let sender = stream::Sender::<Hostile>::connect(ours, RING_BYTES, None).unwrap();
    (sender, receiving.join().unwrap().unwrap())
}

/// Numbers go from one end to the other; who has sent all leaves.
async fn numbers_arrive<S, R>(to: S, from: R, bell: fn() -> Bell)
where
    S: Sends<Error: std::fmt::Debug> + Send + 'static,
    R: Receives<Item = Vec<u8>, Error: std::fmt::Debug> + Send + 'static,
{
    const COUNT: u32 = 1000;
    let (mut to, mut from) = (wait_for(to, bell), wait_for(from, bell));
    let sends = tokio::spawn(async move {
        for number in 0..COUNT {
            to.send(&number.to_ne_bytes()).await.unwrap();
            if number % 250 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    for number in 0..COUNT {
        assert_eq!(from.recv().await.unwrap(), number.to_ne_bytes());
    }
    assert!(from.recv().await.is_err(), "it has left");
    sends.await.unwrap();
}

#[test]
fn strangers_records_arrive_and_messages() {
    everywhere(|_, bell| async move {
        let (to, from) = hostile_queue();
        numbers_arrive(to, from, bell).await;
        let (to, from) = hostile_stream();
        numbers_arrive(to, from, bell).await;
    });
}

#[test]
fn who_waits_for_a_stranger_learns_of_its_end() {
    everywhere(|_, bell| async move {
        let (mut sender, receiver) = hostile_queue();
        let mut from = wait_for(receiver, bell);
        assert!(from.recv().now_or_never().is_none(), "armed, and dropped");
        // Who sleeps by itself meanwhile takes back what was announced.
        let soon = std::time::Instant::now() + Duration::from_millis(1);
        assert_eq!(from.end().recv_deadline(soon).err(), Some(RecvError::TimedOut));
        let sends = tokio::spawn(async move {
            tokio::time::sleep(SHORT).await;
            sender.send(b"last").unwrap();
            tokio::time::sleep(SHORT).await;
            drop(sender);
        });
        assert_eq!(from.recv().await.unwrap(), b"last");
        let end = from.recv().await;
        assert!(matches!(end, Err(AsyncError::Queue(RecvError::Detached))), "{end:?}");
        sends.await.unwrap();
        let (sender, receiver) = hostile_queue();
        let mut to = wait_for(sender, bell);
        while to.send(&[7; 100]).now_or_never().is_some() {}
        let leaves = tokio::spawn(async move {
            tokio::time::sleep(SHORT).await;
            drop(receiver);
        });
        let end = to.send(&[7; 100]).await;
        assert!(matches!(end, Err(AsyncError::Queue(SendError::Detached))), "{end:?}");
        leaves.await.unwrap();
    });
}

#[test]
fn records_of_many_strangers_arrive_and_their_ends() {
    const COUNT: u8 = 50;
    everywhere(|_, bell| async move {
        let mut strangers = Strangers::new();
        let senders = [0_usize, 1, 2].map(|key| {
            let (sender, receiver) = hostile_queue();
            strangers.admit(key, receiver);
            sender
        });
        let mut stream = wait_for(strangers, bell).into_stream();
        for sender in senders {
            let mut to = wait_for(sender, bell);
            tokio::spawn(async move {
                for number in 0..COUNT {
                    to.send(&[number; 56]).await.unwrap();
                    if number == 20 {
                        tokio::time::sleep(SHORT).await;
                    }
                }
            });
        }
        let (mut next, mut ended) = ([0; 3], 0);
        loop {
            match stream.next().await.unwrap() {
                Ok(StrangeArrival::Record { from, number, bytes }) => {
                    let next = &mut next[from];
                    assert_eq!((number, &*bytes), (u64::from(*next), [*next; 56].as_slice()));
                    *next += 1;
                }
                Ok(StrangeArrival::End { received, why, .. }) => {
                    assert_eq!((received, why), (COUNT.into(), Why::Left));
                    ended += 1;
                }
                Err(AsyncError::Queue(end)) => break assert_eq!(end, StrangersError::Nobody),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((next, ended), ([COUNT; 3], 3));
        assert!(stream.next().await.is_none());
    });
}

#[test]
fn records_of_a_strange_publisher_arrive_and_what_was_missed_is_told() {
    use shm_mq::broadcast::{
        Arrival, BroadcastConfig, RecvError, Start, StrangePublisher, StrangeSubscriber,
        Subscription,
    };
    const COUNT: u64 = 500;
    let record = |number: u64| Arrival::Record { number, bytes: number.to_ne_bytes().to_vec() };
    let met = |cells| {
        let config = BroadcastConfig::lossy(cells, 8, 1);
        let (mut publisher, invitation) = StrangePublisher::<()>::new(&config).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let how = Subscription { start: Start::Oldest, ..Subscription::default() };
        let connect = move || StrangeSubscriber::connect(theirs, Limits::default(), how, 0, None);
        let connecting = std::thread::spawn(connect);
        let guest = invitation.meet(ours, None).unwrap();
        assert!(publisher.admit((), guest).is_ok());
        (publisher, connecting.join().unwrap().unwrap())
    };
    everywhere(|_, bell| async move {
        let (mut publisher, subscriber) = met(COUNT as u32);
        let mut from = wait_for(subscriber, bell);
        let publishes = tokio::spawn(async move {
            for number in 0..COUNT {
                assert!(publisher.try_publish(&number.to_ne_bytes()).unwrap());
                if number % 100 == 0 {
                    tokio::time::sleep(SHORT / 4).await;
                }
            }
        });
        for number in 0..COUNT {
            assert_eq!(from.recv().await.unwrap(), record(number));
        }
        let end = from.recv().await;
        assert!(matches!(end, Err(AsyncError::Queue(RecvError::Detached))), "{end:?}");
        publishes.await.unwrap();
        let (mut publisher, subscriber) = met(2);
        let mut from = wait_for(subscriber, bell);
        for number in 0..3_u64 {
            assert!(publisher.try_publish(&number.to_ne_bytes()).unwrap());
        }
        from.ready().await.unwrap();
        // A loss is something that comes, and ends nothing.
        assert_eq!(from.recv().await.unwrap(), Arrival::Missed { records: 1 });
        assert_eq!(from.recv().await.unwrap(), record(1));
    });
}

/// More calls than are open at a time, and more answers than there is room for: the server waits
/// for calls, for room and for the client's end in one place.
#[test]
fn a_strangers_call_is_awaited_at_both_ends() {
    use shm_mq::rpc::strangers::{Event, StrangeConfig, StrangeServer};
    const CALLS: u8 = 60;
    let config = StrangeConfig { calls: 4, ring_bytes: 256, ..StrangeConfig::default() };
    everywhere(|_, bell| async move {
        let (client, connection) = strange_rpc_common::met(&config, &config);
        let mut server = StrangeServer::new();
        server.admit("p", connection);
        let mut server = wait_for(server, bell);
        let serves = tokio::spawn(async move {
            loop {
                server.ready().await.unwrap();
                let server = server.end();
                match server.try_take().unwrap() {
                    Some(Event::Asked(_, request)) => {
                        let answer = request.repeat(100);
                        server.answer(request, &answer).unwrap();
                    }
                    Some(Event::End { why, asked, .. }) => {
                        break assert_eq!((why, asked), (Why::Left, CALLS.into()));
                    }
                    None => {}
                }
            }
        });
        let (mut client, mut asked, mut ended) = (wait_for(client, bell), 0, 0);
        while ended < CALLS {
            while asked < CALLS {
                match client.end().try_ask(&[asked]) {
                    Ok(Some(_)) => asked += 1,
                    Ok(None) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            client.ready().await.unwrap();
            if ended % 7 == 0 {
                tokio::time::sleep(SHORT / 10).await;
            }
            let (_, answer) = client.end().wait_any(None).unwrap();
            assert_eq!(answer.unwrap(), [ended; 100]);
            ended += 1;
        }
        drop(client);
        serves.await.unwrap();
    });
}

/// Who rings all the time keeps no other task of the thread from its turn.
#[test]
fn a_stranger_that_rings_in_vain_hinders_nobody() {
    everywhere(|_, bell| async move {
        let (receiver, liar) = liar::victim_receiver(64);
        let (mut from, stop) = (wait_for(receiver, bell), Arc::new(AtomicU32::new(0)));
        let stops = stop.clone();
        let rings = std::thread::spawn(move || {
            while stops.load(Ordering::Relaxed) == 0 {
                liar.bell.ring();
            }
        });
        let (to, records) = hostile_queue();
        let others = tokio::spawn(numbers_arrive(to, records, bell));
        assert!(tokio::time::timeout(2 * SHORT, from.recv()).await.is_err(), "nothing is there");
        others.await.unwrap();
        stop.store(1, Ordering::Relaxed);
        let end = from.recv().await;
        assert!(matches!(end, Err(AsyncError::Queue(stream::RecvError::PeerDied))), "{end:?}");
        rings.join().unwrap();
    });
}
