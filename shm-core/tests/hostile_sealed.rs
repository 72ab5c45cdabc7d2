//! `sealed` against a peer that lies about its descriptors and abuses the bell: what is not whole,
//! sealed memory is refused by name, nothing that was smuggled in is kept, and no call outlasts
//! its deadline. And what the honest side made, nobody else can write, cut off or punch.
#![cfg(not(any(shm_loom, shm_explore)))]
mod sealed_common;
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate,
    memfd_create, open,
};
use rustix::io::{Errno, write};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap};
use rustix::net::{SendFlags, send};
use sealed_common::*;
use shm_core::sealed::{
    Doorbell, ExchangeError, Foreign, ForeignError, Heard, Own, Wanted, exchange,
};
use shm_testkit::child::Child;
use shm_testkit::fault::forbid;
use shm_testkit::watchdog::within;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::Instant;

#[test]
fn whole_sealed_memory_is_taken() {
    let (memory, bell) = answer(&hello(), &[memory(2 * PAGE, ALL).as_fd()]).unwrap();
    assert_eq!(memory.len(), 2 * PAGE);
    assert!(bell.is_gone(), "the liar's end is closed");
}

#[test]
fn what_is_no_sealed_memory_is_refused() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let memory_there = memory(2 * PAGE, ALL);
    let path = format!("/proc/self/fd/{}", memory_there.as_raw_fd());
    let pathless = open(path.as_str(), OFlags::PATH, Mode::empty()).unwrap();
    let device = File::open("/dev/zero").unwrap();
    let directory = File::open("/proc/self").unwrap();
    let file = File::open("/proc/self/exe").unwrap();
    let files = [reader.as_fd(), writer.as_fd(), socket.as_fd(), pathless.as_fd(), device.as_fd()];
    let mut tried = 0;
    for fd in files.into_iter().chain([directory.as_fd(), file.as_fd()]) {
        assert_eq!(refused(fd), ForeignError::NotMemory);
        tried += 1;
    }
    for missing in ALL.iter() {
        let unsealed = ForeignError::Unsealed { missing };
        assert_eq!(refused(memory(2 * PAGE, ALL - missing)), unsealed);
        tried += 1;
    }
    println!("descriptors refused: {tried}");
}

#[test]
fn secret_memory_is_refused() {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    if fd < 0 {
        return println!("not run: this kernel has no secret memory");
    }
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    ftruncate(&fd, 2 * PAGE).unwrap();
    assert_eq!(refused(fd), ForeignError::NotMemory);
}

#[test]
fn memory_opened_to_be_read_only_is_taken() {
    let fd = memory(2 * PAGE, ALL);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let again = open(path.as_str(), OFlags::RDONLY, Mode::empty()).unwrap();
    assert!(answer(&hello(), &[again.as_fd()]).is_ok());
}

#[test]
fn memory_of_another_size_or_with_holes_is_refused() {
    let size = |bytes| ForeignError::Size { bytes, min: 2 * PAGE, max: 4 * PAGE };
    assert_eq!(refused(memory(2 * PAGE - 1, ALL)), size(2 * PAGE - 1));
    assert_eq!(refused(memory(4 * PAGE + 1, ALL)), size(4 * PAGE + 1));
    let huge = spoilt(|fd| ftruncate(fd, i64::MAX as u64).unwrap());
    assert_eq!(refused(huge), size(i64::MAX as u64));
    assert_eq!(refused(spoilt(|_| {})), size(0));
    let bytes = 3 * PAGE;
    assert_eq!(refused(sparse()), ForeignError::Sparse { there: 0, bytes });
    let punched = spoilt(|fd| {
        write(fd, &[1; 3 * PAGE as usize]).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(fd, flags, PAGE, PAGE).unwrap();
    });
    assert_eq!(refused(punched), ForeignError::Sparse { there: 2 * PAGE, bytes });
    match answer(&hello(), &[beside().as_fd()]) {
        Ok(_) => println!("not run: holes are not told before Linux 6.5"),
        Err(why) => {
            let sparse = ForeignError::Sparse { there: 0, bytes };
            assert_eq!(why, ExchangeError::Memory(sparse));
        }
    }
    // Pages that are reserved, and not written.
    let reserved = spoilt(|fd| fallocate(fd, FallocateFlags::empty(), 0, 3 * PAGE).unwrap());
    assert!(answer(&hello(), &[reserved.as_fd()]).is_ok());
}

/// Memory of nothing but holes.
fn sparse() -> OwnedFd {
    spoilt(|fd| ftruncate(fd, 3 * PAGE).unwrap())
}

/// Memory that has as many pages as it should, but behind its end.
fn beside() -> OwnedFd {
    spoilt(|fd| {
        ftruncate(fd, 3 * PAGE).unwrap();
        fallocate(fd, FallocateFlags::KEEP_SIZE, 3 * PAGE, 3 * PAGE).unwrap();
    })
}

/// As on Linux before 6.5, which tells no more than how many pages there are.
fn maps_without_cachestat(_: &[String]) {
    const SYS_CACHESTAT: libc::c_long = 451;
    if let Err(not_run) = forbid(&[SYS_CACHESTAT], libc::ENOSYS) {
        return println!("{not_run}");
    }
    assert!(answer(&hello(), &[memory(2 * PAGE, ALL).as_fd()]).is_ok());
    assert_eq!(refused(sparse()), ForeignError::Sparse { there: 0, bytes: 3 * PAGE });
    // What it does not find out it makes up for: then nothing is left to be SIGBUS.
    let beside = beside();
    let (memory, _bell) = answer(&hello(), &[beside.as_fd()]).unwrap();
    let pages = rustix::fs::fstat(&beside).unwrap().st_blocks as u64 * 512 / PAGE;
    assert_eq!((memory.len(), pages), (3 * PAGE, 6));
}
shm_testkit::children! { maps_without_cachestat }

#[test]
fn an_older_kernel_maps_what_is_whole() {
    let mut child = Child::spawn("maps_without_cachestat", &[]);
    child.wait(LIMIT).assert_success();
}

#[test]
fn huge_pages_are_refused() {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let Ok(fd) = memfd_create("liar", flags) else {
        return println!("not run: this kernel has no memfd of huge pages");
    };
    // It need not have any page: its kind is asked first.
    ftruncate(&fd, 2 << 20).unwrap();
    fcntl_add_seals(&fd, ALL).unwrap();
    assert!(matches!(refused(fd), ForeignError::OtherKind { .. }));
}

#[test]
fn another_hello_is_not_understood() {
    let good = memory(2 * PAGE, ALL);
    let found = |bytes: &[u8]| match answer(bytes, &[good.as_fd()]) {
        Err(ExchangeError::NotUnderstood { found }) => found.to_ne_bytes(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&OURS.to_ne_bytes()), OURS.to_ne_bytes());
    assert_eq!(found(&hello()[..4])[..4], hello()[..4]);
    // In two parts, each with a descriptor.
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&theirs, &hello()[..4], &[good.as_fd()]).unwrap();
    say(&theirs, &hello()[4..], &[good.as_fd()]).unwrap();
    assert!(matches!(meet(ours), Err(ExchangeError::NotUnderstood { .. })));
}

#[test]
fn another_number_of_descriptors_is_refused_and_all_are_closed() {
    let good = memory(2 * PAGE, ALL);
    assert_eq!(answer(&hello(), &[]).err(), Some(ExchangeError::Descriptors));
    for extra in 1..8 {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut fds = vec![good.as_fd()];
        fds.extend((0..extra).map(|_| writer.as_fd()));
        fds.reverse();
        assert_eq!(answer(&hello(), &fds).err(), Some(ExchangeError::Descriptors));
        drop(writer);
        assert!(is_closed(reader));
    }
    let (reader, writer) = std::io::pipe().unwrap();
    assert_eq!(refused(&writer), ForeignError::NotMemory);
    drop(writer);
    assert!(is_closed(reader));
}

#[test]
fn a_peer_that_says_nothing_or_has_gone_is_an_error_in_time() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(meet(ours).err(), Some(ExchangeError::TimedOut));
    drop(theirs);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert_eq!(meet(ours).err(), Some(ExchangeError::PeerDied));
    // Its queue is full, and it reads nothing.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    while send(&ours, &[0; 4096], SendFlags::DONTWAIT).is_ok() {}
    assert_eq!(meet(ours).err(), Some(ExchangeError::TimedOut));
}

/// Both ends of a bell, in this process.
fn bells() -> (Doorbell, Doorbell) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (one, two) = (Own::create("one", PAGE).unwrap(), Own::create("two", PAGE).unwrap());
    let wanted = |mine, theirs| Wanted { mine, theirs, bytes_min: PAGE, bytes_max: PAGE };
    let end = Some(Instant::now() + LIMIT);
    let other = std::thread::spawn(move || exchange(theirs, &two, wanted(2, 1), end).unwrap().1);
    let bell = exchange(ours, &one, wanted(1, 2), end).unwrap().1;
    (bell, other.join().unwrap())
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + SHORT)
}

#[test]
fn a_bell_wakes_once_and_tells_of_the_end() {
    let (ours, theirs) = bells();
    assert_eq!(ours.wait(soon()), Heard::TimedOut);
    assert!(theirs.ring() && theirs.ring());
    assert_eq!(within(LIMIT, || ours.wait(None)), Heard::Bell);
    assert_eq!(ours.wait(soon()), Heard::TimedOut, "both are heard at once");
    assert!(!ours.is_gone());
    drop(theirs);
    assert!(ours.is_gone());
    assert_eq!(within(LIMIT, || ours.wait(None)), Heard::Gone);
    assert!(!ours.ring(), "and no signal for it");
}

#[test]
fn a_bell_that_is_flooded_never_blocks_and_still_ends() {
    let (ours, theirs) = bells();
    // A liar that clears and sets the flags of what it holds.
    rustix::io::ioctl_fionbio(&theirs, false).unwrap();
    let (mut rung, mut bytes) = (0, 0);
    within(LIMIT, || {
        while let Ok(count) = send(&theirs, &[7; 5000], SendFlags::DONTWAIT) {
            bytes += count;
        }
        // Nobody empties the other direction either.
        while send(&ours, b"!", SendFlags::DONTWAIT).is_ok() {
            rung += 1;
        }
        assert!(ours.ring(), "a full bell is one that will be heard");
        let mut woken = 0;
        while ours.wait(soon()) == Heard::Bell {
            woken += 1;
        }
        println!("{bytes} bytes woke {woken} times; {rung} rings filled the bell");
    });
    drop(theirs);
    assert!(ours.is_gone());
}

#[test]
fn descriptors_that_come_with_the_bell_are_not_kept() {
    let (ours, theirs) = bells();
    let theirs = UnixStream::from(theirs.as_fd().try_clone_to_owned().unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    match say(&theirs, b"!", &[writer.as_fd()]) {
        Err(errno) => println!("the kernel refuses them: {errno}"),
        Ok(_) => println!("the kernel throws them away"),
    }
    let _ = within(LIMIT, || ours.wait(soon()));
    drop(writer);
    assert!(is_closed(reader));
}

#[test]
fn nobody_else_writes_cuts_off_or_punches_what_one_made() {
    let own = Own::create("mine", 2 * PAGE).unwrap();
    let fd = own.fd().try_clone_to_owned().unwrap();
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let again = open(path.as_str(), OFlags::RDWR, Mode::empty()).unwrap();
    for fd in [&fd, &again] {
        assert_eq!(write(fd, &[1]), Err(Errno::PERM));
        assert_eq!(ftruncate(fd, 0), Err(Errno::PERM));
        assert_eq!(ftruncate(fd, 3 * PAGE), Err(Errno::PERM));
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(fallocate(fd, punch, 0, PAGE), Err(Errno::PERM));
        assert_eq!(fallocate(fd, FallocateFlags::KEEP_SIZE, 2 * PAGE, PAGE), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(fd, SealFlags::WRITE), Err(Errno::PERM));
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let writable = unsafe { mmap(ptr::null_mut(), 8192, both, MapFlags::SHARED, fd, 0) };
        assert_eq!(writable, Err(Errno::PERM));
        // SAFETY: as above.
        let mapped =
            unsafe { mmap(ptr::null_mut(), 8192, ProtFlags::READ, MapFlags::SHARED, fd, 0) };
        let mapped = mapped.unwrap();
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the mapping just made, to which nothing refers.
        assert_eq!(unsafe { mprotect(mapped, 8192, flags) }, Err(Errno::ACCESS));
        // SAFETY: as above.
        let removed = unsafe { madvise(mapped, 8192, Advice::LinuxRemove) };
        assert!(removed.is_err(), "a hole through a mapping");
        // SAFETY: as above.
        unsafe { munmap(mapped, 8192) }.unwrap();
    }
    // Its creator cannot punch holes either, through the mapping that it may write.
    let base = own.mapping().region().base().as_ptr();
    // SAFETY: our mapping, to which nothing refers.
    let removed = unsafe { madvise(base.cast(), 8192, Advice::LinuxRemove) };
    assert_eq!(removed, Err(Errno::PERM));
    // But it can write.
    // SAFETY: our mapping, two pages.
    unsafe { base.write_volatile(7) };
    assert_eq!(Foreign::map(&fd, PAGE, 2 * PAGE).unwrap().len(), 2 * PAGE);
}

#[test]
fn on_both_sides_of_a_mapping_nothing_can_be_touched() {
    let own = Own::create("between", 2 * PAGE).unwrap();
    let base = own.mapping().region().base().addr().get();
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with(&format!("{base:x}-"))).unwrap();
    let (before, behind) = (lines[at - 1], lines[at + 1]);
    assert!(before.contains(&format!("-{base:x} ---p")), "{before}");
    assert!(behind.contains(" ---p ") && lines[at].contains("between"), "{behind}");
    assert!(behind.starts_with(&format!("{:x}-", base as u64 + 2 * PAGE)), "{behind}");
}

#[test]
fn too_much_memory_is_an_error() {
    use shm_core::sealed::CreateError;
    for bytes in [0, u64::MAX, 1 << 63] {
        assert_eq!(Own::create("much", bytes).unwrap_err(), CreateError::BadSize { bytes });
    }
}
