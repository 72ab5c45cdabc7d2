//! The header of every named piece of shared memory, and the handshake that makes it exactly once.
//!
//! Memory arrives zeroed and in its full size. Whoever comes first claims it by one
//! compare-and-swap that names it, initialises what is inside, and publishes it by one more. The
//! others wait; and where the initialiser is dead, one of them takes its place and starts over.
//!
//! ```text
//!             claim                     publish
//!  UNTOUCHED ───────► INITIALISING(me) ─────────► READY
//!      ▲                   │      │ ▲
//!      └── initialising ───┘      └─┘ owner is dead: INITIALISING(heir)
//!             failed
//! ```
//!
//! The claim names a pid, and whether that is dead can only be asked where it means the same
//! process. So before anybody claims, one compare-and-swap says for good in which pid and time
//! namespace this memory is claimed; processes of others are refused until it is ready.
use crate::backoff::Backoff;
use crate::layout::fnv1a;
use crate::process::{Liveness, Namespaces, ProcessId};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::shm_sync;
use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

/// What the first eight bytes after the state word say.
pub const MAGIC: u64 = u64::from_le_bytes(*b"shmkit\r\n");

/// The first 64 bytes of a named piece of shared memory.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `state` | claimer, initialiser: by compare-and-swap | all | itself |
/// | `home` | who first wants to claim: by compare-and-swap from 0, then never again | all | itself |
/// | all others | the initialiser, once, before READY | all, after READY; `magic` also before | `state` |
///
/// After READY the others are constant for honest processes; they are atomic because not all are.
///
/// ```
/// use shm_core::header::{Header, Identity, Opened, Opener};
/// use shm_core::mapping::{Mapped, Mapping};
/// use std::convert::Infallible;
/// use std::time::{Duration, Instant};
///
/// let mapping = Mapping::heap(4096);
/// let header: Mapped<Header> = Mapped::new(&mapping, 0)?;
/// let identity = Identity::new("pool", 1, 0xf00d, 4096);
/// let opener = Opener::this_process(Instant::now() + Duration::from_secs(1))?;
/// let opened = header.open(&identity, &opener, || Ok::<(), Infallible>(()))?;
/// assert_eq!(opened, Opened::Created);
/// let opened = header.open(&identity, &opener, || Ok::<(), Infallible>(()))?;
/// assert_eq!(opened, Opened::Attached);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// Payload (62 bits) | state (2 bits).
    state: AtomicU64,
    magic: AtomicU64,
    size: AtomicU64,
    fingerprint: AtomicU64,
    name_hash: AtomicU64,
    version: AtomicU32,
    reserved: AtomicU32,
    /// Namespaces of the process ids in `state`: [`Opener::home`], or 0.
    home: AtomicU64,
    spare: AtomicU64,
}

shm_sync!(Header { state, magic, size, fingerprint, name_hash, version, reserved, home, spare });

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Header>() == 64);
    assert!(std::mem::offset_of!(Header, magic) == 8);
    assert!(std::mem::offset_of!(Header, version) == 40);
    assert!(std::mem::offset_of!(Header, home) == 48);
};

/// The state word, as one load found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State(u64);

impl State {
    /// The whole word is 0: what fresh memory holds.
    const UNTOUCHED: State = State(0);
    const READY: State = State::new(Self::READY_TAG, 0);

    const INITIALISING_TAG: u64 = 1;
    const READY_TAG: u64 = 2;
    const TAG_BITS: u32 = 2;

    const fn new(tag: u64, payload: u64) -> State {
        State(payload << Self::TAG_BITS | tag)
    }

    fn initialising(owner: ProcessId) -> State {
        State::new(Self::INITIALISING_TAG, owner.to_bits())
    }

    const fn tag(self) -> u64 {
        self.0 & ((1 << Self::TAG_BITS) - 1)
    }

    const fn payload(self) -> u64 {
        self.0 >> Self::TAG_BITS
    }
}

const _: () = assert!(ProcessId::BITS + State::TAG_BITS == u64::BITS);

/// What a process takes the memory to be; must be the same for all that share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Hash of the name it was made under.
    pub name_hash: u64,
    /// Version of the layout, raised by hand when the layout or its meaning changes.
    pub version: u32,
    /// Of the layout: see [`fingerprint!`](crate::fingerprint).
    pub fingerprint: u64,
    /// Size of the whole piece in bytes, as mapped.
    pub size: u64,
}

impl Identity {
    /// The piece called `name`.
    pub const fn new(name: &str, version: u32, fingerprint: u64, size: u64) -> Identity {
        Identity { name_hash: fnv1a(name.as_bytes()), version, fingerprint, size }
    }
}

/// Who opens, how it learns that another process is dead, and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Opener<D = fn(ProcessId) -> bool> {
    /// The calling process.
    pub me: ProcessId,
    /// Where `me` and `is_dead` have their meaning: a number for these namespaces, not 0.
    pub home: u64,
    /// Whether that process is certainly dead.
    ///
    /// `true` is a proof: nothing the process does will be seen any more, and everything it did has
    /// been. The name was read from shared memory and may be anybody's. Asked only about processes
    /// of `home`.
    pub is_dead: D,
    /// When to give up on a process that initialises and neither finishes nor dies.
    pub deadline: Instant,
}

impl Opener {
    /// The calling process, which asks the kernel.
    ///
    /// # Errors
    /// What [`Namespaces::mine`] gives.
    pub fn this_process(deadline: Instant) -> io::Result<Opener> {
        let is_dead = |process: ProcessId| process.liveness() == Liveness::Dead;
        // The number of a namespace that has ended may be given to another: its processes are dead.
        let Namespaces { pid, time } = Namespaces::mine()?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&pid.to_le_bytes());
        bytes[8..].copy_from_slice(&time.to_le_bytes());
        Ok(Opener { me: ProcessId::me(), home: fnv1a(&bytes).max(1), is_dead, deadline })
    }
}

/// What [`Header::open`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// Initialised it: the caller is the first.
    Created,
    /// Found it ready.
    Attached,
}

/// Why a header could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError<E = Infallible> {
    /// Its bytes are not those of a header.
    #[error(
        "this memory was not made by shmkit, or was overwritten: use another name or remove it"
    )]
    NotOurs,
    /// It was made by another release.
    #[error(
        "its layout has version {found} and ours has {expected}: \
         use one release in all programs, or remove it"
    )]
    WrongVersion {
        /// In the header.
        found: u32,
        /// In this program.
        expected: u32,
    },
    /// It was made by a program with other data structures.
    #[error(
        "its layout fingerprint is {found:#x} and ours is {expected:#x}: \
         build all programs from one source, or remove it"
    )]
    WrongFingerprint {
        /// In the header.
        found: u64,
        /// In this program.
        expected: u64,
    },
    /// It was made under another name.
    #[error("it was made under another name and renamed or copied: use that name or remove it")]
    WrongName,
    /// There is more memory than it was made with.
    #[error("it was made with {found} bytes and has {mapped}: it was extended; remove it")]
    WrongSize {
        /// In the header.
        found: u64,
        /// In this process.
        mapped: u64,
    },
    /// There is less memory than it was made with.
    #[error("it was made with {found} bytes and has only {mapped} left: it was cut off; remove it")]
    Truncated {
        /// In the header.
        found: u64,
        /// In this process.
        mapped: u64,
    },
    /// Processes of another namespace initialise it, or wanted to.
    #[error(
        "it is being made in another pid or time namespace, where we cannot tell who is dead: \
         open it from there, or remove it if that namespace has ended"
    )]
    OtherNamespace,
    /// A process that lives has been initialising it until the deadline.
    #[error(
        "process {pid} has not finished initialising it: \
         if it is stopped, continue or kill it, then try again"
    )]
    NotReady {
        /// That process.
        pid: u32,
    },
    /// Others have claimed it and given it back until the deadline.
    #[error("others claim it and fail to initialise it, again and again: look at their errors")]
    NotCreated,
    /// Initialising failed. It can be tried again.
    #[error("initialising it failed: {0}")]
    Init(#[source] E),
}

/// What a state word means for one who wants in.
enum Door {
    Ready,
    Untouched,
    Taken { owner: ProcessId },
}

impl Header {
    /// What zeroed memory holds. Only models need to write it.
    pub fn new() -> Header {
        Header {
            state: AtomicU64::new(State::UNTOUCHED.0),
            magic: AtomicU64::new(0),
            size: AtomicU64::new(0),
            fingerprint: AtomicU64::new(0),
            name_hash: AtomicU64::new(0),
            version: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            home: AtomicU64::new(0),
            spare: AtomicU64::new(0),
        }
    }

    /// Attaches, or initialises what nobody has initialised, by calling `init` in this process.
    ///
    /// `init` has the memory behind the header to itself. It must write all it relies on: half of
    /// it may have been written before, by one who died.
    ///
    /// # Errors
    /// See [`OpenError`]. After [`OpenError::Init`] the header is untouched again.
    ///
    /// # If a process dies here
    /// Before its claim: nothing but that the memory has its home. Between claim and publication:
    /// the next to open takes over. Afterwards: it is ready.
    pub fn open<E>(
        &self,
        identity: &Identity,
        opener: &Opener<impl Fn(ProcessId) -> bool>,
        init: impl FnOnce() -> Result<(), E>,
    ) -> Result<Opened, OpenError<E>> {
        let mut backoff = Backoff::new();
        loop {
            let seen = self.state();
            let door = self.look(seen, identity)?;
            if let Door::Ready = door {
                return Ok(Opened::Attached);
            }
            self.settle(opener.home)?;
            let free = match door {
                Door::Taken { owner } => (opener.is_dead)(owner),
                _ => true,
            };
            if free && let Some(claim) = Claim::take(self, seen, opener.me) {
                init().map_err(OpenError::Init)?;
                return claim.publish(identity);
            }
            pause(&mut backoff, &door, opener.deadline)?;
        }
    }

    /// Whether somebody has initialised what has the name of `identity`, in this release or in
    /// another. It is only looked at, where [`open`](Header::open) writes.
    pub fn has_name_of(&self, identity: &Identity) -> bool {
        // Relaxed: it is opened, and checked, afterwards.
        let is = |word: &AtomicU64, value| word.load(Ordering::Relaxed) == value;
        is(&self.magic, MAGIC) && is(&self.name_hash, identity.name_hash)
    }

    /// Where it was claimed, as [`Opener::home`] says it; 0 before.
    pub fn home(&self) -> u64 {
        self.home.load(Ordering::Relaxed)
    }

    /// Only those of one home ever claim.
    ///
    /// Relaxed is enough: a claimer has found or made `home` his own before he claimed, and it
    /// never changes afterwards. So whoever sees his claim cannot find 0 here and succeed.
    fn settle<E>(&self, mine: u64) -> Result<(), OpenError<E>> {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        match self.home.compare_exchange(0, mine, ok, err) {
            Err(found) if found != mine => Err(OpenError::OtherNamespace),
            _ => Ok(()),
        }
    }

    fn state(&self) -> State {
        // Pairs with the Release in `Claim::publish`: all that was initialised, constants included.
        State(self.state.load(Ordering::Acquire))
    }

    /// The checked door: what `seen` means, if this is a header and the one we expect.
    fn look<E>(&self, seen: State, identity: &Identity) -> Result<Door, OpenError<E>> {
        let magic = self.magic.load(Ordering::Relaxed);
        let claimable = magic == 0 || magic == MAGIC;
        match seen.tag() {
            _ if seen == State::READY && magic == MAGIC => {
                self.check(identity).map(|()| Door::Ready)
            }
            State::INITIALISING_TAG if claimable => {
                let owner = ProcessId::from_bits(seen.payload()).ok_or(OpenError::NotOurs)?;
                Ok(Door::Taken { owner })
            }
            _ if seen == State::UNTOUCHED && claimable => Ok(Door::Untouched),
            _ => Err(OpenError::NotOurs),
        }
    }

    fn check<E>(&self, identity: &Identity) -> Result<(), OpenError<E>> {
        let Identity { name_hash, version: expected, fingerprint, size: mapped } = *identity;
        let found = self.version.load(Ordering::Relaxed);
        if found != expected {
            return Err(OpenError::WrongVersion { found, expected });
        }
        let found = self.fingerprint.load(Ordering::Relaxed);
        if found != fingerprint {
            return Err(OpenError::WrongFingerprint { found, expected: fingerprint });
        }
        if self.name_hash.load(Ordering::Relaxed) != name_hash {
            return Err(OpenError::WrongName);
        }
        let found = self.size.load(Ordering::Relaxed);
        if found > mapped {
            return Err(OpenError::Truncated { found, mapped });
        }
        if found < mapped {
            return Err(OpenError::WrongSize { found, mapped });
        }
        Ok(())
    }
}

impl Default for Header {
    fn default() -> Header {
        Header::new()
    }
}

/// The right to initialise; given back when dropped, be it by an error or a panic of `init`.
struct Claim<'h> {
    header: &'h Header,
    me: ProcessId,
}

impl<'h> Claim<'h> {
    fn take(header: &'h Header, seen: State, me: ProcessId) -> Option<Claim<'h>> {
        // Pairs with the Release in `leave`: what a failed initialiser wrote comes before what we
        // write. What a dead one wrote does because it is dead (`Opener::is_dead`).
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        let mine = State::initialising(me).0;
        header.state.compare_exchange(seen.0, mine, ok, err).ok()?;
        Some(Claim { header, me })
    }

    fn publish<E>(self, identity: &Identity) -> Result<Opened, OpenError<E>> {
        let Identity { name_hash, version, fingerprint, size } = *identity;
        self.header.magic.store(MAGIC, Ordering::Relaxed);
        self.header.version.store(version, Ordering::Relaxed);
        self.header.fingerprint.store(fingerprint, Ordering::Relaxed);
        self.header.name_hash.store(name_hash, Ordering::Relaxed);
        self.header.size.store(size, Ordering::Relaxed);
        // Nobody takes a claim from one who lives: where it is gone, the word was overwritten.
        let published = self.leave(State::READY);
        std::mem::forget(self);
        if published { Ok(Opened::Created) } else { Err(OpenError::NotOurs) }
    }

    fn leave(&self, next: State) -> bool {
        // Pairs with the Acquire in `Header::state` for READY, in `take` for UNTOUCHED: all that
        // was initialised, constants included.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let mine = State::initialising(self.me).0;
        self.header.state.compare_exchange(mine, next.0, ok, err).is_ok()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.leave(State::UNTOUCHED);
    }
}

/// Waits a little for whoever stands in the door; an error once `deadline` has passed.
fn pause<E>(backoff: &mut Backoff, door: &Door, deadline: Instant) -> Result<(), OpenError<E>> {
    const NAP: Duration = Duration::from_millis(1);
    if Instant::now() >= deadline {
        return Err(match *door {
            Door::Taken { owner } => OpenError::NotReady { pid: owner.pid() },
            _ => OpenError::NotCreated,
        });
    }
    if !backoff.snooze() && !cfg!(any(shm_loom, shm_explore)) {
        std::thread::sleep(NAP);
    }
    Ok(())
}
