//! What every worker must know to do its part, as bytes for a shared segment.

use super::query::Query;
use super::scan::ScanError;
use super::wire::Corrupt;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The job on one file. Encoded as JSON: written once, read once per worker, and readable by
/// people who inspect the segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// A path need not be UTF-8, so its bytes.
    path: Vec<u8>,
    identity: Identity,
    header_end: u64,
    delimiter: u8,
    chunk_bytes: u64,
    query: Query,
}

/// What tells a file from another one, and from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_seconds: metadata.mtime(),
            modified_nanoseconds: metadata.mtime_nsec(),
        }
    }
}

/// How the file is to be read, apart from the question itself.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Offset behind the header line.
    pub header_end: u64,
    /// What separates cells.
    pub delimiter: u8,
    /// Size of a chunk; at least 1.
    pub chunk_bytes: u64,
}

impl Plan {
    /// The plan for a file that is open and as `metadata` says.
    pub fn new(path: &Path, metadata: &Metadata, layout: Layout, query: Query) -> Plan {
        Plan {
            path: path.as_os_str().as_bytes().to_vec(),
            identity: Identity::of(metadata),
            header_end: layout.header_end,
            delimiter: layout.delimiter,
            chunk_bytes: layout.chunk_bytes,
            query,
        }
    }

    /// Absolute path of the file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.path.clone()))
    }

    /// Length of the file; what is appended later is not read.
    pub fn file_bytes(&self) -> u64 {
        self.identity.bytes
    }

    /// Offset behind the header line: where records begin.
    pub fn header_end(&self) -> u64 {
        self.header_end
    }

    /// What separates cells.
    pub fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// Size of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The question.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Opens the file, if it is still the one that was planned for.
    ///
    /// # Errors
    /// [`ScanError`] where it cannot be opened or is another file by now.
    pub fn open(&self) -> Result<File, ScanError> {
        let file =
            File::open(OsStr::from_bytes(&self.path)).map_err(|error| ScanError::read(&error))?;
        self.check_unchanged(&file)?;
        Ok(file)
    }

    /// Whether the file is as it was when the plan was made; to be asked again at the end.
    ///
    /// # Errors
    /// [`ScanError::Changed`] where it is not.
    pub fn check_unchanged(&self, file: &File) -> Result<(), ScanError> {
        let metadata = file.metadata().map_err(|error| ScanError::read(&error))?;
        if Identity::of(&metadata) == self.identity { Ok(()) } else { Err(ScanError::Changed) }
    }

    /// The plan as bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Structs of integers and strings have a JSON form, so this does not fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A plan from bytes that another process wrote.
    ///
    /// # Errors
    /// [`Corrupt`] where they are no plan, or one that contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Plan, Corrupt> {
        let plan: Plan =
            serde_json::from_slice(bytes).map_err(|_| Corrupt("the plan is not readable"))?;
        let possible = plan.header_end <= plan.identity.bytes
            && plan.chunk_bytes > 0
            && is_delimiter(plan.delimiter)
            && plan.query.is_possible();
        if possible { Ok(plan) } else { Err(Corrupt("the plan contradicts itself")) }
    }
}

/// Whether a byte can separate cells: ASCII, and neither a quote nor a line end.
pub fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::super::query::{Kind, Request};
    use super::*;
    use proptest::prelude::*;
    use shm_testkit::depth::cases;

    fn plan() -> Plan {
        let request = Request {
            group_by: vec!["a".to_owned()],
            aggregates: vec![(Kind::Sum, "b".to_owned())],
        };
        let query = Query::resolve(vec!["a".to_owned(), "b".to_owned()], &request).unwrap();
        let metadata = std::fs::metadata("/").unwrap();
        let layout = Layout { header_end: 0, delimiter: b',', chunk_bytes: 7 };
        Plan::new(Path::new(OsStr::from_bytes(b"/tmp/\xff")), &metadata, layout, query)
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        assert_eq!(Plan::decode(&plan().encode()), Ok(plan()));
    }

    #[test]
    fn a_plan_that_contradicts_itself_is_refused() {
        let text = String::from_utf8(plan().encode()).unwrap();
        for (from, to) in [
            ("\"header_end\":0", "\"header_end\":99999999999"),
            ("\"chunk_bytes\":7", "\"chunk_bytes\":0"),
            ("\"delimiter\":44", "\"delimiter\":10"),
            ("\"tallied\":[1]", "\"tallied\":[2]"),
            ("\"group_by\":[0]", "\"group_by\":[9]"),
            ("\"tally\":0", "\"tally\":1"),
            ("{", ""),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            assert!(Plan::decode(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(256)))]

        #[test]
        fn damaged_bytes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = plan().encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Plan::decode(&bytes);
        }
    }
}
