//! A pool of pages of files, for many processes at once.
//!
//! ```text
//!   | head | participants | pins | counts | policy | files, entries | frames | latches, pages |
//! ```
//!
//! A process opens the [`Pool`] in a mapping that it shares with others, or by its name in a
//! [domain](Pool::named), and each of its threads has a [`Session`]. Files are
//! [registered](Session::register) once for all; pages are [found or read in](Session::page), read,
//! changed, and written to their files when their frames are wanted, or when somebody
//! [flushes](Session::flush). The pool can be made [larger and smaller](Session::resize) meanwhile.
//!
//! **A hit** takes no lock and writes no line that another process writes: the file's entry of the
//! block names the frame, which the session announces and looks at the entry again. **A miss**
//! takes a frame whose page nobody uses, says in the page's entry that it reads, and reads. Who
//! else wants the page meanwhile waits for that one, and for its death: then it goes on itself. So
//! a page is read once, however many want it. Who knows what it will want has a
//! [stream](Session::stream), which reads neighbours together; and who goes over many pages takes a
//! [ring](Session::with_strategy) of frames, and leaves those of others.
//!
//! What is promised of changes: one that was made is seen by all, whoever dies; each is there whole
//! or not at all; and what was there when a [`Session::sync`] returned without an error is on the
//! disk. What was changed since, and whose pages had not been written, is lost when all memory is,
//! with the machine.
//!
//! # Deaths
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | who makes the pool | a header without an end | the next to open it makes it anew |
//! | who opens it | a seat | who reaps |
//! | who uses a page | a pin | who reaps; until then the page keeps its frame |
//! | who reads one in, or several | for each an entry that says so | who waits for the page; or who reaps |
//! | who evicts, writes out, changes | see [`frames`](crate::frames), [`pages`](crate::pages) | |
//! | who drops or cuts off a file | a file that is being dropped or cut off | the next to register, drop or cut off |
//!
//! To reap is whoever opens the pool, finds no frame, or calls [`Pool::reap`].
mod cleanup;
mod config;
mod error;
mod evict;
mod file;
mod load;
mod named;
mod page;
mod read;
mod resize;
mod session;
mod shared;
mod stats;
mod strategy;
mod stream;
mod view;
mod warm;
mod write;
mod writer;

pub use cleanup::Cleanup;
pub use config::{
    ConfigError, FRAMES_MIN, PAGE_BYTES_MAX, PAGE_BYTES_MIN, PoolConfig, SESSIONS_MAX,
};
pub use error::{MakeError, OpenError, PageError, SessionError};
pub use file::{FileError, FileOptions};
pub use named::NamedPoolError;
pub use page::{Exclusive, Page, PageView, Share};
pub use resize::{ResizeError, Resized};
pub use session::Session;
pub use stats::PoolStats;
pub use strategy::{Bulk, Strategy};
pub use stream::{ReadStream, StreamOptions};
pub use view::{
    Evicted, FileFrames, FrameError, FrameInfo, LatchInfo, Marked, PoolSummary, UseClass, UserInfo,
};
pub use warm::{DumpError, LoadError, Loaded, Prewarm};
pub use writer::{Round, Writer, WriterOptions};

use crate::files::{FileInfo, FileKey, FileNumber, Files};
use crate::frames::{Frames, Limit, Users};
use crate::pages::Pages;
use crate::policy::Policy;
use crate::store::{Disk, PageFile, Store};
use dsm::area::Memory;
use file::OpenFiles;
use shared::{Counts, Head, Parts};
use shm_core::hazard::Hazards;
use shm_core::header::Opener;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{JoinOptions, Member, ParticipantId, Table};
use shm_core::process::Forked;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How this process uses a pool: nobody else has to use it in the same way.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// What files are opened with.
    pub store: Arc<dyn Store>,
    /// How long to wait for another process that has a page, or reads it; for as long as that one
    /// lives, where it is `None`.
    pub patience: Option<Duration>,
    /// What puts memory behind the pool's pages, and takes it away; `None` where all that there can
    /// be is there.
    pub memory: Option<Arc<dyn Memory>>,
}

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        PoolOptions { store: Arc::new(Disk::default()), patience: None, memory: None }
    }
}

/// So long who throws pages out waits for those who use them, where nothing else was said.
const IN_USE: Duration = Duration::from_secs(1);

/// How long to wait for another process that makes the pool.
const MAKING: Duration = Duration::from_secs(10);

/// A pool, as one process has it. Clones are the same one; it leaves when the last of them, of its
/// sessions and of their pages is gone.
///
/// ```
/// use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions};
/// use buffer_pool::{HEADER_BYTES, files::FileKey};
/// use shm_core::mapping::Mapping;
///
/// let directory = tempfile::tempdir()?;
/// // In real life it lies in a segment that several processes share.
/// let config = PoolConfig { processes: 2, ..PoolConfig::new(1 << 20) };
/// let mapping = Mapping::heap(Pool::bytes_for(&config)?.try_into()?);
/// let pool = Pool::open(&mapping, &config, PoolOptions::default())?;
///
/// let session = pool.session()?;
/// let (path, key) = (directory.path().join("games"), FileKey { id: 1, fork: 0 });
/// let options = FileOptions { create: true, ..FileOptions::default() };
/// let games = session.register(key, &path, &options)?;
/// let block = session.extend(games, 4)?;
///
/// let page = session.page(games, block)?;
/// page.exclusive()?.write(&[(HEADER_BYTES, b"pawn to e4")])?;
/// let mut move_ = [0; 10];
/// page.copy_out(HEADER_BYTES, &mut move_)?;
/// assert_eq!(&move_, b"pawn to e4");
/// drop(page);
/// session.sync(games)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    config: PoolConfig,
    options: PoolOptions,
    mapping: Arc<Mapping>,
    head: Mapped<Head>,
    table: Table,
    member: Arc<Member>,
    files: Files,
    frames: Frames<Files>,
    limit: Limit,
    users: Users<Files>,
    pages: Pages,
    counts: MappedSlice<Counts>,
    parts: Parts,
    open_files: OpenFiles,
    /// Which threads' rows are in use. Private: the rows of a seat are one process's.
    sessions: Mutex<Vec<bool>>,
}

impl Pool {
    /// Bytes of memory that such a pool takes.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn bytes_for(config: &PoolConfig) -> Result<u64, ConfigError> {
        config.check()?;
        let (min, max) = (0, u64::MAX);
        let too_large = ConfigError::Range { what: "bytes", value: u64::MAX, min, max };
        Parts::of(config).total.ok_or(too_large)
    }

    /// Opens the pool at the beginning of `mapping`; makes it, where its bytes are all zero.
    ///
    /// The mapping begins at a multiple of the system's pages, and is one that several processes
    /// share: that of a dsm segment, for instance. Who opens a pool twice takes two seats: clone
    /// it.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # If a process dies here
    /// The next to open it makes it anew; or it has a seat, which is reaped.
    pub fn open(
        mapping: &Arc<Mapping>,
        config: &PoolConfig,
        options: PoolOptions,
    ) -> Result<Pool, OpenError> {
        check_room(mapping, config)?;
        let found = look(mapping, |head| make(mapping, config, head, options.memory.as_deref()))?;
        if found != *config {
            return Err(OpenError::OtherConfig {
                found: Box::new(found),
                asked: Box::new(*config),
            });
        }
        Ok(Pool { inner: Arc::new(Inner::enter(mapping, config, options)?) })
    }

    /// Opens the pool at the beginning of `mapping`, whatever it was made for.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::NotMade`] where there is none.
    ///
    /// # If a process dies here
    /// It has a seat, which is reaped.
    pub fn attach(mapping: &Arc<Mapping>, options: PoolOptions) -> Result<Pool, OpenError> {
        let found = look(mapping, |_| Err(MakeError::NotMade))?;
        check_room(mapping, &found)?;
        Ok(Pool { inner: Arc::new(Inner::enter(mapping, &found, options)?) })
    }

    /// What it was made for.
    pub fn config(&self) -> &PoolConfig {
        &self.inner.config
    }

    /// What the sessions of all processes have done with it.
    pub fn stats(&self) -> PoolStats {
        stats::sum(&self.inner.counts)
    }

    /// The pool for the calling thread.
    ///
    /// # Errors
    /// [`SessionError`].
    ///
    /// # If a process dies here
    /// What it has of the pool is taken back when it is reaped.
    pub fn session(&self) -> Result<Session, SessionError> {
        Session::new(self)
    }

    /// Takes back what dead processes had: their pins, the frames that they were loading, their
    /// latches; how many processes there were. Whoever opens the pool, or finds no frame, does so
    /// too.
    ///
    /// # If a process dies here
    /// The next one to reap begins anew.
    pub fn reap(&self) -> usize {
        let inner = &self.inner;
        inner
            .table
            .reap(|dead| clean_up(&inner.pages, &inner.frames, inner.policy().as_ref(), dead))
    }

    /// The file of this key, where there is one.
    pub fn find_file(&self, key: FileKey) -> Option<FileNumber> {
        self.inner.files.find(key)
    }

    /// What is known of a file; `None` where there is none of this number.
    pub fn file(&self, file: FileNumber) -> Option<FileInfo> {
        self.inner.files.info(file)
    }

    /// All files.
    pub fn files(&self) -> Vec<FileInfo> {
        self.inner.files.list()
    }
}

fn check_room(mapping: &Mapping, config: &PoolConfig) -> Result<(), OpenError> {
    let (needs, has) = (Pool::bytes_for(config)?, mapping.len() as u64);
    if needs > has { Err(OpenError::TooSmall { needs, has }) } else { Ok(()) }
}

/// What the pool in `mapping` was made for, by `make` where there was none.
fn look(
    mapping: &Arc<Mapping>,
    make: impl FnOnce(&Head) -> Result<(), MakeError>,
) -> Result<PoolConfig, OpenError> {
    let head = Mapped::<Head>::new(mapping, 0).map_err(|_| OpenError::Corrupt("head"))?;
    let opener = Opener::this_process(Instant::now() + MAKING).map_err(OpenError::Proc)?;
    let identity = shared::identity(mapping.len() as u64);
    head.header.open(&identity, &opener, || make(&head))?;
    head.config().ok_or(OpenError::Corrupt("configuration"))
}

/// Writes all parts of a pool.
fn make(
    mapping: &Arc<Mapping>,
    config: &PoolConfig,
    head: &Head,
    memory: Option<&dyn Memory>,
) -> Result<(), MakeError> {
    let parts = Parts::of(config);
    if let Some(memory) = memory {
        let all = parts.pages_of(0..config.frames_max, config.page_bytes).end;
        let first = parts.pages_of(0..config.frames, config.page_bytes).end;
        let is_there = memory.populate(0..first) && memory.populate(all..mapping.len() as u64);
        is_there.then_some(()).ok_or(MakeError::NoMemory)?;
    }
    let fits = "the parts of a pool were planned for these bytes";
    head.fill(config);
    // SAFETY: here and below, the header gives its initialiser what is behind it to itself.
    unsafe { Table::create(mapping, parts.table, config.processes) }.expect(fits);
    // SAFETY: as above.
    unsafe { Hazards::create(mapping, parts.hazards, config.processes, config.sessions) }
        .expect(fits);
    for row in 0..parts.rows {
        let at = parts.counts + row * size_of::<Counts>() as u64;
        // SAFETY: as above.
        unsafe { Mapped::place(mapping, at, Counts::new()) }.expect(fits);
    }
    // SAFETY: as above.
    unsafe { Policy::create(mapping, parts.policy, config.policy, config.frames_max) }
        .expect(fits)
        .set_limit(config.frames);
    // SAFETY: as above.
    unsafe { Files::create(mapping, parts.files, shared::files_shape(config)) }.expect(fits);
    // SAFETY: as above.
    unsafe { Frames::<Files>::create(mapping, parts.frames, config.frames_max) }.expect(fits);
    // SAFETY: as above.
    unsafe { Pages::create(mapping, parts.pages, shared::pages_shape(config)) }.expect(fits);
    Ok(())
}

/// What `dead` had, taken back.
fn clean_up(pages: &Pages, frames: &Frames<Files>, policy: Option<&Policy>, dead: ParticipantId) {
    pages.clean_up(dead);
    frames.reap(dead);
    // Whatever it had put by, or was about to give back.
    let is_vacant =
        |frame: &u32| !frames.is_claimed(*frame) && frames.resident_in(*frame).is_none();
    if let Some(policy) = policy {
        (0..frames.count()).filter(is_vacant).for_each(|frame| policy.vacate(frame));
    }
}

impl Inner {
    fn enter(
        mapping: &Arc<Mapping>,
        config: &PoolConfig,
        options: PoolOptions,
    ) -> Result<Inner, OpenError> {
        let parts = Parts::of(config);
        let corrupt = |what| move |_| OpenError::Corrupt(what);
        let head = Mapped::<Head>::new(mapping, 0).map_err(corrupt("head"))?;
        let limit = Limit::new(head.part(|head| &head.limit), config.frames_max);
        let table = Table::attach(mapping, parts.table)?;
        let hazards = Hazards::attach(mapping, parts.hazards)?;
        if (table.capacity(), hazards.groups()) != (config.processes, config.sessions) {
            return Err(OpenError::Corrupt("participants"));
        }
        let counts = MappedSlice::new(mapping, parts.counts, parts.rows);
        let files = Files::attach(mapping, parts.files).map_err(|_| OpenError::Corrupt("files"))?;
        let frames = Frames::attach(
            mapping,
            parts.frames,
            config.frames_max,
            files.clone(),
            hazards.clone(),
        )
        .map_err(corrupt("frames"))?;
        let pages = Pages::attach(mapping, parts.pages, shared::pages_shape(config))
            .map_err(|_| OpenError::Corrupt("pages"))?;
        let policy = Policy::attach(mapping, parts.policy).ok();
        let cleanup = |dead| clean_up(&pages, &frames, policy.as_ref(), dead);
        let member = table.join_with(JoinOptions::default(), cleanup)?;
        table.reap(cleanup);
        let (of_pages, of_frames) = (pages.clone(), frames.clone());
        member.on_leave(move |me| clean_up(&of_pages, &of_frames, policy.as_ref(), me));
        let users = frames.users(&member)?;
        let (config, mapping) = (*config, mapping.clone());
        Ok(Inner {
            config,
            options,
            mapping,
            head,
            table,
            member,
            files,
            frames,
            limit,
            users,
            pages,
            counts: counts.map_err(corrupt("counts"))?,
            parts,
            open_files: OpenFiles::default(),
            sessions: Mutex::new(vec![false; config.sessions as usize]),
        })
    }

    /// What is advice: where it was overwritten it is done without.
    fn policy(&self) -> Option<Policy> {
        Policy::attach(&self.mapping, self.parts.policy).ok()
    }

    fn check_fork(&self) -> Result<(), Forked> {
        self.member.check_fork()
    }

    /// Until when to wait from now on.
    fn deadline(&self) -> Option<Instant> {
        self.options.patience.and_then(later)
    }

    /// Until when to wait for those who use pages that should go.
    fn deadline_of_users(&self) -> Option<Instant> {
        later(self.options.patience.unwrap_or(IN_USE))
    }

    /// A number for a thread that nobody has.
    fn take_thread(&self) -> Option<u32> {
        let mut taken = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.iter().position(|taken| !taken)?;
        taken[free] = true;
        Some(free as u32)
    }

    fn give_back_thread(&self, thread: u32) {
        let mut taken = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        taken[thread as usize] = false;
    }

    fn open_file(&self, number: FileNumber) -> Result<Arc<dyn PageFile>, PageError> {
        self.open_files.get(&self.files, number, &*self.options.store)
    }
}

/// So long from now on; `None` where that is for ever.
fn later(patience: Duration) -> Option<Instant> {
    Instant::now().checked_add(patience)
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
