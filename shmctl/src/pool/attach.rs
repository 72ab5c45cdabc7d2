//! A pool that others use, as it is found in their domain.
//!
//! Who looks takes a seat in the domain and one in the pool, and leaves both. What is no pool is
//! not touched.
use super::error::PoolError;
use buffer_pool::pool::{OpenError, Pool, PoolOptions};
use dsm::registry::Kind;
use dsm::{Domain, DomainConfig, EntryInfo};
use std::time::Duration;

/// So long to wait for another process that has a page.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which pool.
#[derive(Debug, clap::Args)]
pub struct Where {
    /// Shared-memory domain that the pool is in
    #[arg(long, value_name = "NAME")]
    pub domain: String,
    /// Named segment that the pool is in [default: the only one with a pool]
    #[arg(long, value_name = "SEGMENT")]
    pub pool: Option<String>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A pool, and where it is.
pub(super) struct Found {
    /// As it was before we came.
    pub(super) entry: EntryInfo,
    pub(super) pool: Result<Pool, OpenError>,
}

/// A pool that is open. It is left before its domain.
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) pool: Pool,
    _domain: Domain,
}

impl Where {
    /// The pool of this name, or the only one.
    pub(super) fn attach(&self) -> Result<Attached, PoolError> {
        let domain = self.domain()?;
        let mut found = self.pools(&domain)?;
        let (one, more) = (found.pop(), found);
        let domain_name = || self.domain.clone();
        match (one, &self.pool) {
            (Some(Found { entry, pool }), _) if more.is_empty() => {
                Ok(Attached { name: entry.name, pool: pool?, _domain: domain })
            }
            (Some(one), _) => {
                let mut names: Vec<String> =
                    more.into_iter().chain([one]).map(|found| found.entry.name).collect();
                names.sort_unstable();
                Err(PoolError::Several { domain: domain_name(), names: names.join(", ") })
            }
            (None, Some(name)) => {
                Err(PoolError::NoSuchPool { domain: domain_name(), name: name.clone() })
            }
            (None, None) => Err(PoolError::NoPool { domain: domain_name() }),
        }
    }

    /// The domain, which others have made.
    pub(super) fn domain(&self) -> Result<Domain, PoolError> {
        let domain = Domain::open_existing(DomainConfig::new(&self.domain))?;
        domain.ok_or_else(|| PoolError::NoDomain { domain: self.domain.clone() })
    }

    /// The pools in its named segments, of this name if there is one, in the order of their names.
    pub(super) fn pools(&self, domain: &Domain) -> Result<Vec<Found>, PoolError> {
        let mut entries = domain.named();
        entries.retain(|entry| self.pool.as_ref().is_none_or(|name| *name == entry.name));
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut pools = Vec::new();
        for entry in entries.into_iter().filter(|entry| entry.kind == Kind::Segment) {
            // It is being made, or was removed since.
            let Some(handle) = entry.handle else { continue };
            let Some(segment) = domain.attach(handle)? else { continue };
            if Pool::is_in(segment.mapping()) {
                let options = PoolOptions { patience: Some(PATIENCE), ..PoolOptions::default() };
                let pool = Pool::attach(segment.mapping(), options);
                pools.push(Found { entry, pool });
            }
        }
        Ok(pools)
    }
}
