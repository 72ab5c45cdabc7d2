//! Memory that is read and not written.
use super::{Case, PAGE, put};
use dsm::backend::{self, Backend, BackendError, Object, ReadOnly};

/// The same object, as another process would open it to read.
fn to_read(case: &Case, object: &Object) -> ReadOnly {
    match object.fd() {
        Some(fd) => backend::memfd::open_fd_read_only(fd.try_clone_to_owned().unwrap()).unwrap(),
        None => backend::open_read_only(&case.place, object.name()).unwrap().unwrap(),
    }
}

pub(crate) fn a_reader_sees_what_is_written_and_cannot_write(case: &Case) {
    let name = case.name("read");
    let object = case.create(&name, PAGE + 1);
    put(&object, 3, 7);
    let reader = to_read(case, &object);
    let view = reader.view();
    assert_eq!((view.len(), reader.identity()), (2 * PAGE, object.identity()));
    assert_eq!((view.read::<u8>(3), view.load_u64(0)), (Ok(7), Ok(7 << 24)));
    put(&object, 200, 9);
    let mut copy = [1; 133];
    view.copy_to(100, &mut copy).unwrap();
    let expected = |at: usize| if at == 100 { 9 } else { 0 };
    assert!(copy.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    assert_eq!(protection_of(view.as_ptr()), "r--s");
    for offset in [2 * PAGE - 7, 2 * PAGE, u64::MAX] {
        assert!(view.load_u64(offset).is_err() && view.read::<u64>(offset).is_err());
        assert!(view.copy_to(offset, &mut [0; 8]).is_err());
    }
    assert!(view.load_u32(2).is_err(), "misaligned");
    case.remove(&name);
    assert_eq!(reader.view().read::<u8>(200), Ok(9), "mapped as long as it is held");
}

/// What the system says of the mapping at this address.
fn protection_of(address: *const u8) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let wanted = address.addr();
    let hex = |text: &str| usize::from_str_radix(text, 16).unwrap();
    let line = maps.lines().find(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        (hex(start)..hex(end)).contains(&wanted)
    });
    line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

pub(crate) fn what_is_not_there_is_not_read(case: &Case) {
    let found = backend::open_read_only(&case.place, &case.name("absent"));
    match case.place.backend {
        Backend::Memfd => assert!(matches!(found, Err(BackendError::Unsupported { .. }))),
        _ => assert!(found.unwrap().is_none()),
    }
    let named = backend::open_read_only(&case.place, "../absent");
    assert!(matches!(named, Err(BackendError::BadName { .. })));
}
