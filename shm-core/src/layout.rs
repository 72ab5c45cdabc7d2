//! Where things stand in a region, and a number that tells one layout from another.
use std::mem::{align_of, size_of};

/// The parts of a region, one after the other: ask for each and get its offset.
///
/// Creator and attacher make the same plan and so find the same offsets.
///
/// ```
/// use shm_core::layout::Plan;
/// let mut plan = Plan::new();
/// let header = plan.add::<[u64; 8]>();
/// let slots = plan.array::<u32>(10);
/// let ring = plan.bytes(4096, 64);
/// assert_eq!((header, slots, ring), (0, 64, 128));
/// assert_eq!(plan.total(), Ok(4224));
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes planned so far; `None` once they were too many.
    end: Option<u64>,
    /// The strictest alignment asked for.
    align: u64,
}

/// The parts of a [`Plan`] add up to more bytes than 64 bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the parts add up to more than 2^64 bytes: ask for fewer or smaller ones")]
pub struct TooLarge;

impl Plan {
    /// No parts yet.
    pub const fn new() -> Plan {
        Plan { end: Some(0), align: 1 }
    }

    /// The offset of one `T`. As [`bytes`](Plan::bytes) for a plan that is too large.
    pub const fn add<T>(&mut self) -> u64 {
        self.array::<T>(1)
    }

    /// The offset of `count` consecutive `T`. As [`bytes`](Plan::bytes) for a plan that is too
    /// large.
    pub const fn array<T>(&mut self, count: u64) -> u64 {
        match (size_of::<T>() as u64).checked_mul(count) {
            Some(size) => self.bytes(size, align_of::<T>() as u64),
            None => self.overflow(),
        }
    }

    /// The offset of `size` bytes, a multiple of `align`.
    ///
    /// From the part on that is too large, offsets are `u64::MAX`, which is outside every region,
    /// and [`total`](Plan::total) is an error: check that once, at the end.
    ///
    /// # Panics
    /// Where `align` is not a power of two.
    pub const fn bytes(&mut self, size: u64, align: u64) -> u64 {
        assert!(align.is_power_of_two(), "an alignment is a power of two");
        if align > self.align {
            self.align = align;
        }
        let Some(end) = self.end else { return u64::MAX };
        let Some(offset) = end.checked_next_multiple_of(align) else { return self.overflow() };
        let Some(end) = offset.checked_add(size) else { return self.overflow() };
        self.end = Some(end);
        offset
    }

    /// The bytes of all parts, rounded up so that another such plan may follow.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub const fn total(&self) -> Result<u64, TooLarge> {
        let Some(end) = self.end else { return Err(TooLarge) };
        match end.checked_next_multiple_of(self.align) {
            Some(total) => Ok(total),
            None => Err(TooLarge),
        }
    }

    const fn overflow(&mut self) -> u64 {
        self.end = None;
        u64::MAX
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::new()
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, 64 bits: tells layouts and names apart; no protection against who wants a collision.
pub const fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_from(FNV_BASIS, bytes)
}

const fn fnv1a_from(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(FNV_PRIME);
        at += 1;
    }
    hash
}

/// One fingerprint of several, in this order.
pub const fn combine(fingerprints: &[u64]) -> u64 {
    let (mut hash, mut at) = (FNV_BASIS, 0);
    while at < fingerprints.len() {
        hash = fnv1a_from(hash, &fingerprints[at].to_le_bytes());
        at += 1;
    }
    hash
}

/// Collects what a layout is made of; [`fingerprint!`](crate::fingerprint) calls it.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a struct of this name, size and alignment, without its fields.
    pub const fn new(name: &str, size: usize, align: usize) -> Fingerprint {
        Fingerprint(FNV_BASIS).part(name, &[size, align])
    }

    /// Adds a field.
    pub const fn field(self, name: &str, offset: usize, size: usize, align: usize) -> Fingerprint {
        self.part(name, &[offset, size, align])
    }

    /// The number.
    pub const fn finish(self) -> u64 {
        self.0
    }

    const fn part(self, name: &str, numbers: &[usize]) -> Fingerprint {
        let mut hash = fnv1a_from(self.0, name.as_bytes());
        // No byte of UTF-8: ends the name.
        hash = fnv1a_from(hash, &[0xff]);
        let mut at = 0;
        while at < numbers.len() {
            hash = fnv1a_from(hash, &(numbers[at] as u64).to_le_bytes());
            at += 1;
        }
        Fingerprint(hash)
    }
}

/// A number made of the name, size, alignment and offset of a struct and each of its fields.
///
/// Two programs that share memory compare it, to learn at once that they were not built from the
/// same layout. All fields must be named, with their types, or it does not compile. It does not
/// look into a field's own type: [`combine`](crate::layout::combine) it with that one's
/// fingerprint.
///
/// ```
/// use shm_core::sync::{AtomicU32, AtomicU64};
///
/// #[repr(C)]
/// struct Shared {
///     head: AtomicU64,
///     flags: [AtomicU32; 4],
/// }
/// const FINGERPRINT: u64 = shm_core::fingerprint!(Shared {
///     head: AtomicU64,
///     flags: [AtomicU32; 4],
/// });
/// ```
///
/// ```compile_fail,E0027
/// # use shm_core::sync::AtomicU64;
/// struct Shared {
///     head: AtomicU64,
///     tail: AtomicU64,
/// }
/// const FORGOT_ONE: u64 = shm_core::fingerprint!(Shared { head: AtomicU64 });
/// ```
#[macro_export]
macro_rules! fingerprint {
    ($shared:ident { $($field:ident: $type:ty),+ $(,)? }) => {{
        // Never called: it compiles only where all fields are named, with their types.
        const _: fn(&$shared) = |$shared { $($field),+ }| {
            $( let _: &$type = $field; )+
        };
        $crate::layout::Fingerprint::new(
            ::core::stringify!($shared),
            ::core::mem::size_of::<$shared>(),
            ::core::mem::align_of::<$shared>(),
        )
        $( .field(
            ::core::stringify!($field),
            ::core::mem::offset_of!($shared, $field),
            ::core::mem::size_of::<$type>(),
            ::core::mem::align_of::<$type>(),
        ) )+
        .finish()
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_consecutive() {
        let mut plan = Plan::new();
        assert_eq!(plan.add::<u8>(), 0);
        assert_eq!(plan.add::<u32>(), 4);
        assert_eq!(plan.array::<u16>(3), 8);
        assert_eq!(plan.bytes(0, 128), 128);
        assert_eq!(plan.add::<u8>(), 128);
        assert_eq!(plan.total(), Ok(256));
        assert_eq!(Plan::new().total(), Ok(0));
    }

    #[test]
    fn too_large_a_part_spoils_the_plan_for_good() {
        let too_large: [fn(&mut Plan) -> u64; 3] = [
            |plan| plan.array::<u64>(u64::MAX / 8 + 1),
            |plan| plan.bytes(u64::MAX, 1),
            |plan| {
                plan.bytes(u64::MAX - 8, 1);
                plan.bytes(1, 16)
            },
        ];
        for add in too_large {
            let mut plan = Plan::new();
            plan.add::<u64>();
            assert_eq!(add(&mut plan), u64::MAX);
            assert_eq!(plan.add::<u8>(), u64::MAX);
            assert_eq!(plan.total(), Err(TooLarge));
        }
    }

    #[test]
    fn a_total_that_cannot_be_rounded_up_is_too_large() {
        let mut plan = Plan::new();
        plan.bytes(u64::MAX - 2, 64);
        assert_eq!(plan.total(), Err(TooLarge));
    }

    #[test]
    fn fnv_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    /// The same struct six times, each but the first with one thing changed.
    #[test]
    fn every_change_of_a_layout_shows() {
        macro_rules! layout {
            ($(#[$attribute:meta])* $name:ident { $($field:ident: $type:ty),+ }) => {{
                $(#[$attribute])*
                #[allow(dead_code)] // only its layout is used
                struct $name {
                    $($field: $type,)+
                }
                fingerprint!($name { $($field: $type),+ })
            }};
        }
        let all = [
            layout!(
                #[repr(C)]
                Shared { a: u64, b: u32 }
            ),
            layout!(
                #[repr(C)]
                Shares { a: u64, b: u32 }
            ),
            layout!(
                #[repr(C)]
                Shared { b: u32, a: u64 }
            ),
            layout!(
                #[repr(C)]
                Shared { a: u64, c: u32 }
            ),
            layout!(
                #[repr(C)]
                Shared { a: u64, b: u16 }
            ),
            layout!(
                #[repr(C, align(64))]
                Shared { a: u64, b: u32 }
            ),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(
            all[0],
            layout!(
                #[repr(C)]
                Shared { a: u64, b: u32 }
            )
        );
        assert_ne!(combine(&all[..2]), combine(&[all[1], all[0]]));
    }
}
