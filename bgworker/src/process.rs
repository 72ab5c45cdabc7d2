//! Which process, for certain: pid and start time, and a pidfd to watch it by.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const PID_BITS: u32 = 22;
const START_BITS: u32 = 40;

/// A process for certain: its pid, and when it started, so that a pid used again is somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ProcessId(u64);

impl ProcessId {
    pub fn me() -> io::Result<ProcessId> {
        ProcessId::of(std::process::id())
    }

    pub fn of(pid: u32) -> io::Result<ProcessId> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the program's name in brackets, and may hold spaces and brackets.
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
        let start = after_name
            .and_then(|rest| rest.split_ascii_whitespace().nth(19))
            .and_then(|field| field.parse::<u64>().ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let start = start & ((1 << START_BITS) - 1);
        Ok(ProcessId(u64::from(pid) | start << PID_BITS))
    }

    pub fn pid(self) -> u32 {
        (self.0 & ((1 << PID_BITS) - 1)) as u32
    }

    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> Option<ProcessId> {
        let id = ProcessId(bits);
        (bits >> (PID_BITS + START_BITS) == 0 && id.pid() != 0).then_some(id)
    }
}

#[derive(Debug)]
pub struct ProcessHandle {
    id: ProcessId,
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// `None` when that process is dead.
    pub fn open(id: ProcessId) -> io::Result<Option<ProcessHandle>> {
        let Some(pid) = i32::try_from(id.pid()).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // After the pidfd is open: it is that process, if the start time still agrees.
        let same = ProcessId::of(id.pid()).is_ok_and(|now| now == id);
        let handle = ProcessHandle { id, pidfd };
        Ok((same && !handle.is_dead()).then_some(handle))
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }

    pub fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
