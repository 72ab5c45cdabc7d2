//! Taking bytes apart that another process wrote: every step is checked, nothing is assumed.

/// Bytes from another process are not what they should be; the text says which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message between our processes is damaged: {0}")]
pub struct Corrupt(pub &'static str);

/// The bytes not yet taken.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Corrupt("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Corrupt("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }
}
