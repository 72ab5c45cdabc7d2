//! Which names there are, and which are durable.
use super::chance::Chance;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Something that became of names.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Make { serial: u64, file: u64, path: PathBuf },
    Rename { serial: u64, from: PathBuf, to: PathBuf },
    Remove { serial: u64, path: PathBuf },
}

impl Change {
    fn serial(&self) -> u64 {
        let (Change::Make { serial, .. }
        | Change::Rename { serial, .. }
        | Change::Remove { serial, .. }) = self;
        *serial
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let (one, other) = match self {
            Change::Make { path, .. } | Change::Remove { path, .. } => (path, None),
            Change::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }

    /// Makes it; whether it could be made.
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) -> bool {
        match self {
            Change::Make { file, path, .. } => {
                names.insert(path.clone(), *file);
                true
            }
            Change::Rename { from, to, .. } => match names.remove(from) {
                Some(file) => {
                    names.insert(to.clone(), file);
                    true
                }
                None => false,
            },
            Change::Remove { path, .. } => names.remove(path).is_some(),
        }
    }
}

/// All names: they are written anew as a whole, by a rename.
///
/// Changes of one name stay in their order: one is durable only where those before it are. What
/// has no name in common is in no order.
#[derive(Debug, Default)]
pub(super) struct Names {
    durable: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
}

impl Names {
    pub(super) fn read(dir: &Path) -> io::Result<Names> {
        match fs::read(dir.join("names")) {
            Ok(text) => Names::parse(&text).ok_or(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("names.new");
        fs::write(&new, self.text())?;
        fs::rename(new, dir.join("names"))
    }

    /// Words that end in a zero, which no path has in it.
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut put = |kind: &str, numbers: &[u64], paths: &[&Path]| {
            let numbers = numbers.iter().map(|number| number.to_string().into_bytes());
            let paths = paths.iter().map(|path| path.as_os_str().as_bytes().to_vec());
            let kind = std::iter::once(kind.as_bytes().to_vec());
            kind.chain(numbers).chain(paths).for_each(|word| {
                text.extend(word);
                text.push(0);
            });
        };
        for (path, file) in &self.durable {
            put("durable", &[*file], &[path]);
        }
        for change in &self.changes {
            match change {
                Change::Make { serial, file, path } => put("make", &[*serial, *file], &[path]),
                Change::Rename { serial, from, to } => put("rename", &[*serial], &[from, to]),
                Change::Remove { serial, path } => put("remove", &[*serial], &[path]),
            }
        }
        text
    }

    fn parse(text: &[u8]) -> Option<Names> {
        fn number(word: Option<&[u8]>) -> Option<u64> {
            std::str::from_utf8(word?).ok()?.parse().ok()
        }
        let path = |word: Option<&[u8]>| Some(PathBuf::from(OsStr::from_bytes(word?)));
        let (mut names, mut words) = (Names::default(), text.split(|byte| *byte == 0));
        while let Some(kind) = words.next().filter(|kind| !kind.is_empty()) {
            let first = number(words.next())?;
            let change = match kind {
                b"durable" => {
                    names.durable.insert(path(words.next())?, first);
                    continue;
                }
                b"make" => {
                    let file = number(words.next())?;
                    Change::Make { serial: first, file, path: path(words.next())? }
                }
                b"rename" => {
                    let from = path(words.next())?;
                    Change::Rename { serial: first, from, to: path(words.next())? }
                }
                b"remove" => Change::Remove { serial: first, path: path(words.next())? },
                _ => return None,
            };
            names.changes.push(change);
        }
        Some(names)
    }

    /// What can be seen.
    pub(super) fn shown(&self) -> BTreeMap<PathBuf, u64> {
        let mut shown = self.durable.clone();
        for change in &self.changes {
            change.apply(&mut shown);
        }
        shown
    }

    pub(super) fn change(&mut self, change: Change) -> io::Result<()> {
        if !change.apply(&mut self.shown()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.changes.push(change);
        Ok(())
    }

    /// Makes durable what became of the names in `directory`, and what that stands on.
    pub(super) fn sync(&mut self, directory: Option<&Path>) {
        let (mut needed, mut goes) = (BTreeSet::new(), BTreeSet::new());
        for change in self.changes.iter().rev() {
            let is_inside = change.paths().any(|path| path.parent() == directory);
            if is_inside || change.paths().any(|path| needed.contains(path)) {
                needed.extend(change.paths().cloned());
                goes.insert(change.serial());
            }
        }
        let durable = &mut self.durable;
        self.changes.retain(|change| {
            let goes = goes.contains(&change.serial());
            if goes {
                change.apply(durable);
            }
            !goes
        });
    }

    /// Those that have a name, or had one when what is durable was made so.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        let made = self.changes.iter().filter_map(|change| match change {
            Change::Make { file, .. } => Some(*file),
            _ => None,
        });
        self.durable.values().copied().chain(made).collect()
    }

    /// The serials of what is not durable.
    pub(super) fn pending(&self) -> Vec<u64> {
        self.changes.iter().map(Change::serial).collect()
    }

    /// Leaves of what is not durable what chance will have.
    pub(super) fn settle(&mut self, chance: &mut Chance) {
        let mut lost = BTreeSet::new();
        for change in std::mem::take(&mut self.changes) {
            let is_left = chance.pick(&[change.serial()]) == 1;
            if is_left && !change.paths().any(|path| lost.contains(path)) {
                change.apply(&mut self.durable);
            } else {
                lost.extend(change.paths().cloned());
            }
        }
    }
}
