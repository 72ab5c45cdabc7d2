//! Pages that hold one value, in all of their words: whoever reads one sees whether it is whole.
use buffer_pool::HEADER_BYTES;
use buffer_pool::pool::{Page, PageError, PageView};

const PAGE: usize = 1024;

/// What all of the page holds.
pub(crate) fn whole(view: PageView<'_>) -> Option<u64> {
    let value = view.u64(HEADER_BYTES);
    let is_whole = (HEADER_BYTES..PAGE).step_by(8).all(|at| view.u64(at) == value);
    value.filter(|_| is_whole)
}

pub(crate) fn value(page: &Page<'_>) -> Result<u64, String> {
    let value = page.read(whole).map_err(|error| error.to_string())?;
    value.ok_or_else(|| format!("half of a change in {page:?}"))
}

/// In two ranges.
pub(crate) fn write(page: &Page<'_>, value: u64) -> Result<(), PageError> {
    let half = value.to_le_bytes().repeat(63);
    page.exclusive()?.write(&[(520, &half), (HEADER_BYTES, &half)])
}
