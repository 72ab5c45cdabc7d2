//! Any header, opened by one who waits for nobody.
use crate::block::{guarded, split};
use shm_core::header::{Header, Identity, MAGIC, OpenError, Opened, Opener};
use shm_core::mapping::Mapped;
use shm_core::process::ProcessId;
use std::time::Instant;

const IDENTITY: Identity = Identity::new("fuzz", 3, 0xf1f1, 64);
const HOME: u64 = 4;

/// Opens a header that is ready but for the input's lies, or untouched but for them.
pub fn header(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let Identity { size, fingerprint, name_hash, version, .. } = IDENTITY;
    let ready = [2, MAGIC, size, fingerprint, name_hash, u64::from(version), HOME, 0];
    let ready: Vec<u8> = ready.iter().flat_map(|word| word.to_le_bytes()).collect();
    let image = if how & 1 == 0 { ready } else { vec![0; 64] };
    let (block, mapping) = guarded(&image, bytes, how & 2 != 0);
    let header = Mapped::<Header>::new(&mapping, 0).expect("it fits");
    let (dead, fails) = (how & 4 != 0, how & 8 != 0);
    let mut calls = 0;
    for _ in 0..2 {
        let is_dead = |_| dead;
        let deadline = Instant::now();
        let opener = Opener { me: ProcessId::me(), home: HOME, is_dead, deadline };
        let opened = header.open(&IDENTITY, &opener, || {
            calls += 1;
            if fails { Err("no") } else { Ok(()) }
        });
        match opened {
            Ok(Opened::Created) => assert!(calls == 1 && !fails),
            Err(OpenError::Init(_)) => assert!(fails),
            // Found ready, by the same words, once it is.
            Ok(Opened::Attached) | Err(_) => assert!(calls <= 1),
        }
        if let Ok(Opened::Created) = opened {
            assert_eq!(block.outside().word(0), 2);
        }
    }
    let _ = header.home();
    assert!(block.is_intact());
}
