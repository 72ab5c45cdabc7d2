//! Who waits for strangers' calls, and for their records of a broadcast, beside others, is woken by
//! each of them, by a deadline, and by a death; and not hindered by one who stands still.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "proc_common/peer.rs"]
#[allow(dead_code, reason = "nobody counts here")]
mod peer;
use shm_mq::broadcast::{
    BroadcastConfig, Limits, RecvError, StrangePublisher, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_mq::rpc::strangers::{
    CallId, Connection, Event, StrangeClient, StrangeConfig, StrangeError, StrangeServer,
};
use shm_mq::waitset::{Alarm, Source, WaitSet};
use shm_testkit::child::{Child, Setup, parent_says, tell_parent};
use shm_testkit::watchdog::within;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// So long nobody is late without a reason.
const SHORT: Duration = Duration::from_millis(30);

shm_testkit::children! { asks_when_told, answers_when_told, publishes_when_told }

fn two_sockets(args: &[String]) -> [UnixStream; 2] {
    [0, 1].map(|index| peer::given(args, index).into())
}

/// Asks a stranger, and does not look at its answers.
fn asks_when_told(args: &[String]) {
    let config = StrangeConfig::default();
    let mut client = StrangeClient::connect(two_sockets(args), &config, None).unwrap();
    tell_parent("attached");
    while parent_says() == "send" {
        client.try_ask(b"told").unwrap().unwrap();
    }
}

/// Answers one call of a stranger each time.
fn answers_when_told(args: &[String]) {
    let mut server = StrangeServer::new();
    let config = StrangeConfig::default();
    server.admit((), Connection::connect(two_sockets(args), &config, None).unwrap());
    tell_parent("attached");
    while parent_says() == "send" {
        let Ok(Event::Asked((), request)) = server.take(None) else { panic!("no call") };
        server.answer(request, b"told").unwrap();
    }
}

/// Publishes to a stranger.
fn publishes_when_told(args: &[String]) {
    let config = BroadcastConfig::lossy(2, 40, 1);
    let (mut publisher, invitation) = StrangePublisher::new(&config).unwrap();
    let guest = invitation.meet(peer::given(args, 0).into(), None).unwrap();
    assert!(publisher.admit((), guest).is_ok());
    tell_parent("attached");
    while parent_says() == "send" {
        assert!(publisher.try_publish(b"told").unwrap());
    }
}

/// Does something soon, while the caller waits.
fn soon<R>(act: impl FnOnce() + Send, wait: impl FnOnce() -> R) -> R {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            act();
        });
        within(LIMIT, wait)
    })
}

/// A child at the other ends of two sockets, and what `connect` makes of ours.
fn at_two_sockets<E, R>(
    function: &str,
    connect: impl FnOnce([UnixStream; 2], &StrangeConfig, Option<Instant>) -> Result<R, E>,
) -> (Child, R)
where
    E: std::fmt::Debug,
{
    let [(one, theirs), (other, their_other)] = [(); 2].map(|()| UnixStream::pair().unwrap());
    let fds = [theirs.as_fd(), their_other.as_fd()];
    let numbers = fds.map(|fd| fd.as_raw_fd().to_string());
    let args = numbers.each_ref().map(String::as_str);
    let mut child =
        Child::spawn_with(function, Setup { args: &args, fds: &fds, ..Setup::default() });
    drop((theirs, their_other));
    let config = StrangeConfig::default();
    let end = within(LIMIT, || connect([one, other], &config, None)).unwrap();
    assert_eq!(child.hear(LIMIT), "attached");
    (child, end)
}

/// What strangers' calls and records are waited for by: a server (0), a client (1), a subscriber
/// (2), a timer (3). Who has ended is left out.
struct Calls {
    server: StrangeServer<()>,
    client: Option<StrangeClient>,
    call: CallId,
    subscriber: Option<StrangeSubscriber>,
    set: WaitSet,
}

impl Calls {
    fn wait(&mut self, timeout: Duration) -> Vec<u32> {
        let mut timer = Alarm::at(Instant::now() + timeout);
        let mut sources: Vec<(u32, &mut dyn Source)> = vec![(0, &mut self.server), (3, &mut timer)];
        sources.extend(self.client.iter_mut().map(|end| (1, end as &mut dyn Source)));
        sources.extend(self.subscriber.iter_mut().map(|end| (2, end as &mut dyn Source)));
        within(2 * LIMIT, || self.set.wait(&mut sources, None)).unwrap()
    }

    /// Takes what is ready: whether it is no end.
    fn take(&mut self, key: u32) -> bool {
        match key {
            0 => match self.server.try_take().unwrap().unwrap() {
                Event::Asked((), request) => assert_eq!(*request, *b"told"),
                Event::End { why, .. } => {
                    assert_eq!(why, Why::Died);
                    return false;
                }
            },
            1 => {
                let client = self.client.as_mut().unwrap();
                match client.poll(self.call) {
                    Ok(answer) => assert_eq!(answer.unwrap(), b"told"),
                    Err(end) => {
                        assert_eq!(end, StrangeError::ServerDied);
                        self.client = None;
                        return false;
                    }
                }
                self.call = client.try_ask(b"once more").unwrap().unwrap();
            }
            _ => match self.subscriber.as_mut().unwrap().try_recv() {
                Ok(record) => assert_eq!(record.unwrap().1, b"told"),
                Err(end) => {
                    assert_eq!(end, RecvError::PublisherDied);
                    self.subscriber = None;
                    return false;
                }
            },
        }
        true
    }
}

#[test]
fn strangers_calls_and_records_are_waited_for() {
    let (asks, connection) = at_two_sockets("asks_when_told", Connection::connect);
    let mut server = StrangeServer::new();
    server.admit((), connection);
    let (answers, mut client) = at_two_sockets("answers_when_told", StrangeClient::connect);
    let call = client.try_ask(b"first").unwrap().unwrap();
    let mut publishes = peer::spawn("publishes_when_told", 0);
    let socket = publishes.socket.take().unwrap();
    let (limits, how) = (Limits::default(), Subscription::default());
    let connect = || StrangeSubscriber::connect(socket, limits, how, 0, None);
    let subscriber = Some(within(LIMIT, connect).unwrap());
    assert_eq!(publishes.child.hear(LIMIT), "attached");
    let mut children = [(0, asks), (1, answers), (2, publishes.child)];
    let mut all = Calls { server, client: Some(client), call, subscriber, set: WaitSet::new() };
    assert_eq!(all.wait(SHORT), [3], "nobody says anything");
    for _ in 0..3 {
        for (key, child) in &mut children {
            assert_eq!(soon(|| child.say("send"), || all.wait(LIMIT)), [*key]);
            assert!(all.take(*key));
        }
    }
    assert_eq!(all.wait(SHORT), [3], "all is taken");
    // A call that is due is ready by our clock.
    let client = all.client.as_mut().unwrap();
    let late = client.ask(b"late", Some(Instant::now() + SHORT)).unwrap();
    assert_eq!(all.wait(LIMIT), [1]);
    let end = all.client.as_mut().unwrap().poll(late);
    assert_eq!(end, Err(StrangeError::DeadlinePassed));
    // One that stands still hinders nobody, and is no end.
    children[1].1.stop();
    assert_eq!(all.wait(SHORT), [3]);
    for (key, mut child) in children {
        assert_eq!(soon(|| child.kill(), || all.wait(LIMIT)), [key]);
        assert!(!all.take(key), "an end");
        assert_eq!(all.wait(SHORT), [3], "the others live");
    }
    assert!(all.server.is_empty());
}
