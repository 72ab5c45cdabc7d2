//! A forked child is nobody: what it inherited acts for its parent neither now nor when dropped.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::process::Forked;
use shm_mq::stream::{AttachError, Stream};
use shm_testkit::child::in_a_fork;
use std::sync::Arc;

const RING_BYTES: u64 = 1024;

fn stream() -> (Arc<Member>, Stream) {
    let at = Table::bytes_for(2).next_multiple_of(64);
    let mapping = shared_mapping((at + Stream::bytes_for(RING_BYTES)) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&mapping, 0, 2) }.unwrap().join().unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, RING_BYTES) }.unwrap();
    (me, stream)
}

/// Anonymous memory that forked children share.
fn shared_mapping(len: usize) -> Arc<Mapping> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, wherever the kernel likes.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, flags) }.unwrap();
    let unmap = Box::new(|base: std::ptr::NonNull<u8>, len| {
        // SAFETY: the mapping made above, which nobody uses any more.
        unsafe { munmap(base.as_ptr().cast(), len) }.unwrap();
    });
    // SAFETY: our fresh mapping of `len` bytes, page aligned.
    unsafe { Mapping::from_raw(std::ptr::NonNull::new(base.cast()).unwrap(), len, unmap) }
}

#[test]
fn a_child_that_drops_a_borrowed_message_gives_nothing_back() {
    let (me, stream) = stream();
    let (mut sender, mut receiver) = (stream.sender(&me).unwrap(), stream.receiver(&me).unwrap());
    sender.send(&[7; 500]).unwrap();
    let message = receiver.recv().unwrap();
    // Moved in, so that the child drops it and the parent does not.
    let mut message = Some(message);
    assert!(in_a_fork(|| message.take().is_some()));
    assert_eq!(stream.status().read, 0, "the parent still reads these bytes");
    sender.try_send(&[8; 500]).unwrap();
    sender.try_send(&[9; 500]).unwrap_err();
    assert_eq!(**message.as_ref().unwrap(), [7; 500]);
}

#[test]
fn a_child_takes_no_role_in_its_parents_name() {
    let (me, stream) = stream();
    assert!(in_a_fork(|| {
        assert_eq!(stream.sender(&me).err(), Some(AttachError::Forked(Forked)));
        assert_eq!(stream.receiver(&me).err(), Some(AttachError::Forked(Forked)));
        true
    }));
    let (mut sender, mut receiver) = (stream.sender(&me).unwrap(), stream.receiver(&me).unwrap());
    sender.send(b"hello").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"hello");
}
