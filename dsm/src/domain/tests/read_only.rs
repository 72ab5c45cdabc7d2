//! Segments attached read-only.
use super::*;

#[test]
fn a_segment_is_had_in_one_way_at_a_time() {
    let bench = Bench::new("one_way");
    let (domain, other) = (bench.open(), bench.open());
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    let refused = domain.attach_read_only(handle).unwrap_err();
    assert!(matches!(refused, AttachError::AlreadyAttached(h) if h == handle), "{refused}");

    let read_only = other.attach_read_only(handle).unwrap().unwrap();
    for refused in [
        other.attach(handle).map(drop).unwrap_err(),
        other.attach_read_only(handle).map(drop).unwrap_err(),
    ] {
        assert!(matches!(refused, AttachError::AttachedReadOnly(h) if h == handle), "{refused}");
    }
    assert!(other.find_mapping(handle).is_none(), "nothing leads from it to what can be written");
    read_only.check().unwrap();

    // It counts as attached, until the last of its clones is dropped.
    let again = read_only.clone();
    drop((read_only, segment));
    assert!(is_attached(&domain, handle));
    assert_eq!((again.handle(), again.len(), again.view().load_u64(0)), (handle, 4096, Ok(0)));
    drop(again);
    assert!(!is_attached(&domain, handle));
    assert!(other.attach_read_only(handle).unwrap().is_none());
}

#[test]
fn of_readers_and_writers_at_once_one_has_it() {
    let bench = Bench::new("both");
    let (domain, other) = (bench.open(), bench.open());
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    within(Duration::from_secs(60), || {
        for _ in 0..500 {
            let go = std::sync::Barrier::new(2);
            let (read, written) = std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    go.wait();
                    let read = other.attach_read_only(handle);
                    go.wait();
                    read.is_ok()
                });
                go.wait();
                let written = other.attach(handle);
                go.wait();
                (reader.join().unwrap(), written.is_ok())
            });
            assert!(read != written);
        }
    });
}
