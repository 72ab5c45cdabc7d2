//! Memory between two processes that do not trust each other, and a bell between them.
//!
//! ```text
//!      process A                                                process B
//!   writes  [ Own, A's ]  ------- descriptor over the socket ----> [ Foreign ]  reads
//!   reads   [ Foreign  ]  <------ descriptor over the socket ----- [ Own, B's ] writes
//!           [ Doorbell ]  <=========== one byte: look =========>   [ Doorbell ]
//! ```
//!
//! **One writer a mapping.** Each side makes memory of its own, maps it to write, and only then
//! seals it: from then on nobody, not even its creator, can map it to write once more, shorten it,
//! lengthen it, or punch holes into it. The other side maps it read-only. What a seal says is
//! believed because the kernel says it of the very file that is about to be mapped, and no seal
//! can be taken off.
//!
//! | a lie about the descriptor | what is seen |
//! | --- | --- |
//! | no descriptor, more than one, or more than there is room for | counted; `MSG_CTRUNC` |
//! | a file, a socket, a device, a FUSE file, secret memory | has no seals: asked by a call that the file's server never sees |
//! | memory that can still be shortened (later SIGBUS), or written by a third | the seals are not all there |
//! | memory of huge pages (another page size, another pool: SIGBUS when that is empty) | another file system |
//! | shorter or longer than agreed | its size, which is sealed |
//! | a hole in it: its first touch would be charged to us, or end in SIGBUS when memory is short | `cachestat` counts the pages, and the seals keep them there. Then all are mapped at once (`MADV_POPULATE_READ`) |
//! | a `read` or `write` of its that never ends (its buffer is a page that never comes), so that a lock of the file is never free | we make no call that takes one: not `lseek`, for one |
//! | a descriptor whose *closing* blocks (a socket that lingers, a FUSE file) | all that come with one message are taken, and closed by a thread of their own |
//! | descriptors behind the hello | the same, and refused |
//! | a byte out of band, signals without end | the clock is asked before each sleep |
//! | options of the socket, set by whoever made it, that have more come along (`SO_PASSPIDFD`, `SO_PASSSEC`) | set anew; there is room for all of it |
//! | a signal when the socket can be read (`F_SETOWN`) | asks the kernel for the same right as `kill` |
//!
//! **What remains.** Each meeting costs what the two sides agreed on: the peer keeps our memory,
//! and its descriptor, for as long as it likes. A meeting that failed may cost a thread, and up to
//! 253 descriptors, for as long as the peer has their closing take. So let no peer try more often
//! than you can pay for. Where we have no descriptor left, those that find no number are closed in
//! our call. Kernels before 6.5 do not tell holes from pages behind the end: these are made up for,
//! and charged to us, up to the size that was agreed. Kernels before 5.14 have no way to map all at
//! once and say [`NoPopulate`](ForeignError::NoPopulate). What the peer has had swapped out is read
//! in again when we look, and charged to *its* control group: where that has no room we wait for
//! it.
//!
//! **The bell** is the connected socket over which the descriptors went. A byte means "look"; what
//! it is and how many there are means nothing. All calls are `MSG_DONTWAIT`, whatever the flags of
//! the file say, for a peer may change those. Descriptors that a peer smuggles along with its bytes
//! are refused by the kernel (`SO_PASSRIGHTS`, Linux 6.16); on older ones we hang up. **Our end of
//! it is ours alone**: who has it as well can keep its locks, and our calls with them. So the
//! honest side makes the pair, connects, or accepts, or somebody does whom it trusts.
//!
//! **Who lives** is the kernel's word too: the socket hangs up once no process has its other end,
//! and a pidfd of the process that sent its descriptor tells of that process's death while somebody
//! else (a child of it) still holds the end. The pidfd comes with the message (`SCM_PIDFD`, Linux
//! 6.5), also from another pid namespace; on older kernels it is made of the pid in the message's
//! credentials, which may be another's by then. Both are the kernel's: `SO_PEERCRED` names who
//! *made* a `socketpair`, often ourselves.
//!
//! **Assumed:** the peer may not trace us (`ptrace`, `/proc/PID/mem`, `/proc/PID/fd`), so it is of
//! another user, or in a sandbox, or the system forbids it; and the machine's memory, swap
//! included, works.

#[cfg_attr(shm_loom, path = "doorbell_modelled.rs")]
#[cfg_attr(shm_explore, path = "doorbell_explored.rs")]
mod doorbell;
mod hello;
mod memory;
mod message;

#[cfg(shm_explore)]
pub use doorbell::Ears;
#[cfg(shm_loom)]
pub use doorbell::Held;
pub use doorbell::{Doorbell, Heard};
pub use hello::{ExchangeError, Wanted, exchange};
pub use memory::{CreateError, Foreign, ForeignError, Own, page_bytes};
