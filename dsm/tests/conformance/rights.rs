//! Who may use an object, and who is kept out.
use super::{Case, PAGE, assert_refused, sysv_row};
use dsm::backend::{self, BackendError, Identity, Object, Place, Rights};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

pub(crate) fn only_this_user_has_access(case: &Case) {
    let name = case.name("mode");
    let object = case.create(&name, PAGE);
    assert_eq!(mode_and_group(case, &object).0, 0o600);
    case.remove(&name);
}

fn mode_and_group(case: &Case, object: &Object) -> (u32, u32) {
    let (mode, gid) = match object.identity() {
        Identity::Sysv { id } => {
            let row = sysv_row(id);
            // The table shows it in octal digits.
            (u32::from_str_radix(&row[2].to_string(), 8).unwrap(), row[8] as u32)
        }
        _ => {
            let file = fs::metadata(case.path(object.name())).unwrap();
            (file.mode(), file.gid())
        }
    };
    (mode & 0o777, gid)
}

/// A group that this process may give: any, for root.
fn some_group() -> u32 {
    let own = rustix::process::getegid().as_raw();
    if rustix::process::geteuid().is_root() { own + 4711 } else { own }
}

fn for_group(case: &Case, rights: Rights) -> Place {
    Place { rights, ..case.place.clone() }
}

pub(crate) fn a_group_is_given_access_whatever_the_umask(case: &Case) {
    let group = some_group();
    for (umask, rights) in [(0o777, Rights::shared(group)), (0o177, Rights::PRIVATE)] {
        let (name, place) = (case.name(&format!("{umask:o}")), for_group(case, rights));
        let make = || {
            // SAFETY: gives this thread, which ends here, a umask of its own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0);
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            backend::create(&place, &name, PAGE).unwrap()
        };
        let object = std::thread::scope(|scope| scope.spawn(make).join().unwrap());
        let (mode, gid) = mode_and_group(case, &object);
        assert_eq!(mode, rights.mode());
        assert!(rights.group().is_none_or(|group| group == gid), "{gid}");
        assert_eq!(object.place().rights, rights);
        assert_eq!(backend::open(&place, &name).unwrap().unwrap().place().rights, rights);
        assert!(object.remove_exact().unwrap());
    }
}

pub(crate) fn another_group_or_more_is_refused(case: &Case) {
    let group = some_group();
    let (name, shared) = (case.name("shared"), for_group(case, Rights::shared(group)));
    let object = backend::create(&shared, &name, PAGE).unwrap();
    for rights in [Rights::PRIVATE, Rights::shared(group + 1)] {
        let refused = backend::open(&for_group(case, rights), &name).unwrap_err();
        let is_told = |error: &BackendError| {
            matches!(error, BackendError::OpenToOthers { mode: 0o660, gid, allowed, .. }
                if *gid == group && *allowed == rights)
        };
        assert!(is_told(&refused), "{refused}");
    }
    assert!(object.remove_exact().unwrap());
    // What is for less than may be is what it is.
    let object = case.create(&name, PAGE);
    let found = backend::open(&shared, &name).unwrap().unwrap();
    assert_eq!(found.place().rights, Rights::PRIVATE);
    assert!(object.remove_exact().unwrap());
}

pub(crate) fn a_foreign_owner_is_refused(case: &Case) {
    if !rustix::process::geteuid().is_root() {
        println!("not run: only root can give things away");
        return;
    }
    let name = case.name("foreign");
    let object = case.create(&name, PAGE);
    give_to(case, &object, 1);
    let is_foreign =
        |error: &BackendError| matches!(error, BackendError::ForeignOwner { uid: 1, .. });
    assert_refused(case, &name, is_foreign);
    assert!(is_foreign(&backend::remove(&case.place, &name).unwrap_err()));
    assert!(is_foreign(&object.remove_exact().unwrap_err()));
    give_to(case, &object, 0);
    assert!(object.remove_exact().unwrap());
}

pub(crate) fn a_mode_open_to_others_is_refused(case: &Case) {
    let name = case.name("open");
    let object = case.create(&name, PAGE);
    match object.identity() {
        Identity::Sysv { id } => sysv_set(id, |perm| perm.mode = 0o644),
        _ => fs::set_permissions(case.path(&name), fs::Permissions::from_mode(0o644)).unwrap(),
    }
    assert_refused(case, &name, |error| {
        matches!(error, BackendError::OpenToOthers { mode: 0o644, .. })
    });
    assert!(case.remove(&name), "it is ours to remove");
}

fn sysv_set(id: i32, change: impl FnOnce(&mut libc::ipc_perm)) {
    let mut stat = std::mem::MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: IPC_STAT writes one shmid_ds.
    assert_eq!(unsafe { libc::shmctl(id, libc::IPC_STAT, stat.as_mut_ptr()) }, 0);
    // SAFETY: integers, just written.
    let mut stat = unsafe { stat.assume_init() };
    change(&mut stat.shm_perm);
    // SAFETY: IPC_SET reads one shmid_ds.
    assert_eq!(unsafe { libc::shmctl(id, libc::IPC_SET, &mut stat) }, 0);
}

fn give_to(case: &Case, object: &Object, uid: u32) {
    match object.identity() {
        Identity::Sysv { id } => sysv_set(id, |perm| perm.uid = uid),
        _ => std::os::unix::fs::chown(case.path(object.name()), Some(uid), None).unwrap(),
    }
}
