//! The kernel's: a Unix socket of the kind `SOCK_SEQPACKET` and a pipe, with the buffers that they
//! have by themselves.
use crate::queue::{Payload, Receiver, Sender, check};
use rustix::fs::{CWD, FileType, Mode};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

fn socket(at: &Path) -> (OwnedFd, SocketAddrUnix) {
    let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
    (socket.expect("a socket"), SocketAddrUnix::new(at).expect("a short path"))
}

/// The sender has the name, and accepts the receiver, which has come, before it sends.
pub(crate) enum Seqpacket {
    Listens(OwnedFd),
    Sends(OwnedFd),
    Receives(OwnedFd, Vec<u8>),
}

impl Seqpacket {
    pub(crate) fn sender(at: &Path, _bytes: usize) -> Box<dyn Sender> {
        let (socket, name) = socket(at);
        net::bind(&socket, &name).expect("a free name");
        net::listen(&socket, 1).expect("it is bound");
        Box::new(Seqpacket::Listens(socket))
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        let (socket, name) = socket(at);
        net::connect(&socket, &name).expect("it listens");
        Box::new(Seqpacket::Receives(socket, vec![0; bytes]))
    }
}

impl Sender for Seqpacket {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        if let Seqpacket::Listens(socket) = self {
            *self = Seqpacket::Sends(net::accept(&*socket).expect("it has come"));
        }
        let Seqpacket::Sends(socket) = self else { panic!("a receiver") };
        for number in numbers {
            let message = payload.numbered(number);
            assert_eq!(net::send(&*socket, message, SendFlags::empty()), Ok(message.len()));
        }
    }
}

impl Receiver for Seqpacket {
    fn recv(&mut self, numbers: Range<u64>) {
        let Seqpacket::Receives(socket, message) = self else { panic!("a sender") };
        for number in numbers {
            let (_, len) =
                net::recv(&*socket, &mut message[..], RecvFlags::empty()).expect("it lives");
            check(&message[..len], number);
        }
    }
}

pub(crate) struct Pipe {
    file: File,
    message: Vec<u8>,
}

impl Pipe {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        let made = rustix::fs::mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
        made.expect("a free name");
        Pipe::open(at, bytes)
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        Pipe::open(at, bytes)
    }

    /// For both, so that it waits for nobody.
    fn open(at: &Path, bytes: usize) -> Box<Pipe> {
        let file = File::options().read(true).write(true).open(at).expect("a pipe");
        Box::new(Pipe { file, message: vec![0; bytes] })
    }
}

impl Sender for Pipe {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            self.file.write_all(payload.numbered(number)).expect("it lives");
        }
    }
}

impl Receiver for Pipe {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            self.file.read_exact(&mut self.message).expect("it lives");
            check(&self.message, number);
        }
    }
}
