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

    /// What [`push_number`] has appended.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<u128, Corrupt> {
        let mut number = 0;
        for shift in (0..u128::BITS).step_by(7) {
            let [byte] = self.array()?;
            let bits = u128::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Corrupt("a number has no end"))
    }

    pub(crate) fn number_u64(&mut self) -> Result<u64, Corrupt> {
        u64::try_from(self.number()?).map_err(|_| Corrupt("a number is too large"))
    }

    /// What [`push_signed`] has appended.
    pub(crate) fn signed(&mut self) -> Result<i128, Corrupt> {
        let bits = self.number()?;
        Ok((bits >> 1) as i128 ^ -((bits & 1) as i128))
    }
}

/// Appends a number in as few bytes as it needs: seven bits each, the lowest first; the eighth says
/// that there are more.
#[inline]
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u128) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a number of either sign, small ones in few bytes.
pub(crate) fn push_signed(out: &mut Vec<u8>, number: i128) {
    push_number(out, (number << 1 ^ number >> 127) as u128);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: u128, signed: i128, shift in 0..128_u32) {
            let (number, signed) = (number >> shift, signed >> shift);
            let mut out = Vec::new();
            push_number(&mut out, number);
            push_signed(&mut out, signed);
            let mut input = Input(&out);
            prop_assert_eq!((input.number(), input.signed()), (Ok(number), Ok(signed)));
            prop_assert!(input.0.is_empty());
        }
    }

    #[test]
    fn a_number_without_end_is_refused() {
        assert!(Input(&[0x80; 40]).number().is_err());
        assert!(Input(&[0xff]).number().is_err());
        let mut most = Vec::new();
        push_number(&mut most, u128::MAX);
        assert_eq!((most.len(), Input(&most).number()), (19, Ok(u128::MAX)));
        *most.last_mut().unwrap() += 1;
        assert!(Input(&most).number().is_err());
    }
}
