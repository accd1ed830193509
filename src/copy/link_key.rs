//! The two direction keys of a link, derived from its one secret.
//!
//! CHAP wants different secrets for the two directions, and a login in either direction must not help in the other;
//! so each (initiator, target) direction has its own key: HMAC-SHA-256 of the secret over a text that names both
//! arrays and who proves itself.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Whose proof a key is for, in a login from array `from` to array `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The initiator proves itself to the target.
    Initiator,
    /// The target proves itself to the initiator.
    Target,
}

/// The CHAP secret (32 hexadecimal digits: 128 bits) for one proof in logins from array `from` to array `to`.
#[must_use]
pub fn link_key(secret: &[u8], from: u32, to: u32, proof: Proof) -> String {
    let who = match proof {
        Proof::Initiator => "initiator",
        Proof::Target => "target",
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(format!("holdfast link 1: login of array {from} at array {to}: {who}").as_bytes());
    mac.finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_direction_and_proof_has_its_own_key() {
        let mut keys: Vec<String> = [(1, 2), (2, 1), (1, 3)]
            .into_iter()
            .flat_map(|(from, to)| {
                [Proof::Initiator, Proof::Target].map(|proof| link_key(b"secret", from, to, proof))
            })
            .collect();
        assert_eq!(link_key(b"secret", 1, 2, Proof::Initiator), keys[0]);
        assert_ne!(link_key(b"other", 1, 2, Proof::Initiator), keys[0]);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
        assert!(keys.iter().all(|key| key.len() == 32));
    }
}
