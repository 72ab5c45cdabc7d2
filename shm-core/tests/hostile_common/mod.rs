//! Guarded blocks as mappings, and lies in them, for the hostile tests.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::liar::{Edge, Guarded, Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No call of these tests takes so long unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The block as a mapping, which keeps it.
pub(crate) fn mapping(block: &Guarded) -> Arc<Mapping> {
    let kept = block.clone();
    // SAFETY: the block is aligned to 64 bytes, lives as long as `kept`, and no reference leads to
    // it; those who lie to it have a mapping of their own.
    unsafe { Mapping::from_raw(block.base(), block.len(), Box::new(|_, _| drop(kept))) }
}

/// A block that holds `image`, flush with one of its guard pages, and its mapping.
pub(crate) fn guarded(image: &[u8], seed: u64) -> (Guarded, Arc<Mapping>) {
    let block = Guarded::holding(image, Edge::of(seed));
    let mapping = mapping(&block);
    (block, mapping)
}

/// A deadline near enough for thousands of them.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_micros(300)
}

/// Two members of a table that is honest.
pub(crate) fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// A structure whose memory lies.
pub(crate) struct Victim<'a> {
    /// What it holds in the course of its life: each use begins with one of these.
    pub(crate) images: Vec<Vec<u8>>,
    /// Words that mean something to it, beside those of the images.
    pub(crate) values: Vec<u64>,
    /// Does with it all that there is, with a deadline where it sleeps; whether it could be
    /// attached.
    pub(crate) use_it: &'a dyn Fn(&Trials, u64, &Arc<Mapping>) -> bool,
}

/// `test` with a victim that two honest members use: what it holds in the course of its life, which
/// words mean something beside those, and what is done with it.
pub(crate) fn with_members(
    images: impl Fn(&[Arc<Member>; 2]) -> Vec<Vec<u8>>,
    values: impl Fn(&[Vec<u8>]) -> Vec<u64>,
    use_it: impl Fn(&Trials, u64, &Arc<Mapping>, &[Arc<Member>; 2]) -> bool,
    test: impl Fn(Victim<'_>),
) {
    let members = members();
    let images = images(&members);
    let values = values(&images);
    let use_it =
        |trials: &Trials, seed, mapping: &Arc<Mapping>| use_it(trials, seed, mapping, &members);
    test(Victim { images, values, use_it: &use_it });
}

impl Victim<'_> {
    /// It is lied to before it is attached, with so many seeds; is attached often enough all the
    /// same; and writes nothing beside itself.
    pub(crate) fn is_lied_to(&self, name: &'static str, seeds: u64, attached_min: u32) {
        self.tries(name, seeds, attached_min, |trials, seed, block, mapping| {
            trials.tell(&block.outside(), &mut self.liar(seed), seed % 4);
            (self.use_it)(trials, seed, mapping)
        });
    }

    /// The same, while it is used.
    pub(crate) fn is_lied_to_meanwhile(&self, name: &'static str, seeds: u64, attached_min: u32) {
        self.tries(name, seeds, attached_min, |trials, seed, block, mapping| {
            let scribbler = Scribbler::start(block.outside(), self.liar(seed).restoring());
            let mut attached = false;
            scribbler.meanwhile(1000, || attached = (self.use_it)(trials, seed, mapping));
            trials.add(scribbler.stop());
            attached
        });
    }

    fn tries(
        &self,
        name: &'static str,
        seeds: u64,
        attached_min: u32,
        lie: impl Fn(&Trials, u64, &Guarded, &Arc<Mapping>) -> bool,
    ) {
        let (trials, mut attached) = (Trials::new(name, LIMIT), 0);
        for seed in trials.seeds(seeds) {
            let (block, mapping) = guarded(self.image(seed), seed);
            attached += u32::from(lie(&trials, seed, &block, &mapping));
            trials.check(seed, "all of it", block.is_intact(), "wrote beside its memory");
        }
        assert!(attached > attached_min, "attached {attached}");
        trials.finish();
    }

    fn image(&self, seed: u64) -> &[u8] {
        &self.images[seed as usize % self.images.len()]
    }

    fn liar(&self, seed: u64) -> Liar {
        Liar::new(seed, self.image(seed)).with_images(&self.images).with_values(&self.values)
    }
}
