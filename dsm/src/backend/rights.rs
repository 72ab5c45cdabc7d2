//! Who may use shared memory: its owner alone, or a group.
use super::BackendError;
use rustix::process::{getegid, geteuid};

/// Bits of a mode that say who may read and write.
const PERMISSIONS: u32 = 0o777;
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;

/// Who may use shared memory that has a name: its owner ([`PRIVATE`](Rights::PRIVATE)), or the
/// members of a group too ([`shared`](Rights::shared)). Nothing is ever open to everybody.
///
/// New objects get exactly these, whatever the umask says. What is found has to be within them:
/// of this user, or, where it is shared, of anybody but of this very group; with no permission
/// beyond them. The kernel lets nobody give a file a group that he is not in (root excepted); so
/// to trust a group is to trust each of its members, and root.
///
/// ```
/// use dsm::backend::Rights;
/// assert_eq!(Rights::PRIVATE.mode(), 0o600);
/// assert_eq!((Rights::shared(4).mode(), Rights::shared(4).group()), (0o660, Some(4)));
/// assert_eq!(Rights::from_mode(0o660, Some(4)), Some(Rights::shared(4)));
/// assert_eq!(Rights::from_mode(0o666, None), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// `None`: private.
    group: Option<u32>,
}

/// What the system says of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Rights {
    /// This user alone: mode 0600.
    pub const PRIVATE: Rights = Rights { group: None };

    /// This user and `group`: mode 0660.
    pub const fn shared(group: u32) -> Rights {
        Rights { group: Some(group) }
    }

    /// What `mode` says: 0600, or 0660 with a group, by default the effective one of this process.
    /// `None` for any other mode.
    pub fn from_mode(mode: u32, group: Option<u32>) -> Option<Rights> {
        match mode {
            OWNER_ONLY => Some(Rights::PRIVATE),
            OWNER_AND_GROUP => Some(Rights::shared(group.unwrap_or(getegid().as_raw()))),
            _ => None,
        }
    }

    /// The mode of new objects.
    pub fn mode(&self) -> u32 {
        if self.is_shared() { OWNER_AND_GROUP } else { OWNER_ONLY }
    }

    /// The group that shares them.
    pub fn group(&self) -> Option<u32> {
        self.group
    }

    pub(super) fn is_shared(&self) -> bool {
        self.group.is_some()
    }

    /// Whether an object that its owner has just made, so `found`, is still to be given these.
    pub(super) fn differ_from(&self, found: Owned) -> bool {
        found.mode & PERMISSIONS != self.mode() || self.group.is_some_and(|gid| gid != found.gid)
    }

    /// Whether what is `owned` so may be opened, or removed, by who has these rights.
    pub(super) fn check_owner(&self, name: &str, owned: Owned) -> Result<(), BackendError> {
        if owned.uid == geteuid().as_raw() || self.group == Some(owned.gid) {
            return Ok(());
        }
        Err(BackendError::ForeignOwner { name: name.to_owned(), uid: owned.uid })
    }

    /// Whether nobody else can open it than who may by these rights. What it really has, which may
    /// be less.
    pub(super) fn check_mode(&self, name: &str, owned: Owned) -> Result<Rights, BackendError> {
        let mode = owned.mode & PERMISSIONS;
        let for_group = mode & OWNER_AND_GROUP & !OWNER_ONLY;
        let is_wider = mode & !self.mode() != 0;
        let is_other_group = for_group != 0 && self.group != Some(owned.gid);
        if is_wider || is_other_group {
            return Err(BackendError::OpenToOthers {
                name: name.to_owned(),
                mode,
                gid: owned.gid,
                allowed: *self,
            });
        }
        Ok(if for_group == 0 { Rights::PRIVATE } else { *self })
    }
}

impl std::fmt::Display for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:03o}", self.mode())?;
        self.group.map_or(Ok(()), |group| write!(f, " for group {group}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u32 = 77;

    fn owned(uid: u32, gid: u32, mode: u32) -> Owned {
        Owned { uid, gid, mode: 0o100_000 | mode }
    }

    #[test]
    fn what_is_private_is_for_its_owner_alone() {
        let me = geteuid().as_raw();
        let private = Rights::PRIVATE;
        assert!(private.check_owner("x", owned(me, GROUP, 0o600)).is_ok());
        assert!(private.check_owner("x", owned(me + 1, GROUP, 0o660)).is_err());
        assert_eq!(private.check_mode("x", owned(me, GROUP, 0o600)).unwrap(), private);
        for mode in [0o640, 0o620, 0o660, 0o604, 0o700, 0o666] {
            assert!(private.check_mode("x", owned(me, GROUP, mode)).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn what_is_shared_is_for_its_group_and_nobody_else() {
        let me = geteuid().as_raw();
        let shared = Rights::shared(GROUP);
        assert!(shared.check_owner("x", owned(me + 1, GROUP, 0o660)).is_ok());
        assert!(shared.check_owner("x", owned(me + 1, GROUP + 1, 0o660)).is_err());
        assert_eq!(shared.check_mode("x", owned(me, GROUP, 0o660)).unwrap(), shared);
        assert_eq!(shared.check_mode("x", owned(me, 5, 0o600)).unwrap(), Rights::PRIVATE);
        assert!(shared.check_mode("x", owned(me, GROUP + 1, 0o660)).is_err(), "another group");
        for mode in [0o664, 0o666, 0o670, 0o760] {
            assert!(shared.check_mode("x", owned(me, GROUP, mode)).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn only_new_objects_of_other_rights_are_changed() {
        assert!(!Rights::PRIVATE.differ_from(owned(1, 2, 0o600)));
        assert!(Rights::PRIVATE.differ_from(owned(1, 2, 0o400)), "an umask took it");
        assert!(!Rights::shared(GROUP).differ_from(owned(1, GROUP, 0o660)));
        assert!(Rights::shared(GROUP).differ_from(owned(1, 2, 0o660)));
        assert!(Rights::shared(GROUP).differ_from(owned(1, GROUP, 0o640)));
    }
}
