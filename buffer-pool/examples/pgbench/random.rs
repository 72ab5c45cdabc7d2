//! Numbers by chance, the same ones from the same seed, on every machine.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of one client.
    pub(crate) fn new(seed: u64, client: u32) -> Random {
        Random(mixed(seed) ^ mixed(u64::from(client) << 32))
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(1);
        ((u128::from(mixed(self.0)) * u128::from(bound)) >> 64) as u32
    }
}

/// A bijection that scatters neighbours. (Steele, Lea, Flood, 2014.)
pub(crate) fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
