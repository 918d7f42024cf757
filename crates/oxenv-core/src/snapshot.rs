//! The text of a snapshot: a session's numbers and its environment's state, sealed.
//!
//! Invariant: a text that was changed, cut or made by another version is refused before anything of
//! it is used.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oxenv_wire::{ErrorCode, RawJson};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::seed::derive_seed;
use crate::spec::EnvironmentSpec;

/// What every snapshot begins with; the number is the version of the format.
const MAGIC: &str = "oxs1.";
const DIGEST: usize = 32;
/// The digest keeps nobody from making a snapshot up, and numbers that nothing can be added to are of no use.
pub(crate) const MAX_NUMBER: u64 = 1 << 53;

/// What a snapshot tells beside the environment's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snapshot {
    pub(crate) environment: String,
    pub(crate) environment_version: String,
    pub(crate) session_id: String,
    pub(crate) seq: u64,
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    pub(crate) episode_id: String,
    /// The episode's seed; absent in snapshots of older servers.
    #[serde(default)]
    pub(crate) episode_seed: Option<u64>,
    pub(crate) step_count: u64,
    pub(crate) done: bool,
    pub(crate) reward: Option<f64>,
    pub(crate) scores: Option<RawJson>,
}

impl Snapshot {
    /// The text: base64 of the header's length, the header, the state, and a digest of the three.
    pub(crate) fn seal(&self, state: &[u8]) -> String {
        let header = serde_json::to_vec(self).unwrap_or_default();
        let mut bytes = Vec::with_capacity(4 + header.len() + state.len() + DIGEST);
        // A header of strings and numbers never comes near 4 GiB.
        bytes.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(state);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        let mut text = MAGIC.to_owned();
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        text
    }

    /// The snapshot in a text, and the environment's state.
    ///
    /// # Errors
    /// [`ErrorCode::SnapshotInvalid`] says what is wrong with it.
    pub(crate) fn open(text: &str) -> Result<(Self, Vec<u8>), Failure> {
        let Some(body) = text.trim().strip_prefix(MAGIC) else {
            return Err(match text.trim_start().starts_with("oxs") {
                true => invalid("it was made by another version of this server"),
                false => invalid("it does not begin as one"),
            });
        };
        let mut bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| invalid("it is cut or changed"))?;
        let Some(end) = bytes.len().checked_sub(DIGEST).filter(|end| *end >= 4) else {
            return Err(invalid("it is cut"));
        };
        if Sha256::digest(&bytes[..end])[..] != bytes[end..] {
            return Err(invalid("it is cut or changed"));
        }
        bytes.truncate(end);
        let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let header = bytes.get(4..4 + length).ok_or_else(|| invalid("its header is cut"))?;
        let snapshot: Snapshot = serde_json::from_slice(header)
            .map_err(|error| invalid(&format!("its header cannot be read: {error}")))?;
        if snapshot.seq.max(snapshot.epoch).max(snapshot.step_count) > MAX_NUMBER {
            return Err(invalid("its numbers are none that a session comes to"));
        }
        Ok((snapshot, bytes.split_off(4 + length)))
    }

    /// The seed of the episode that it was taken in; where it does not tell, the one that is derived.
    pub(crate) fn episode_seed(&self) -> u64 {
        self.episode_seed.unwrap_or(match self.epoch {
            0 => self.seed,
            epoch => derive_seed(self.seed, epoch),
        })
    }

    /// Refuses a snapshot of another environment, or of another version of it.
    pub(crate) fn fits(&self, spec: &EnvironmentSpec) -> Result<(), Failure> {
        if (&self.environment, &self.environment_version) == (&spec.name, &spec.version) {
            return Ok(());
        }
        Err(invalid(&format!(
            "it is of environment '{}' {}, and this server serves '{}' {}",
            self.environment, self.environment_version, spec.name, spec.version
        )))
    }
}

fn invalid(why: &str) -> Failure {
    Failure::new(ErrorCode::SnapshotInvalid, format!("this is no snapshot that can be restored here: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> String {
        let snapshot = Snapshot {
            environment: "e".to_owned(),
            environment_version: "1".to_owned(),
            session_id: "s".to_owned(),
            seq: 3,
            seed: 7,
            epoch: 1,
            episode_id: "p".to_owned(),
            episode_seed: Some(9),
            step_count: 2,
            done: false,
            reward: Some(0.5),
            scores: None,
        };
        snapshot.seal(b"state")
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let (snapshot, state) = Snapshot::open(&sealed()).unwrap();
        assert_eq!((snapshot.seq, snapshot.reward, state.as_slice()), (3, Some(0.5), &b"state"[..]));
    }

    #[test]
    fn one_that_does_not_tell_its_episodes_seed_is_of_the_derived_one() {
        let (snapshot, _) = Snapshot::open(&sealed()).unwrap();
        assert_eq!(snapshot.episode_seed(), 9);
        let mut older = serde_json::to_value(&snapshot).unwrap();
        older.as_object_mut().unwrap().remove("episode_seed");
        let mut older: Snapshot = serde_json::from_value(older).unwrap();
        assert_eq!(older.episode_seed(), derive_seed(7, 1));
        older.epoch = 0;
        assert_eq!(older.episode_seed(), 7);
    }

    #[test]
    fn numbers_that_no_session_comes_to_are_refused() {
        let (snapshot, state) = Snapshot::open(&sealed()).unwrap();
        for change in [
            |snapshot: &mut Snapshot| snapshot.epoch = u64::MAX,
            |snapshot: &mut Snapshot| snapshot.step_count = u64::MAX,
            |snapshot: &mut Snapshot| snapshot.seq = u64::MAX,
        ] {
            let mut made_up = snapshot.clone();
            change(&mut made_up);
            let refusal = Snapshot::open(&made_up.seal(&state)).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::SnapshotInvalid);
        }
    }

    #[test]
    fn every_change_and_every_cut_is_found() {
        let text = sealed();
        for at in 0..text.len() {
            assert!(Snapshot::open(&text[..at]).is_err(), "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(Snapshot::open(&String::from_utf8(changed).unwrap()).is_err(), "changed at {at}");
        }
        let message = Snapshot::open("oxs9.AAAA").unwrap_err().message.clone();
        assert!(message.contains("another version"), "{message}");
    }
}
