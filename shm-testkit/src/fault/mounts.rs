//! File systems that only the calling process sees.
use super::NotRun;
use rustix::process::{getgid, getuid};
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::ptr;

/// Moves this process into namespaces of its own: `more` of them (`libc::CLONE_NEW…`), with
/// privileges where it has them, or as "root" of a user namespace of its own.
///
/// As for pids and times, it is the children made from now on that live in the new one.
///
/// # Errors
/// [`NotRun`] where the system refuses.
pub fn become_root_of_a_namespace(more: libc::c_int) -> Result<(), NotRun> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    // SAFETY: no pointers.
    if unsafe { libc::unshare(more) } == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | more) } != 0 {
        return Err(NotRun::last("a namespace of one's own"));
    }
    let mapped = fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
        .and_then(|()| fs::write("/proc/self/setgroups", "deny"))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
    mapped.map_err(|error| NotRun::new("being root of a user namespace", error))
}

/// Mounts an empty file system of `kind` (`tmpfs`, `ramfs`, `proc`) on `directory`, for this
/// process and the children that it will have only.
///
/// ```
/// use shm_testkit::child::Child;
/// use shm_testkit::fault::mount_empty;
/// use std::path::Path;
///
/// fn fills_it(_: &[String]) {
///     let mounted = mount_empty("tmpfs", Path::new("/dev/shm"), 0, "size=64k");
///     if let Err(not_run) = mounted {
///         return eprintln!("{not_run}");
///     }
///     let full = std::fs::write("/dev/shm/large", [1; 128 << 10]).unwrap_err();
///     assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
/// }
/// shm_testkit::children! { fills_it }
/// Child::spawn("fills_it", &[]).wait(std::time::Duration::from_secs(60)).assert_success();
/// ```
///
/// # Errors
/// [`NotRun`] where the system refuses.
///
/// # Panics
/// Where an argument has a zero byte.
pub fn mount_empty(
    kind: &str,
    directory: &Path,
    flags: libc::c_ulong,
    options: &str,
) -> Result<(), NotRun> {
    become_root_of_a_namespace(libc::CLONE_NEWNS)?;
    let (none, root, private) = (ptr::null(), c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: one string, and no others.
    if unsafe { libc::mount(none, root, none, private, ptr::null()) } != 0 {
        return Err(NotRun::last("private mounts"));
    }
    let texts = [kind, &directory.to_string_lossy(), options];
    let [kind, directory, options] =
        texts.map(|text| CString::new(text).expect("no zero byte in it"));
    let (kind, directory, options) = (kind.as_ptr(), directory.as_ptr(), options.as_ptr());
    // SAFETY: four strings.
    match unsafe { libc::mount(kind, directory, kind, flags, options.cast()) } {
        0 => Ok(()),
        _ => Err(NotRun::last("mounting")),
    }
}
