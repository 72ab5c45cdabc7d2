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
//! | a file, a socket, a device, a FUSE file | has no such seals: asked by a call that the file's server never sees |
//! | memory that can still be shortened (later SIGBUS), or written by a third | the seals are not all there |
//! | memory of huge pages (another page size, another pool) | another file system |
//! | shorter or longer than agreed | its size, which is sealed |
//! | a hole in it: its first touch would be charged to us, or end in SIGBUS when memory is short | `SEEK_HOLE`: every page is there, and the seals keep it there |
//! | a descriptor whose *closing* blocks (a socket that lingers, a FUSE file) | refused ones are closed by a thread of their own |
//!
//! **The bell** is the connected socket over which the descriptors went. A byte means "look"; what
//! it is and how many there are means nothing. All calls are `MSG_DONTWAIT`, whatever the flags of
//! the file say, for a peer may change those. Descriptors that a peer smuggles along with its bytes
//! are refused by the kernel (`SO_PASSRIGHTS`, Linux 6.16) or thrown away by it; we never hold
//! them.
//!
//! **Who lives** is the kernel's word too: the socket hangs up once no process has its other end,
//! and a pidfd of the process that sent its descriptor tells of that process's death while somebody
//! else (a child of it) still holds the end. The pid comes from the message's credentials, which
//! the kernel writes: `SO_PEERCRED` names who *made* a `socketpair`, often ourselves.
//!
//! **Assumed:** the peer may not trace us (`ptrace`, `/proc/PID/mem`, `/proc/PID/fd`), so it is of
//! another user, or in a sandbox, or the system forbids it; and the machine's memory, swap
//! included, works.

mod doorbell;
mod hello;
mod memory;

pub use doorbell::{Doorbell, Heard};
pub use hello::{ExchangeError, Wanted, exchange};
pub use memory::{CreateError, Foreign, ForeignError, Own, page_bytes};
