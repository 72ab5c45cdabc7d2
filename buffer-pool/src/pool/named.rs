//! Pools by name, in a domain.
use super::{ConfigError, OpenError, Pool, PoolConfig, PoolOptions};
use dsm::{Domain, EntryInfo, NamedError, NamedSpec, Segment};
use std::convert::Infallible;

/// Why there is no pool of a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamedPoolError {
    /// There can be no such pool.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no segment for it.
    #[error(transparent)]
    Segment(#[from] NamedError<Infallible>),
    /// There is none of this name.
    #[error("the domain has nothing named `{0}`")]
    NoSuchName(String),
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Pool {
    /// The pool of this name in a domain: where there is none it is made, in a segment of its own,
    /// as large as it may ever be, with memory as far as it needs it. It stays when nobody uses it,
    /// until somebody [removes](Domain::remove_named) the name; and it is found by its name alone
    /// ([`Pool::find_named`]).
    ///
    /// ```
    /// use buffer_pool::pool::{Pool, PoolConfig, PoolOptions};
    /// use dsm::{Domain, DomainConfig};
    /// # let name = format!("doc-pool-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let config = PoolConfig { frames_max: 1024, ..PoolConfig::new(1 << 20) };
    /// let pool = Pool::named(&domain, "pages", &config, PoolOptions::default())?;
    /// assert_eq!(pool.frames(), 128);
    /// pool.session()?.resize(1024)?;
    /// assert_eq!(pool.frames(), 1024);
    /// # drop(pool);
    /// # domain.remove_named("pages")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NamedPoolError`].
    ///
    /// # If a process dies here
    /// The next to ask for the name makes it anew; or it has a seat, which is reaped.
    pub fn named(
        domain: &Domain,
        name: &str,
        config: &PoolConfig,
        options: PoolOptions,
    ) -> Result<Pool, NamedPoolError> {
        let segment = segment(domain, name, Pool::bytes_for(config)?)?;
        Ok(Pool::open(segment.mapping(), config, with_memory(domain, &segment, options))?)
    }

    /// The pool of this name in a domain, whatever it was made for.
    ///
    /// # Errors
    /// [`NamedPoolError`].
    ///
    /// # If a process dies here
    /// It has a seat, which is reaped.
    pub fn find_named(
        domain: &Domain,
        name: &str,
        options: PoolOptions,
    ) -> Result<Pool, NamedPoolError> {
        let is_it = |info: &EntryInfo| info.name == name;
        let found = domain.named().into_iter().find(is_it);
        let size = found.ok_or_else(|| NamedPoolError::NoSuchName(name.to_owned()))?.size;
        let segment = segment(domain, name, size)?;
        Ok(Pool::attach(segment.mapping(), with_memory(domain, &segment, options))?)
    }
}

/// With hardly any memory behind it: who makes the pool puts it there.
fn segment(domain: &Domain, name: &str, size: u64) -> Result<Segment, NamedError<Infallible>> {
    let spec = NamedSpec { size, filled: Some(4096), ..NamedSpec::default() };
    Ok(domain.named_segment(name, &spec, |_| Ok(()))?.segment)
}

fn with_memory(domain: &Domain, segment: &Segment, options: PoolOptions) -> PoolOptions {
    PoolOptions { memory: Some(domain.memory_of(segment)), ..options }
}
