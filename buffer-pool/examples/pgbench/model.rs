//! What the policy alone would keep: the shipping code of [`buffer_pool::policy`], over frames that
//! hold no bytes, beside the same clients, who take turns in one process.
use crate::data::Data;
use crate::error::Error;
use crate::format::Page;
use crate::lookups::{Client, Totals};
use crate::options::Run;
use crate::pages::{Counts, PageId, Pages, Preads};
use crate::pool::Resident;
use buffer_pool::policy::{Batch, Kind, Policy, PolicyError};
use shm_core::mapping::Mapping;

/// Runs all clients, and says what they have done together, and which pages are left.
pub(crate) fn run(data: &Data, options: &Run) -> Result<(Totals, Vec<Resident>), Error> {
    if options.policy != Kind::Clock5 {
        return Err(Error::NoModel);
    }
    let mut model = Model::new(data, options.pool)?;
    let connect = |number| Client::connect(&mut model, options.seed, number);
    let mut clients: Vec<_> = (0..options.clients).map(connect).collect::<Result<_, _>>()?;
    for _ in 0..options.transactions {
        for client in &mut clients {
            client.transact(&mut model)?;
        }
    }
    let mut totals = Totals { counts: model.counts(), ..Totals::default() };
    clients.iter().for_each(|client| totals.add(client.totals(Counts::default())));
    Ok((totals, model.residency()))
}

/// A pool of frames without bytes. Pages come from the files.
struct Model {
    files: Preads,
    policy: Policy,
    batch: Batch,
    page_of: Vec<Option<PageId>>,
    frame_of: [Vec<Option<u32>>; 2],
    /// Frames below this one have been used.
    used: u32,
    counts: Counts,
}

impl Pages for Model {
    fn read<R>(&mut self, page: PageId, look: impl FnOnce(&Page) -> R) -> Result<R, Error> {
        let read = self.files.read(page, look)?;
        self.counts.accesses += 1;
        // There is such a page, or it could not have been read.
        match self.frame_of[page.file.index()][page.block as usize] {
            Some(frame) => {
                self.policy.hit(frame);
                self.counts.hits += 1;
            }
            None => self.load(page),
        }
        Ok(read)
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

impl Model {
    fn new(data: &Data, frames: u32) -> Result<Model, Error> {
        let bytes = Policy::bytes_for(Kind::Clock5, frames)?;
        let bytes = usize::try_from(bytes).map_err(|_| PolicyError::BadFrames { frames })?;
        // SAFETY: nobody else has the mapping.
        let policy = unsafe { Policy::create(&Mapping::heap(bytes), 0, Kind::Clock5, frames) }?;
        Ok(Model {
            files: Preads::open(&data.directory)?,
            policy,
            // PostgreSQL looks for one at a time.
            batch: Batch::new(1),
            page_of: vec![None; frames as usize],
            frame_of: data.blocks.map(|blocks| vec![None; blocks as usize]),
            used: 0,
            counts: Counts::default(),
        })
    }

    fn load(&mut self, page: PageId) {
        let frame = if self.used < self.policy.frames() {
            self.used += 1;
            self.used - 1
        } else {
            self.evict()
        };
        self.page_of[frame as usize] = Some(page);
        self.frame_of[page.file.index()][page.block as usize] = Some(frame);
        self.policy.admit(frame, 0);
    }

    fn evict(&mut self) -> u32 {
        // The tag is of no use to a clock.
        let found = self.policy.victims(&mut self.batch, |_| Some(0));
        found.expect("nothing is ever refused");
        let frame = self.batch.frames()[0];
        if let Some(page) = self.page_of[frame as usize].take() {
            self.frame_of[page.file.index()][page.block as usize] = None;
        }
        frame
    }

    /// Which pages are left. The policy tells how many frames stand at each count, but not which:
    /// that is seen by the order in which the hand would take them, the least used first.
    fn residency(mut self) -> Vec<Resident> {
        let counts = self.policy.use_counts();
        let mut order = Vec::new();
        let mut is_due = vec![false; self.page_of.len()];
        let refused = self.policy.victims(&mut self.batch, |frame| {
            if !std::mem::replace(&mut is_due[frame as usize], true) {
                order.push(frame);
            }
            None
        });
        refused.expect_err("everything is refused");
        let classes =
            (0..=5).flat_map(|count: u8| vec![count; counts[usize::from(count)] as usize]);
        let resident = |(frame, usage_count): (u32, u8)| {
            Some(Resident { page: self.page_of[frame as usize]?, usage_count })
        };
        order.into_iter().zip(classes).filter_map(resident).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use crate::lookups::meta;
    use crate::options::Arguments;
    use crate::pages::File;
    use clap::Parser;

    /// The options of a line, and its files in `directory`.
    fn prepare(directory: &tempfile::TempDir, line: &str) -> (Data, Run) {
        let words = ["pgbench"].into_iter().chain(line.split_whitespace());
        let Arguments { run, .. } = Arguments::parse_from(words);
        (data::ensure(directory.path(), run.scale).unwrap(), run)
    }

    #[test]
    fn clients_find_the_same_rows_as_without_a_pool() {
        let directory = tempfile::tempdir().unwrap();
        let (data, options) = prepare(&directory, "--clients 3 --transactions 500 --pool 128kB");
        let (totals, residents) = run(&data, &options).unwrap();
        let mut plain = Totals::default();
        for number in 0..3 {
            let mut files = Preads::open(&data.directory).unwrap();
            let mut client = Client::connect(&mut files, options.seed, number).unwrap();
            (0..500).for_each(|_| client.transact(&mut files).unwrap());
            plain.add(client.totals(files.counts()));
        }
        assert_eq!((totals.transactions, totals.balance), (plain.transactions, plain.balance));
        assert_eq!(totals.counts.accesses, plain.counts.accesses);
        assert_eq!(residents.len(), 16);
    }

    #[test]
    fn use_counts_are_those_of_the_pages() {
        let directory = tempfile::tempdir().unwrap();
        let (data, _) = prepare(&directory, "");
        let mut model = Model::new(&data, 16).unwrap();
        let root = meta(&mut model).unwrap().root;
        let page = |block| PageId { file: File::Pkey, block };
        let read = |model: &mut Model, block| model.read(page(block), |_| ()).unwrap();
        // Block 0 once; these as often as they say, and 5 is the most that counts.
        for (block, times) in [(root, 9), (1, 1), (2, 2), (4, 3), (5, 4), (6, 5)] {
            (0..times).for_each(|_| read(&mut model, block));
        }
        let mut found = model.residency();
        found.sort_by_key(|resident| resident.page.block);
        let found = found.into_iter().map(|resident| (resident.page.block, resident.usage_count));
        let expected = [(0, 1), (1, 1), (2, 2), (3, 5), (4, 3), (5, 4), (6, 5)];
        assert_eq!((root, found.collect::<Vec<_>>()), (3, expected.to_vec()));
    }

    /// A tenth of what PostgreSQL 15 has in 128 MB after 200,000 lookups at scale 50, by
    /// `pg_buffercache`: so small a sample is within a tenth of it, or 20 pages.
    #[test]
    fn a_pool_is_divided_as_postgresql_divides_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let line = "--scale 5 --clients 8 --transactions 2500 --pool 13107kB";
        let (data, options) = prepare(&directory, line);
        let (_, residents) = run(&data, &options).unwrap();
        let expected = [[4353, 4548, 157, 5, 0, 0], [2763, 3398, 769, 155, 27, 54]];
        for (file, expected) in File::ALL.into_iter().zip(expected) {
            for (count, expected) in (0..).zip(expected.map(|pages| pages / 10)) {
                let is_one = |one: &&Resident| one.page.file == file && one.usage_count == count;
                let found = residents.iter().filter(is_one).count();
                let off = 20.max(expected / 10);
                assert!(found.abs_diff(expected) <= off, "{file:?} {count}: {found}, {expected}");
            }
        }
    }
}
