//! Where the pool comes in: no other file knows what is between the clients and the files.
//!
//! The parent makes a domain with a pool in a segment before the clients start, and asks it
//! afterwards which page is in which frame; each client finds it by the domain's name, which the
//! parent puts on its command line.
use crate::data::Data;
use crate::error::Error;
use crate::format::{PAGE_BYTES, Page};
use crate::options::{ClientOptions, Run, Through};
use crate::pages::{Counts, File, PageId, Pages, Preads};
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, Session};
use dsm::{Domain, DomainConfig};
use std::path::{Path, PathBuf};

/// The pool's name in the domain.
const NAME: &str = "pool";

/// What the parent has of it.
pub(crate) struct Shared {
    directory: PathBuf,
    /// `None`: pages come from the files.
    pool: Option<(Pool, Domain)>,
}

/// The pool that the options ask for, over these files.
pub(crate) fn open_pool(data: &Data, options: &Run) -> Result<Shared, Error> {
    let directory = data.directory.clone();
    if options.through == Through::Files {
        return Ok(Shared { directory, pool: None });
    }
    let domain = Domain::open(DomainConfig::new(format!("pgbench-{}", std::process::id())));
    let domain = domain.map_err(Error::pool)?;
    let config = PoolConfig {
        page_bytes: PAGE_BYTES as u32,
        frames: options.pool,
        frames_max: options.pool,
        policy: options.policy,
        processes: options.clients + 4,
        sessions: 1,
        files: 2,
        entries: data.blocks.iter().map(|blocks| u64::from(*blocks) + 8).sum(),
        // The files were built without.
        checksums: false,
    };
    let pool = Pool::named(&domain, NAME, &config, PoolOptions::default()).map_err(Error::pool)?;
    let session = pool.session().map_err(Error::pool)?;
    register(&session, &directory)?;
    drop(session);
    Ok(Shared { directory, pool: Some((pool, domain)) })
}

fn register(session: &Session, directory: &Path) -> Result<[FileNumber; 2], Error> {
    let mut numbers = [FileNumber::from_bits(0); 2];
    for file in File::ALL {
        let path = directory.join(file.name());
        let blocks = std::fs::metadata(&path).map(|about| about.len() / PAGE_BYTES as u64);
        let blocks = blocks.map_err(|problem| Error::File { path: path.clone(), problem })?;
        let blocks_max = u32::try_from(blocks).ok();
        let options = FileOptions { create: false, blocks_max };
        let key = FileKey { id: file.index() as u64, fork: 0 };
        let number = session.register(key, &path, &options);
        numbers[file.index()] = number.map_err(Error::pool)?;
    }
    Ok(numbers)
}

/// The same in a client.
pub(crate) fn attach(options: &ClientOptions) -> Result<Source, Error> {
    let Some(name) = &options.domain else {
        return Ok(Source::Files(Preads::open(&options.dir)?));
    };
    let domain = Domain::open(DomainConfig::new(name)).map_err(Error::pool)?;
    let pool = Pool::find_named(&domain, NAME, PoolOptions::default()).map_err(Error::pool)?;
    let session = pool.session().map_err(Error::pool)?;
    let (numbers, page) = (register(&session, &options.dir)?, Box::new([0; PAGE_BYTES]));
    let before = session.stats();
    let before = Counts { accesses: before.hits + before.reads, hits: before.hits };
    Ok(Source::Pool(Box::new(Pooled { session, numbers, page, before, _domain: domain })))
}

/// What a client has its pages from.
pub(crate) enum Source {
    Files(Preads),
    Pool(Box<Pooled>),
}

/// Pages through the pool.
pub(crate) struct Pooled {
    session: Session,
    numbers: [FileNumber; 2],
    page: Box<Page>,
    /// What was counted of the session before.
    before: Counts,
    _domain: Domain,
}

impl Pages for Source {
    fn read<R>(&mut self, page: PageId, look: impl FnOnce(&Page) -> R) -> Result<R, Error> {
        match self {
            Source::Files(files) => files.read(page, look),
            Source::Pool(pool) => pool.read(page, look),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Source::Files(files) => files.counts(),
            Source::Pool(pool) => pool.counts(),
        }
    }
}

impl Pages for Pooled {
    fn read<R>(&mut self, page: PageId, look: impl FnOnce(&Page) -> R) -> Result<R, Error> {
        let pinned = self.session.page(self.numbers[page.file.index()], page.block);
        let pinned = pinned.map_err(Error::pool)?;
        pinned.copy_out(0, &mut self.page[..]).map_err(Error::pool)?;
        Ok(look(&self.page))
    }

    fn counts(&self) -> Counts {
        let now = self.session.stats();
        Counts {
            accesses: now.hits + now.reads - self.before.accesses,
            hits: now.hits - self.before.hits,
        }
    }
}

impl Shared {
    /// What the client of this number is told.
    pub(crate) fn client(&self, options: &Run, number: u32) -> ClientOptions {
        let (seed, transactions) = (options.seed, options.transactions);
        let domain = self.pool.as_ref().map(|(_, domain)| domain.name().to_owned());
        ClientOptions { dir: self.directory.clone(), domain, seed, number, transactions }
    }

    /// Which page is in which frame.
    pub(crate) fn residency(&self) -> Result<Vec<Resident>, Error> {
        let Some((pool, _)) = &self.pool else { return Ok(Vec::new()) };
        let numbers: Vec<_> = File::ALL
            .into_iter()
            .map(|file| pool.find_file(FileKey { id: file.index() as u64, fork: 0 }))
            .collect();
        let resident = |info: buffer_pool::pool::FrameInfo| {
            let (number, block) = info.page?;
            let at = numbers.iter().position(|of| *of == Some(number))?;
            let page = PageId { file: File::ALL[at], block };
            Some(Resident { page, usage_count: info.use_count.unwrap_or(0) })
        };
        let infos = pool.frame_infos().map_err(Error::pool)?;
        Ok(infos.into_iter().filter_map(resident).collect())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((pool, domain)) = self.pool.take() {
            drop(pool);
            // Nothing stays: where it could not be removed, the domain says so.
            let _ = domain.remove_named(NAME);
            let _ = domain.destroy();
        }
    }
}

/// A frame that holds a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) page: PageId,
    /// From 0 to 5.
    pub(crate) usage_count: u8,
}
