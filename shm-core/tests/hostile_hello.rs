//! `exchange` against a peer that wants to hold it up, or to leave something behind in it: by locks
//! of its files, by descriptors that are slow to be closed, by what a socket can be told to do.
//! It ends by its deadline, and afterwards this process has what it had before.
#![cfg(not(any(shm_loom, shm_explore)))]
mod sealed_common;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap_anonymous, userfaultfd};
use rustix::net::sockopt::{set_socket_linger, set_socket_oobinline};
use rustix::net::{SendFlags, send};
use sealed_common::*;
use shm_core::sealed::{ExchangeError, ForeignError, Heard, Own, exchange};
use shm_testkit::child::Child;
use shm_testkit::fault::Footprint;
use shm_testkit::watchdog::within;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

// ---- Locks. ----

/// A page that does not come before the second half is dropped: who touches it waits.
fn late_page() -> Result<(*mut libc::c_void, OwnedFd), rustix::io::Errno> {
    const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
    const MISSING: u64 = 1;
    // SAFETY: what it is given is a page of this test alone.
    let fault = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }?;
    let (len, both) = (PAGE as usize, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping, wherever the kernel likes. It stays until the process ends.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), len, both, MapFlags::PRIVATE) }?;
    let mut api = [0xaa_u64, 0, 0];
    // SAFETY: a structure of that size.
    assert_eq!(unsafe { libc::ioctl(fault.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) }, 0);
    let mut range = [page.addr() as u64, PAGE, MISSING, 0];
    // SAFETY: likewise; the page is nobody else's.
    let done = unsafe { libc::ioctl(fault.as_raw_fd(), UFFDIO_REGISTER, range.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    Ok((page, fault))
}

/// Hands memory over while a thread of the peer is in a `read` or `write` of it that does not come
/// to its end, and so holds the file's locks. Whether it was in it.
fn is_taken_during(is_write: bool) -> Option<bool> {
    let Ok((page, fault)) = late_page() else {
        println!("not run: pages that come late (userfaultfd) are not permitted here");
        return None;
    };
    let memory = memory(2 * PAGE, ALL);
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    // Opened anew it has a lock for its position: what memfd_create gives has none.
    let again = open(path.as_str(), OFlags::RDWR, Mode::empty()).unwrap();
    let (fd, page) = (again.as_raw_fd(), page.expose_provenance());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let page = std::ptr::with_exposed_provenance_mut(page);
            if is_write {
                // SAFETY: a page that stays.
                unsafe { libc::write(fd, page, PAGE as usize) }
            } else {
                // SAFETY: as above.
                unsafe { libc::read(fd, page, PAGE as usize) }
            }
        });
        // Kernels that look at the seals before the buffer end a write at once.
        let limit = if is_write { Duration::from_secs(1) } else { LIMIT };
        let soon = Timespec::try_from(limit).unwrap();
        let is_in_it = poll(&mut [PollFd::new(&fault, PollFlags::IN)], Some(&soon)) == Ok(1);
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &hello(), &[again.as_fd()]).unwrap();
        let own = Own::create("honest", PAGE).unwrap();
        // By a thread, so that this one can let the page come when it hangs.
        let (end, ended) = std::sync::mpsc::channel();
        scope.spawn(move || {
            end.send(exchange(ours, &own, WANTED, Some(Instant::now() + SHORT)).map(drop))
        });
        let taken = ended.recv_timeout(LIMIT / 4);
        drop(fault);
        assert_eq!(taken, Ok(Ok(())), "it waits for a lock that the peer holds");
        Some(is_in_it)
    })
}

#[test]
fn a_peer_that_holds_the_locks_of_its_file_holds_up_nobody() {
    let read = is_taken_during(false);
    assert_ne!(read, Some(false), "the read waits for nothing: this tries nothing");
    println!("held by a read: {read:?}, by a write: {:?}", is_taken_during(true));
}

// ---- Descriptors that are slow to be closed. ----

/// A socket with bytes that the other end never reads: who closes it last waits for them, an hour.
fn lingers() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let lingers = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (deaf, _) = listener.accept().unwrap();
    let bytes = vec![0; 1 << 20];
    while send(&lingers, &bytes, SendFlags::DONTWAIT).is_ok() {}
    set_socket_linger(&lingers, Some(Duration::from_secs(3600))).unwrap();
    (lingers, deaf)
}

/// Says `bytes` with a number of descriptors, the last of which is the last one of a socket that
/// lingers. Whoever closes it waits, as long as the other end is kept.
fn say_with_one_that_lingers(socket: &UnixStream, bytes: &[u8], count: usize) -> TcpStream {
    let (lingers, deaf) = lingers();
    let other = memory(2 * PAGE, ALL);
    let mut fds: Vec<BorrowedFd<'_>> = vec![other.as_fd(); count - 1];
    fds.push(lingers.as_fd());
    say(socket, bytes, &fds).unwrap();
    // The message holds another, so that this is not the last.
    drop(lingers);
    deaf
}

/// How a meeting fails. One that does not is closed here, under the same watch.
fn failure(ours: UnixStream) -> Option<ExchangeError> {
    within(LIMIT, || meet(ours).err())
}

fn is_not_understood(end: Option<ExchangeError>) -> bool {
    matches!(end, Some(ExchangeError::NotUnderstood { .. }))
}

#[test]
fn a_descriptor_whose_closing_blocks_blocks_nobody() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let _deaf = say_with_one_that_lingers(&theirs, &hello(), 1);
    assert_eq!(failure(ours), Some(ExchangeError::Memory(ForeignError::NotMemory)));
}

#[test]
fn surplus_descriptors_are_not_closed_in_our_call() {
    for count in [2, 3, 4, 20, 253] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let _deaf = say_with_one_that_lingers(&theirs, &hello(), count);
        assert_eq!(failure(ours), Some(ExchangeError::Descriptors), "{count}");
    }
}

#[test]
fn descriptors_behind_the_hello_are_not_closed_in_our_call() {
    // It is taken, with its memory, and refused for the next one.
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&theirs, &hello(), &[memory(2 * PAGE, ALL).as_fd()]).unwrap();
    let _deaf = say_with_one_that_lingers(&theirs, b"!", 1);
    assert_eq!(failure(ours), Some(ExchangeError::Descriptors));
    // It is refused at once, and the next ones are still in the socket.
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&theirs, b"nonsense", &[]).unwrap();
    for _ in 0..9 {
        say(&theirs, b"!", &[theirs.as_fd()]).unwrap();
    }
    let _deaf = say_with_one_that_lingers(&theirs, b"!", 1);
    assert!(is_not_understood(failure(ours)));
    // It talks until nobody listens any more.
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&theirs, &hello(), &[memory(2 * PAGE, ALL).as_fd()]).unwrap();
    for _ in 0..100 {
        say(&theirs, b"!!!!!!!!", &[]).unwrap();
    }
    let _deaf = say_with_one_that_lingers(&theirs, b"!", 1);
    assert!(is_not_understood(failure(ours)));
}

/// As on Linux before 6.16, which lets descriptors through at any time.
#[test]
fn descriptors_that_come_with_a_bell_are_not_closed_in_our_call() {
    const SO_PASSRIGHTS: i32 = 83;
    for waits in [true, false] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        say(&theirs, &hello(), &[memory(2 * PAGE, ALL).as_fd()]).unwrap();
        let bell = meet(ours).unwrap().1;
        set(&UnixStream::from(bell.as_fd().try_clone_to_owned().unwrap()), SO_PASSRIGHTS..=83);
        let _deaf = say_with_one_that_lingers(&theirs, b"!", 2);
        within(LIMIT, move || {
            if waits {
                assert_eq!(bell.wait(None), Heard::Bell);
                assert!(bell.is_gone(), "we have hung up");
                assert_eq!(bell.wait(None), Heard::Gone);
            }
            drop(bell);
        });
        // Who hangs up is seen to.
        assert_eq!(poll(&mut [PollFd::new(&theirs, PollFlags::empty())], None), Ok(1));
    }
}

#[test]
fn bells_behind_the_hello_are_no_lie() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&theirs, &hello(), &[memory(2 * PAGE, ALL).as_fd()]).unwrap();
    say(&theirs, b"!!!", &[]).unwrap();
    assert!(!meet(ours).unwrap().1.is_gone());
}

// ---- What a socket can be told to do. ----

#[test]
fn a_byte_out_of_band_does_not_outlast_the_deadline() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    if send(&theirs, b"!", SendFlags::OOB).is_err() {
        return println!("not run: this kernel has no bytes out of band on such sockets");
    }
    assert!(is_not_understood(failure(ours)));
    // Who has our end too can take back what we asked for: then each `poll` says that there is
    // something, and each `recvmsg` that there is nothing.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let copy = ours.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let hello = &mut [PollFd::new(&theirs, PollFlags::IN)];
            assert_eq!(poll(hello, None), Ok(1));
            set_socket_oobinline(&copy, false).unwrap();
            send(&theirs, b"!", SendFlags::OOB).unwrap();
        });
        let own = Own::create("honest", PAGE).unwrap();
        let end = within(LIMIT, || exchange(ours, &own, WANTED, Some(Instant::now() + 10 * SHORT)));
        assert_eq!(end.err(), Some(ExchangeError::TimedOut));
    });
}

/// Switches options of our end on, as may whoever made the socket. How many it knows.
fn set(socket: &UnixStream, options: std::ops::RangeInclusive<i32>) -> usize {
    let one = 1_i32;
    let set = |option: &i32| {
        let (fd, len) = (socket.as_raw_fd(), size_of_val(&one) as libc::socklen_t);
        let value = (&raw const one).cast();
        // SAFETY: a value and its size.
        let done = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, *option, value, len) };
        done == 0
    };
    options.filter(set).count()
}

/// In a process of its own, where nobody else opens anything.
fn meets_over_any_socket(_: &[String]) {
    let (mut known, mut met) = (0, 0);
    for options in (1..=100).map(|option| option..=option).chain([1..=100]) {
        for (bytes, fds) in [(THEIRS, 1), (THEIRS, 0), (THEIRS, 8), (OURS, 1)] {
            let before = Footprint::now();
            let (ours, theirs) = UnixStream::pair().unwrap();
            known += set(&ours, options.clone());
            let good = memory(2 * PAGE, ALL);
            // The smallest queue has no room for them all.
            let _ = say(&theirs, &bytes.to_ne_bytes(), &vec![good.as_fd(); fds]);
            let end = meet(ours);
            met += usize::from(end.is_ok());
            let is_good = (bytes, fds) == (THEIRS, 1);
            assert_eq!(end.is_ok(), is_good, "options {options:?}: {end:?}");
            drop((end, theirs, good));
            // A thread closes what was not asked for.
            let limit = Instant::now() + LIMIT;
            while let Some(changes) = before.changes() {
                assert!(Instant::now() < limit, "options {options:?}: {changes}");
            }
        }
    }
    println!("{known} options set, {met} met");
    assert!(known > 0);
}
shm_testkit::children! { meets_over_any_socket }

#[test]
fn no_option_of_the_socket_makes_it_keep_something() {
    let mut child = Child::spawn("meets_over_any_socket", &[]);
    println!("{}", child.hear(LIMIT));
    child.wait(LIMIT).assert_success();
}
