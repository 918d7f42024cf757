//! The text of a snapshot: a session's numbers and its environment's state, authenticated.
//!
//! Invariant: a text that was changed, cut, made up, or made with another key or by another version is
//! refused before anything of it is read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oxenv_wire::{ErrorCode, RawJson};
use serde::{Deserialize, Serialize};

use crate::code::CodeEngine;
use crate::failure::Failure;
use crate::mac::MacKey;
use crate::seed::derive_seed;
use crate::spec::EnvironmentSpec;

/// What every snapshot begins with; the number is the version of the format. It is authenticated too.
const MAGIC: &str = "oxs2.";
/// What those of the version before begin with, which had a digest and no key.
const MAGIC_WITHOUT_KEY: &str = "oxs1.";
const MAC_BYTES: usize = 32;
/// Bytes of the state in a piece of the text: a multiple of 3, so that each piece stands for itself.
const PIECE_BYTES: usize = 48 << 10;
/// Numbers that nothing can be added to are of no use.
pub(crate) const MAX_NUMBER: u64 = 1 << 53;

/// The key that snapshots are made with, and that those which are restored must have been made with.
///
/// ```
/// use oxenv_core::{SnapshotKey, SnapshotKeySource};
///
/// let key = SnapshotKey::new(&[7; 32], SnapshotKeySource::File);
/// assert!(!format!("{key:?}").contains('7'));
/// ```
#[derive(Debug, Clone)]
pub struct SnapshotKey {
    key: MacKey,
    source: SnapshotKeySource,
}

/// Where a [`SnapshotKey`] comes from, and so which servers have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKeySource {
    /// A file that was named, which several servers may share.
    File,
    /// A file beside the record: servers with that record have it, one after the other.
    Record,
    /// Made at random for this process alone.
    Process,
}

impl SnapshotKeySource {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SnapshotKeySource::File => "file",
            SnapshotKeySource::Record => "record",
            SnapshotKeySource::Process => "process",
        }
    }
}

impl SnapshotKey {
    /// Where it comes from.
    pub(crate) fn source(&self) -> SnapshotKeySource {
        self.source
    }

    /// The key of these bytes. They should be at least 32, and random.
    #[must_use]
    pub fn new(bytes: &[u8], source: SnapshotKeySource) -> Self {
        SnapshotKey { key: MacKey::new(bytes), source }
    }

    /// A random key of this process.
    ///
    /// # Panics
    /// When the operating system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        SnapshotKey { key: MacKey::random(), source: SnapshotKeySource::Process }
    }

    /// The refusal of what was not made with this key.
    fn refusal(&self) -> Failure {
        let which = match self.source {
            SnapshotKeySource::File => {
                "that of --snapshot-key-file, so only snapshots of servers with the same file"
            }
            SnapshotKeySource::Record => {
                "snapshot.key beside its record, so only snapshots of servers with that record"
            }
            SnapshotKeySource::Process => {
                "of this process alone (it has neither --snapshot-key-file nor --record), so only snapshots \
                 that this process has made"
            }
        };
        invalid(&format!(
            "it is cut or changed, or was made with another key; the key of this server is {which} can be \
             restored"
        ))
    }
}

/// A snapshot before it is written as a text, which is a third larger.
pub struct SealedSnapshot {
    /// The prefix of the text.
    head: String,
    /// What follows it as base64.
    body: Vec<u8>,
}

impl SealedSnapshot {
    /// How many bytes the text has.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.head.len() + (4 * self.body.len()).div_ceil(3)
    }

    /// The text in pieces of some 64 KiB, each made on demand.
    pub fn into_pieces(self) -> impl Iterator<Item = String> + Send {
        let SealedSnapshot { head, body } = self;
        let mut at = 0;
        let rest = std::iter::from_fn(move || {
            let end = (at + PIECE_BYTES).min(body.len());
            let piece = (at < end).then(|| URL_SAFE_NO_PAD.encode(&body[at..end]));
            at = end;
            piece
        });
        std::iter::once(head).chain(rest)
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        let SealedSnapshot { head, body } = self;
        let mut text = head;
        URL_SAFE_NO_PAD.encode_string(&body, &mut text);
        text
    }
}

/// What a snapshot holds besides the environment's state.
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
    /// The episode's seed; absent: the one that is derived from the session's.
    pub(crate) episode_seed: Option<u64>,
    pub(crate) step_count: u64,
    pub(crate) done: bool,
    pub(crate) reward: Option<f64>,
    pub(crate) scores: Option<RawJson>,
    /// What is at the end of the state: the variables of the session's programs, if it has run one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interpreter: Option<SavedInterpreter>,
}

/// The variables of programs in a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedInterpreter {
    /// The engine that has saved them.
    engine: String,
    /// Its format.
    format: String,
    /// How many bytes they are.
    bytes: usize,
}

impl SavedInterpreter {
    /// Puts the variables behind a state.
    pub(crate) fn append(engine: &dyn CodeEngine, state: &mut Vec<u8>, saved: &[u8]) -> Self {
        state.extend(saved);
        let (engine, format) = (engine.name().to_owned(), engine.saved_format().to_owned());
        SavedInterpreter { engine, format, bytes: saved.len() }
    }

    /// Takes the variables off the state again, for the engine of this server.
    ///
    /// # Errors
    /// [`ErrorCode::SnapshotInvalid`] when it has another one.
    pub(crate) fn take(
        &self,
        engine: Option<&dyn CodeEngine>,
        state: &mut Vec<u8>,
    ) -> Result<Vec<u8>, Failure> {
        let SavedInterpreter { engine: name, format, bytes } = self;
        let known = engine.is_some_and(|engine| engine.name() == name && engine.saved_format() == format);
        if !known {
            let here = engine.map_or("no code engine".to_owned(), |engine| {
                format!("'{}' ({})", engine.name(), engine.saved_format())
            });
            return Err(invalid(&format!(
                "it holds the variables of programs of the code engine '{name}' ({format}), and this server \
                 has {here}"
            )));
        }
        let at = state.len().checked_sub(*bytes).ok_or_else(|| invalid("its state is cut"))?;
        Ok(state.split_off(at))
    }
}

impl Snapshot {
    /// The text: base64 of the header's length, the header, the state, and a code that only the key can make.
    pub(crate) fn seal(&self, state: Vec<u8>, key: &SnapshotKey) -> SealedSnapshot {
        let mut header = serde_json::to_vec(self).unwrap_or_default();
        // So that the base64 of what follows stands for itself.
        header.resize((4 + header.len()).next_multiple_of(3) - 4, b' ');
        // A header of strings and numbers never comes near 4 GiB.
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mac = key.key.mac_of(&[MAGIC.as_bytes(), &length, &header, &state]);
        let mut head = MAGIC.to_owned();
        URL_SAFE_NO_PAD.encode_string([&length[..], &header].concat(), &mut head);
        let mut body = state;
        body.extend(mac);
        SealedSnapshot { head, body }
    }

    /// The snapshot in a text, and the environment's state.
    ///
    /// # Errors
    /// [`ErrorCode::SnapshotInvalid`] with what is wrong with it.
    pub(crate) fn open(text: &str, key: &SnapshotKey) -> Result<(Self, Vec<u8>), Failure> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(MAGIC) else {
            return Err(match text {
                old if old.starts_with(MAGIC_WITHOUT_KEY) => invalid(
                    "it was made by an older version of this server, whose snapshots are not authenticated; \
                     take a new one",
                ),
                other if other.starts_with("oxs") => invalid("it was made by another version of this server"),
                _ => invalid("it does not begin as one"),
            });
        };
        let mut bytes = MAGIC.as_bytes().to_vec();
        URL_SAFE_NO_PAD.decode_vec(body, &mut bytes).map_err(|_| invalid("it is cut or changed"))?;
        let Some(end) = bytes.len().checked_sub(MAC_BYTES).filter(|end| *end >= MAGIC.len() + 4) else {
            return Err(invalid("it is cut"));
        };
        if !key.key.verifies(&bytes[..end], &bytes[end..]) {
            return Err(key.refusal());
        }
        bytes.truncate(end);
        let (length, rest) = bytes[MAGIC.len()..].split_first_chunk().ok_or_else(|| invalid("it is cut"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let header = rest.get(..length).ok_or_else(|| invalid("its header is cut"))?;
        let snapshot: Snapshot = serde_json::from_slice(header)
            .map_err(|error| invalid(&format!("its header cannot be read: {error}")))?;
        if snapshot.seq.max(snapshot.epoch).max(snapshot.step_count) > MAX_NUMBER {
            return Err(invalid("its numbers are none that a session comes to"));
        }
        // In place, because it may be large.
        bytes.drain(..MAGIC.len() + 4 + length);
        Ok((snapshot, bytes))
    }

    /// The seed of the episode that it was taken in; if it is not recorded, the derived one.
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

    fn sealed(key: &SnapshotKey) -> String {
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
            interpreter: None,
        };
        snapshot.seal(b"state".to_vec(), key).into_text()
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let key = SnapshotKey::random();
        let (snapshot, state) = Snapshot::open(&sealed(&key), &key).unwrap();
        assert_eq!((snapshot.seq, snapshot.reward, state.as_slice()), (3, Some(0.5), &b"state"[..]));
    }

    #[test]
    fn its_pieces_are_the_text() {
        let key = SnapshotKey::random();
        let (snapshot, _) = Snapshot::open(&sealed(&key), &key).unwrap();
        for length in [
            0,
            1,
            PIECE_BYTES - MAC_BYTES - 1,
            PIECE_BYTES - MAC_BYTES,
            PIECE_BYTES - MAC_BYTES + 1,
            3 * PIECE_BYTES + 7,
        ] {
            let state: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let seal = || snapshot.seal(state.clone(), &key);
            let (sealed, text) = (seal(), seal().into_text());
            assert_eq!(sealed.text_len(), text.len());
            let pieces: Vec<String> = sealed.into_pieces().collect();
            assert!(pieces.iter().all(|piece| piece.len() <= 64 << 10));
            assert_eq!(pieces.concat(), text);
            assert_eq!(Snapshot::open(&text, &key).unwrap().1, state);
        }
    }

    #[test]
    fn one_that_does_not_tell_its_episodes_seed_is_of_the_derived_one() {
        let key = SnapshotKey::random();
        let (snapshot, _) = Snapshot::open(&sealed(&key), &key).unwrap();
        assert_eq!(snapshot.episode_seed(), 9);
        let mut without = serde_json::to_value(&snapshot).unwrap();
        without.as_object_mut().unwrap().remove("episode_seed");
        let mut without: Snapshot = serde_json::from_value(without).unwrap();
        assert_eq!(without.episode_seed(), derive_seed(7, 1));
        without.epoch = 0;
        assert_eq!(without.episode_seed(), 7);
    }

    #[test]
    fn numbers_that_no_session_comes_to_are_refused() {
        let key = SnapshotKey::random();
        let (snapshot, state) = Snapshot::open(&sealed(&key), &key).unwrap();
        for change in [
            |snapshot: &mut Snapshot| snapshot.epoch = u64::MAX,
            |snapshot: &mut Snapshot| snapshot.step_count = u64::MAX,
            |snapshot: &mut Snapshot| snapshot.seq = u64::MAX,
        ] {
            let mut made_up = snapshot.clone();
            change(&mut made_up);
            let refusal = Snapshot::open(&made_up.seal(state.clone(), &key).into_text(), &key).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::SnapshotInvalid);
        }
    }

    #[test]
    fn every_change_and_every_cut_is_found() {
        let key = SnapshotKey::random();
        let text = sealed(&key);
        for at in 0..text.len() {
            assert!(Snapshot::open(&text[..at], &key).is_err(), "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(Snapshot::open(&String::from_utf8(changed).unwrap(), &key).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn one_of_another_version_says_so() {
        let key = SnapshotKey::random();
        let current = sealed(&key);
        for (text, says) in [
            (current.replacen("oxs2.", "oxs1.", 1), "not authenticated; take a new one"),
            ("oxs9.AAAA".to_owned(), "another version"),
            ("AAAA".to_owned(), "does not begin as one"),
        ] {
            let refusal = Snapshot::open(&text, &key).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::SnapshotInvalid);
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }

    #[test]
    fn one_of_another_key_says_which_key_is_needed() {
        let text = sealed(&SnapshotKey::random());
        for (key, says) in [
            (SnapshotKey::random(), "only snapshots that this process has made can be restored"),
            (SnapshotKey::new(b"k", SnapshotKeySource::File), "servers with the same file can be restored"),
            (SnapshotKey::new(b"k", SnapshotKeySource::Record), "servers with that record can be restored"),
        ] {
            let refusal = Snapshot::open(&text, &key).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::SnapshotInvalid);
            assert!(refusal.message.contains("another key") && refusal.message.contains(says), "{refusal}");
        }
        let of_file = |key: &[u8]| SnapshotKey::new(key, SnapshotKeySource::File);
        assert!(Snapshot::open(&sealed(&of_file(b"one")), &of_file(b"one")).is_ok());
        assert!(Snapshot::open(&sealed(&of_file(b"one")), &of_file(b"two")).is_err());
    }

    /// What anyone could make if the digest had no key.
    #[test]
    fn a_forged_one_is_refused() {
        use sha2::{Digest as _, Sha256};
        let key = SnapshotKey::random();
        let genuine = sealed(&key);
        let mut bytes = URL_SAFE_NO_PAD.decode(&genuine[MAGIC.len()..]).unwrap();
        let end = bytes.len() - MAC_BYTES;
        bytes[end - 1] ^= 1;
        for digest in
            [Sha256::digest(&bytes[..end]), Sha256::digest([MAGIC.as_bytes(), &bytes[..end]].concat())]
        {
            bytes[end..].copy_from_slice(&digest);
            for magic in [MAGIC, MAGIC_WITHOUT_KEY] {
                let forged = format!("{magic}{}", URL_SAFE_NO_PAD.encode(&bytes));
                assert_eq!(Snapshot::open(&forged, &key).unwrap_err().code, ErrorCode::SnapshotInvalid);
            }
        }
    }
}
