//! How much a run tries: a little, on every change; or all, with `SHM_DEEP=1`.

/// Of each property, so many cases are tried in a deep run.
const CASES: u32 = 10_000;

/// Whether `SHM_DEEP=1` asks for more than an ordinary run tries.
#[must_use]
pub fn is_deep() -> bool {
    std::env::var_os("SHM_DEEP").is_some_and(|deep| deep == "1")
}

/// How many cases of a property are tried: `ordinary`, or 10,000 at least where the run [is
/// deep](is_deep).
#[must_use]
pub fn cases(ordinary: u32) -> u32 {
    if is_deep() { ordinary.max(CASES) } else { ordinary }
}
