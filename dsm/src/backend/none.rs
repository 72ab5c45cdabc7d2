//! No shared memory: switched off by choice, or not compiled in.
use super::{Backend, BackendError, Object, Place, ReadOnly};

pub(super) fn create(place: &Place, _name: &str, _size: u64) -> Result<Object, BackendError> {
    Err(refusal(place))
}

pub(super) fn open_or_create(
    place: &Place,
    _name: &str,
    _size: u64,
) -> Result<Object, BackendError> {
    Err(refusal(place))
}

pub(super) fn open(place: &Place, _name: &str) -> Result<Option<Object>, BackendError> {
    Err(refusal(place))
}

pub(super) fn open_read_only(place: &Place, _name: &str) -> Result<Option<ReadOnly>, BackendError> {
    Err(refusal(place))
}

pub(super) fn remove(place: &Place, _name: &str) -> Result<bool, BackendError> {
    Err(refusal(place))
}

fn refusal(place: &Place) -> BackendError {
    match place.backend {
        Backend::None => BackendError::Disabled,
        backend => BackendError::Unsupported {
            backend,
            reason: "this program was built without it: enable the feature `portable` of dsm",
        },
    }
}
