//! The environment variables by which a leader tells a worker that it is one, and which.
use shm_core::process::ProcessId;
use std::ffi::OsString;
use std::os::fd::RawFd;

const LEADER: &str = "BGWORKER_LEADER";
const NAME: &str = "BGWORKER_NAME";
const ARGUMENT: &str = "BGWORKER_ARGUMENT";
const ATTEMPT: &str = "BGWORKER_ATTEMPT";
const FDS: &str = "BGWORKER_FDS";

/// What a worker is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Handover {
    pub(crate) leader: ProcessId,
    pub(crate) name: String,
    pub(crate) argument: u64,
    pub(crate) attempt: u32,
    /// The descriptors left open for it.
    pub(crate) fds: Vec<RawFd>,
}

/// A variable that is missing or makes no sense.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct BadVariable(pub(crate) &'static str);

impl Handover {
    pub(crate) fn to_env(&self) -> [(&'static str, String); 5] {
        let fds: Vec<String> = self.fds.iter().map(RawFd::to_string).collect();
        [
            (LEADER, self.leader.to_bits().to_string()),
            (NAME, self.name.clone()),
            (ARGUMENT, self.argument.to_string()),
            (ATTEMPT, self.attempt.to_string()),
            (FDS, fds.join(",")),
        ]
    }

    /// `None`: this process was not started as a worker.
    pub(crate) fn from_env(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Handover>, BadVariable> {
        if variable(LEADER).is_none() {
            return Ok(None);
        }
        let text = |name: &'static str| {
            variable(name).and_then(|value| value.into_string().ok()).ok_or(BadVariable(name))
        };
        let number = |name| text(name)?.parse::<u64>().map_err(|_| BadVariable(name));
        Ok(Some(Handover {
            leader: ProcessId::from_bits(number(LEADER)?).ok_or(BadVariable(LEADER))?,
            name: text(NAME)?,
            argument: number(ARGUMENT)?,
            attempt: u32::try_from(number(ATTEMPT)?).map_err(|_| BadVariable(ATTEMPT))?,
            fds: parse_fds(&text(FDS)?).ok_or(BadVariable(FDS))?,
        }))
    }
}

fn parse_fds(list: &str) -> Option<Vec<RawFd>> {
    let numbers = list.split(',').filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().ok().filter(|fd| *fd >= 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Handover {
        let leader = ProcessId::new(1234, 99).expect("a pid that is not 0");
        let name = "läufer, no. 3".to_string();
        Handover { leader, name, argument: u64::MAX, attempt: 2, fds: vec![3, 17] }
    }

    fn read(env: &[(&str, String)]) -> Result<Option<Handover>, BadVariable> {
        Handover::from_env(|name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&sample().to_env()), Ok(Some(sample())));
        let none = Handover { fds: Vec::new(), ..sample() };
        assert_eq!(read(&none.to_env()), Ok(Some(none)));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn each_missing_variable_is_named() {
        for missing in 1..5 {
            let mut env = sample().to_env().to_vec();
            let (name, _) = env.remove(missing);
            assert_eq!(read(&env), Err(BadVariable(name)));
        }
    }

    #[test]
    fn nonsense_is_named() {
        let cases =
            [(0, "0"), (0, "x"), (0, "-1"), (2, "1e3"), (3, "4294967296"), (4, "3,-1"), (4, "a")];
        for (index, value) in cases {
            let mut env = sample().to_env();
            env[index].1 = value.to_string();
            assert_eq!(read(&env), Err(BadVariable(env[index].0)), "{value}");
        }
    }
}
