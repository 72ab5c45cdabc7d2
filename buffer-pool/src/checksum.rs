//! The first bytes of a page, which are the pool's, and the checksum in them.
//!
//! ```text
//!   0         8          12         16
//!   | LSN u64 | CRC32C   | reserved | the user's …
//! ```
//!
//! The checksum is of the block's number and the page, with zeroes in its own place; 0 stands for
//! none, so where it comes out as 0 it is 1. A page of zeroes is whole: a file that was lengthened
//! has such ones.

/// So many bytes at the beginning of each page are the pool's. Users do not change them.
pub const HEADER_BYTES: usize = 16;

/// Where the checksum is.
const AT: usize = 8;
const SIZE: usize = 4;

/// Of the page of block `block`.
pub(crate) fn of(block: u32, page: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&block.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &page[..AT]);
    let crc = crc32c::crc32c_append(crc, &[0; SIZE]);
    crc32c::crc32c_append(crc, &page[AT + SIZE..]).max(1)
}

/// Writes it into the page.
pub(crate) fn seal(block: u32, page: &mut [u8]) {
    let sum = of(block, page);
    page[AT..AT + SIZE].copy_from_slice(&sum.to_le_bytes());
}

/// What the page says, and what it should say, where these are not the same.
pub(crate) fn check(block: u32, page: &[u8]) -> Result<(), (u32, u32)> {
    let mut found = [0; SIZE];
    found.copy_from_slice(&page[AT..AT + SIZE]);
    let (found, expected) = (u32::from_le_bytes(found), of(block, page));
    let is_empty = || page.iter().all(|byte| *byte == 0);
    if found == expected || found == 0 && is_empty() { Ok(()) } else { Err((found, expected)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_page_is_whole_in_its_own_place_only() {
        let mut page: Vec<u8> = (0..1024).map(|at| at as u8).collect();
        seal(7, &mut page);
        assert_eq!(check(7, &page), Ok(()));
        assert!(check(8, &page).is_err());
    }

    #[test]
    fn each_flipped_bit_is_found() {
        let mut page: Vec<u8> = (0..1024).map(|at| (at * 7) as u8).collect();
        seal(3, &mut page);
        for bit in 0..page.len() * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(check(3, &page).is_err(), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_page_of_zeroes_is_whole_and_one_without_a_checksum_is_not() {
        let mut page = vec![0; 1024];
        assert_eq!(check(9, &page), Ok(()));
        page[500] = 1;
        assert!(check(9, &page).is_err());
    }
}
