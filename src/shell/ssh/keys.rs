//! The host's key and the keys of those who may come in.

use crate::clock::Entropy;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The host key in the data directory; made at the first start: Ed25519, readable by its owner only. It is written
/// beside its place, made durable and then moved, so that a crash leaves no half of a key.
///
/// # Errors
/// It cannot be read or made, is no Ed25519 key, or others may read it.
pub fn host_key(data_dir: &Path, entropy: &dyn Entropy) -> io::Result<PrivateKey> {
    let path = data_dir.join(HOST_KEY);
    match read_owned(&path, HOST_KEY_MAX_BYTES, 0o077) {
        Ok(text) => {
            let key = PrivateKey::from_openssh(text).map_err(|error| wrong(&path, &error.to_string()))?;
            match key.algorithm() {
                Algorithm::Ed25519 => Ok(key),
                other => Err(wrong(&path, &format!("an Ed25519 key is needed, not {other}"))),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_host_key(&path, entropy),
        Err(error) => Err(error),
    }
}

fn make_host_key(path: &Path, entropy: &dyn Entropy) -> io::Result<PrivateKey> {
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, "holdfast").map_err(io::Error::other)?;
    let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
    let young = path.with_extension("new");
    match std::fs::remove_file(&young) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&young)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&young, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(key)
}

/// The fingerprint of a key as `ssh-keygen -l` shows it.
#[must_use]
pub fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Somebody who may come in.
#[derive(Clone, Debug)]
pub struct Authorized {
    key: PublicKey,
    /// The comment behind the key and its fingerprint: who this is in the audit log.
    pub name: String,
}

/// The keys of a file in OpenSSH's `authorized_keys` form, and what is wrong with its other lines.
#[derive(Debug, Default)]
pub struct AuthorizedKeys {
    keys: Vec<Authorized>,
    /// Lines that were not taken, and why.
    pub mistakes: Vec<String>,
}

impl AuthorizedKeys {
    /// Reads the file. It is read anew for every attempt to come in, so that a change needs no restart.
    ///
    /// # Errors
    /// It cannot be read, is longer than 1 MiB, or others than its owner may write it.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&read_owned(path, AUTHORIZED_MAX_BYTES, 0o022)?))
    }

    /// The keys in a text. A line with options (`from=`, `command=` and so on) is not taken: a restriction that nobody
    /// enforces is worse than a key that does not work.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if read.keys.len() == AUTHORIZED_MAX {
                read.mistakes.push(format!("line {number}: more than {AUTHORIZED_MAX} keys"));
                break;
            }
            match authorized(line) {
                Ok(authorized) => read.keys.push(authorized),
                Err(why) => read.mistakes.push(format!("line {number}: {why}")),
            }
        }
        read
    }

    /// Whose key this is. Every key is compared, whether an earlier one matched or not.
    #[must_use]
    pub fn find(&self, key: &PublicKey) -> Option<&Authorized> {
        let mut found = None;
        for authorized in &self.keys {
            if authorized.key.key_data() == key.key_data() {
                found = Some(authorized);
            }
        }
        found
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nobody may come in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn authorized(line: &str) -> Result<Authorized, String> {
    let kind = line.split_whitespace().next().unwrap_or_default();
    if !ALGORITHMS.contains(&kind) {
        return Err(format!(
            "it begins with {kind:?}; a key of one of {} is needed, without options",
            ALGORITHMS.join(", ")
        ));
    }
    let key = PublicKey::from_openssh(line).map_err(|error| error.to_string())?;
    let comment = key.comment().to_string();
    let fingerprint = fingerprint(&key);
    let comment: String = comment.trim().chars().take(COMMENT_MAX_CHARS).collect();
    let name = if comment.is_empty() { fingerprint } else { format!("{comment} ({fingerprint})") };
    Ok(Authorized { key, name })
}

/// A text file that nobody but its owner may do more with than `forbidden` leaves.
fn read_owned(path: &Path, max_bytes: u64, forbidden: u32) -> io::Result<String> {
    let file =
        File::open(path).map_err(|error| io::Error::new(error.kind(), at(path, &error.to_string())))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > max_bytes {
        return Err(wrong(path, &format!("a file of at most {max_bytes} bytes is needed")));
    }
    if metadata.mode() & forbidden != 0 {
        return Err(wrong(path, &format!("its mode {:o} lets others at it", metadata.mode() & 0o777)));
    }
    let mut text = String::new();
    file.take(max_bytes).read_to_string(&mut text)?;
    Ok(text)
}

fn wrong(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, at(path, what))
}

fn at(path: &Path, what: &str) -> String {
    format!("{}: {what}", path.display())
}

/// File of the host key in the data directory.
pub const HOST_KEY: &str = "ssh_host_ed25519_key";
/// Kinds of keys that may come in: those without a known weakness, which the library checks itself.
pub const ALGORITHMS: [&str; 4] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
const HOST_KEY_MAX_BYTES: u64 = 64 << 10;
const AUTHORIZED_MAX_BYTES: u64 = 1 << 20;
/// Keys that are taken from a file.
const AUTHORIZED_MAX: usize = 1_000;
const COMMENT_MAX_CHARS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn public(seed: u64, comment: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut key = host_key(directory.path(), &SeededEntropy::new(seed)).unwrap().public_key().clone();
        key.set_comment(comment);
        key.to_openssh().unwrap()
    }

    #[test]
    fn the_host_key_is_made_once_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(HOST_KEY);
        let made = host_key(directory.path(), &SeededEntropy::new(1)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = host_key(directory.path(), &SeededEntropy::new(2)).unwrap();
        assert_eq!(made.public_key(), again.public_key());
        assert!(fingerprint(made.public_key()).starts_with("SHA256:"));
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(host_key(directory.path(), &SeededEntropy::new(2)).is_err(), "others may read it");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "garbage").unwrap();
        assert!(host_key(directory.path(), &SeededEntropy::new(2)).is_err(), "never replaced by itself");
    }

    #[test]
    fn keys_are_taken_with_their_comment_and_options_are_not() {
        let (alice, bob) = (public(1, "alice@desk"), public(2, ""));
        let text = format!(
            "# people\n\n{alice}\n{bob}\nfrom=\"10.0.0.1\" {}\nssh-rsa AAAA x\nssh-ed25519 AAAA\n",
            public(3, "eve")
        );
        let read = AuthorizedKeys::parse(&text);
        assert_eq!((read.len(), read.mistakes.len()), (2, 3), "{:?}", read.mistakes);
        let find = |text: &str| read.find(&PublicKey::from_openssh(text).unwrap()).map(|a| a.name.clone());
        assert!(find(&alice).unwrap().starts_with("alice@desk (SHA256:"));
        assert!(find(&bob).unwrap().starts_with("SHA256:"));
        assert_eq!(find(&public(3, "eve")), None);
    }

    #[test]
    fn a_file_that_others_may_write_or_that_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, public(1, "a")).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(AuthorizedKeys::read(&path).unwrap().len(), 1);
        std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        assert!(AuthorizedKeys::read(&path).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(AuthorizedKeys::read(&path).is_err());
        assert!(AuthorizedKeys::read(&directory.path().join("none")).is_err());
    }
}
