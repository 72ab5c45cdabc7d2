//! Traces in files: `.pgt`.
//!
//! 16 bytes of head (`PGT1`, accesses `u32`, distinct pages `u32`, zero `u32`), then a zlib stream
//! of page numbers, `u32` each. All little-endian.
use super::error::BadTrace;
use buffer_pool::simulate::Trace;
use flate2::bufread::ZlibDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// At most so many accesses are read: a gigabyte of them.
pub const ACCESSES_MAX: u32 = 1 << 28;

const MAGIC: &[u8; 4] = b"PGT1";

/// The trace in the file of this name.
///
/// # Errors
/// `BadTrace`.
pub fn read_file(path: &Path) -> Result<Trace, BadTrace> {
    read(BufReader::new(File::open(path).map_err(BadTrace::Unreadable)?))
}

/// The trace in these bytes. What the head says is checked: memory is taken for what is there.
///
/// # Errors
/// `BadTrace`.
pub fn read(mut from: impl BufRead) -> Result<Trace, BadTrace> {
    let mut head = Vec::new();
    (&mut from).take(16).read_to_end(&mut head).map_err(BadTrace::Unreadable)?;
    if head.len() < 16 || !head.starts_with(MAGIC) {
        return Err(BadTrace::NotATrace);
    }
    let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    match count {
        0 => return Err(BadTrace::Empty),
        _ if count > ACCESSES_MAX => return Err(BadTrace::TooMany(count)),
        _ => {}
    }
    let mut stream = BufReader::new(ZlibDecoder::new(from));
    let mut accesses = Vec::new();
    for _ in 0..count {
        let mut page = [0; 4];
        stream.read_exact(&mut page).map_err(BadTrace::Damaged)?;
        accesses.push(u32::from_le_bytes(page));
    }
    // The check sum stands at the end of the stream.
    match stream.read(&mut [0]).map_err(BadTrace::Damaged)? {
        0 => Ok(Trace::new(accesses)),
        _ => Err(BadTrace::TooLong { head: count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::ZlibEncoder};
    use std::io::Write;

    fn file(count: u32, pages: &[u32]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &count.to_le_bytes(), &[0; 8]].concat();
        let mut stream = ZlibEncoder::new(&mut bytes, Compression::default());
        pages.iter().for_each(|page| stream.write_all(&page.to_le_bytes()).unwrap());
        stream.finish().unwrap();
        bytes
    }

    fn problem(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_trace_is_read() {
        let trace = read(&file(4, &[7, 8, 7, 9])[..]).unwrap();
        assert_eq!((trace.accesses(), trace.distinct()), (&[0, 1, 0, 2][..], 3));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let good = file(3, &[1, 2, 3]);
        assert!(problem(b"").contains("should begin with `PGT1`"));
        assert!(problem(b"PGT1").contains("should begin with `PGT1`"));
        assert!(problem(b"a,b\n1,2\n3,4\n5,6\n").contains("--generate"));
        assert!(problem(&good[..good.len() - 1]).contains("damaged"));
        assert!(problem(&good[..16]).contains("damaged"));
        assert!(problem(&file(4, &[1, 2, 3])).contains("damaged"));
        assert!(problem(&file(2, &[1, 2, 3])).contains("says 2 accesses, and more follow"));
        assert!(problem(&file(0, &[])).contains("no access"));
        assert!(problem(&file(u32::MAX, &[1])).contains("cut it"));
    }

    #[test]
    fn any_damaged_byte_is_an_error_or_a_trace() {
        let good = file(50, &(0..50).map(|page| page % 7).collect::<Vec<_>>());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let Ok(trace) = read(&bytes[..]) else { continue };
                assert!(trace.accesses().len() == 50, "byte {at}, bit {bit}");
            }
        }
    }
}
