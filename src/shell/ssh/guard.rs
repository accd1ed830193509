//! What a client may send before a byte of it reaches the SSH library.
//!
//! # What it guarantees
//! * The identification is the first line, at most [`IDENTIFICATION_MAX_BYTES`] long; there are no lines before it.
//! * No packet is longer than [`PACKET_MAX_BYTES`], known from its first four bytes, before anybody allocates for it.
//!   That holds behind the key exchange too, because the only cipher that is offered, AES-256-GCM, leaves the length
//!   readable.
//! * In the clear there is nothing but the key exchange, in its order: KEXINIT, one or two of its messages, NEWKEYS
//!   (or a DISCONNECT). The client offers strict key exchange and AES-256-GCM, or is turned away.
//! * Until it has proved who it is, a client sends at most [`UNAUTHENTICATED_MAX_BYTES`].
//!
//! Pure: bytes in, yes or no out, any split of the bytes alike. It keeps the key exchange's first message, bounded by
//! the length of a packet, and nothing else.

/// Why a client is turned away. The client is told nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// The first line is no identification, or too long.
    #[error("no SSH identification within {IDENTIFICATION_MAX_BYTES} bytes")]
    Identification,
    /// A packet is too long, or too short to be one.
    #[error("a packet of {0} bytes")]
    PacketLength(u32),
    /// A message that has no place here.
    #[error("message {0} during the key exchange")]
    Message(u8),
    /// The client does not offer what this server insists on.
    #[error("the client does not offer {0}")]
    NotOffered(&'static str),
    /// Too much before authentication.
    #[error("more than {UNAUTHENTICATED_MAX_BYTES} bytes without authentication")]
    TooMuch,
}

/// Watches one direction of one connection: from the client.
#[derive(Debug)]
pub struct Guard {
    state: State,
    /// Length of the packet, as far as it has come.
    length: [u8; 4],
    /// The key exchange's first message, or the first byte of another one.
    kept: Vec<u8>,
    step: Step,
    total: u64,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Identification { bytes: usize },
    Length { have: usize },
    Body { left: usize },
}

/// How far the first key exchange is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    KexInit,
    /// So many messages of the exchange have come.
    Exchange {
        messages: u8,
    },
    /// Everything behind is encrypted.
    Encrypted,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            state: State::Identification { bytes: 0 },
            length: [0; 4],
            kept: Vec::new(),
            step: Step::KexInit,
            total: 0,
        }
    }
}

impl Guard {
    /// Looks at what came, before anybody else does.
    ///
    /// # Errors
    /// The connection has to be closed; nothing of `bytes` may be used.
    pub fn input(&mut self, bytes: &[u8], is_authenticated: bool) -> Result<(), Violation> {
        self.total = self.total.saturating_add(bytes.len() as u64);
        if !is_authenticated && self.total > UNAUTHENTICATED_MAX_BYTES {
            return Err(Violation::TooMuch);
        }
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            rest = match self.state {
                State::Identification { bytes } => {
                    self.identification(*first, bytes)?;
                    &rest[1..]
                }
                State::Length { have } => {
                    self.length[have] = *first;
                    self.state = if have + 1 < self.length.len() {
                        State::Length { have: have + 1 }
                    } else {
                        State::Body { left: self.packet()? }
                    };
                    &rest[1..]
                }
                State::Body { left } => {
                    let (body, behind) = rest.split_at(left.min(rest.len()));
                    self.keep(body);
                    if left == body.len() {
                        self.state = State::Length { have: 0 };
                        self.end_of_packet()?;
                    } else {
                        self.state = State::Body { left: left - body.len() };
                    }
                    behind
                }
            };
        }
        Ok(())
    }

    fn identification(&mut self, byte: u8, before: usize) -> Result<(), Violation> {
        let is_right = IDENTIFICATION.get(before).is_none_or(|wanted| *wanted == byte);
        if !is_right || before >= IDENTIFICATION_MAX_BYTES {
            return Err(Violation::Identification);
        }
        self.state = match byte {
            b'\n' => State::Length { have: 0 },
            _ => State::Identification { bytes: before + 1 },
        };
        Ok(())
    }

    /// The bytes behind the length.
    fn packet(&mut self) -> Result<usize, Violation> {
        let length = u32::from_be_bytes(self.length);
        // Padding length, one byte of payload, four of padding (RFC 4253, 6).
        if !(6..=PACKET_MAX_BYTES - 4).contains(&length) {
            return Err(Violation::PacketLength(length));
        }
        let tag = if self.step == Step::Encrypted { GCM_TAG_BYTES } else { 0 };
        usize::try_from(length).map(|length| length + tag).map_err(|_| Violation::PacketLength(length))
    }

    /// In the clear a message is kept until it is whole; of an encrypted one nothing is.
    fn keep(&mut self, body: &[u8]) {
        let wanted = match self.step {
            Step::KexInit => usize::MAX,
            Step::Exchange { .. } => 2,
            Step::Encrypted => 0,
        };
        let room = wanted.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&body[..body.len().min(room)]);
    }

    fn end_of_packet(&mut self) -> Result<(), Violation> {
        let kept = std::mem::take(&mut self.kept);
        let message = kept.get(1).copied().unwrap_or(0);
        self.step = match (self.step, message) {
            (Step::Encrypted, _) => Step::Encrypted,
            // Whoever says goodbye may; the library closes the connection.
            (step, MSG_DISCONNECT) => step,
            (Step::KexInit, MSG_KEXINIT) => {
                offers_what_is_needed(&kept)?;
                Step::Exchange { messages: 0 }
            }
            // A second one follows a wrong guess (RFC 4253, 7).
            (Step::Exchange { messages }, MSG_KEX_FIRST) if messages < 2 => {
                Step::Exchange { messages: messages + 1 }
            }
            (Step::Exchange { messages: 1.. }, MSG_NEWKEYS) => Step::Encrypted,
            (_, other) => return Err(Violation::Message(other)),
        };
        Ok(())
    }
}

/// Whether the client's KEXINIT (with the byte of the padding's length before it) names what this server insists on.
fn offers_what_is_needed(packet: &[u8]) -> Result<(), Violation> {
    // Padding length, message, cookie.
    let mut rest = packet.get(18..).unwrap_or_default();
    let mut list = || -> Option<&[u8]> {
        let length = u32::from_be_bytes(*rest.first_chunk()?);
        let (names, behind) = rest.get(4..)?.split_at_checked(usize::try_from(length).ok()?)?;
        rest = behind;
        Some(names)
    };
    let exchange = list().ok_or(Violation::Message(MSG_KEXINIT))?;
    list().ok_or(Violation::Message(MSG_KEXINIT))?; // Host keys.
    let from_client = list().ok_or(Violation::Message(MSG_KEXINIT))?;
    let to_client = list().ok_or(Violation::Message(MSG_KEXINIT))?;
    let has = |names: &[u8], name: &str| names.split(|byte| *byte == b',').any(|one| one == name.as_bytes());
    if !has(exchange, STRICT) {
        return Err(Violation::NotOffered("strict key exchange"));
    }
    if !has(from_client, CIPHER) || !has(to_client, CIPHER) {
        return Err(Violation::NotOffered(CIPHER));
    }
    Ok(())
}

/// The identification ends within so many bytes, its end included (RFC 4253, 4.2).
pub const IDENTIFICATION_MAX_BYTES: usize = 255;
/// A longer packet closes the connection (RFC 4253, 6.1); the length field counts.
pub const PACKET_MAX_BYTES: u32 = 35_000;
/// More from a client that has not authenticated closes the connection.
pub const UNAUTHENTICATED_MAX_BYTES: u64 = 1 << 20;
/// The only cipher that is offered.
pub const CIPHER: &str = "aes256-gcm@openssh.com";
const STRICT: &str = "kex-strict-c-v00@openssh.com";
const IDENTIFICATION: &[u8] = b"SSH-2.0-";
const GCM_TAG_BYTES: usize = 16;
const MSG_DISCONNECT: u8 = 1;
const MSG_KEXINIT: u8 = 20;
const MSG_NEWKEYS: u8 = 21;
/// First message of the exchange: the client's share of X25519, alone or with ML-KEM.
const MSG_KEX_FIRST: u8 = 30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let padding = 8;
        let length = u32::try_from(1 + payload.len() + padding).unwrap();
        let mut packet = length.to_be_bytes().to_vec();
        packet.push(8);
        packet.extend_from_slice(payload);
        packet.extend_from_slice(&vec![0; padding]);
        packet
    }

    fn kexinit(exchange: &str, cipher: &str) -> Vec<u8> {
        let mut payload = vec![MSG_KEXINIT];
        payload.extend_from_slice(&[7; 16]);
        for list in [exchange, "ssh-ed25519", cipher, cipher, "", "", "none", "none", "", ""] {
            payload.extend_from_slice(&u32::try_from(list.len()).unwrap().to_be_bytes());
            payload.extend_from_slice(list.as_bytes());
        }
        payload.extend_from_slice(&[0; 5]);
        packet(&payload)
    }

    /// What a right client sends, up to and with NEWKEYS.
    fn opening() -> Vec<u8> {
        let exchange = format!("curve25519-sha256,{STRICT}");
        let parts: [&[u8]; 4] = [
            b"SSH-2.0-test\r\n",
            &kexinit(&exchange, CIPHER),
            &packet(&[MSG_KEX_FIRST, 0, 0, 0, 0]),
            &packet(&[MSG_NEWKEYS]),
        ];
        parts.concat()
    }

    fn judge(bytes: &[u8]) -> Result<(), Violation> {
        Guard::default().input(bytes, false)
    }

    #[test]
    fn a_right_client_passes_however_its_bytes_are_split() {
        let bytes = [opening(), vec![0, 0, 0, 16], vec![9; 32]].concat();
        for piece in [1, 3, 7, 64, bytes.len()] {
            let mut guard = Guard::default();
            for bytes in bytes.chunks(piece) {
                guard.input(bytes, false).unwrap();
            }
            assert_eq!((guard.step, guard.state), (Step::Encrypted, State::Length { have: 0 }));
        }
    }

    #[test]
    fn the_identification_has_a_limit_and_comes_first() {
        let line = |length: usize| [b"SSH-2.0-".to_vec(), vec![b'x'; length - 10], b"\r\n".to_vec()].concat();
        assert_eq!(judge(&line(IDENTIFICATION_MAX_BYTES)), Ok(()));
        assert_eq!(judge(&line(IDENTIFICATION_MAX_BYTES + 1)), Err(Violation::Identification));
        assert_eq!(judge(b"hello\r\nSSH-2.0-x\r\n"), Err(Violation::Identification));
        assert_eq!(judge(b"GET / HTTP/1.1\r\n"), Err(Violation::Identification));
    }

    #[test]
    fn packets_have_a_limit_in_the_clear_and_behind_it() {
        let announce = |length: u32| length.to_be_bytes().to_vec();
        for before in [b"SSH-2.0-x\r\n".to_vec(), opening()] {
            let with = |length| judge(&[before.clone(), announce(length)].concat());
            assert_eq!(with(PACKET_MAX_BYTES - 4), Ok(()));
            assert_eq!(with(PACKET_MAX_BYTES - 3), Err(Violation::PacketLength(PACKET_MAX_BYTES - 3)));
            assert_eq!(with(u32::MAX), Err(Violation::PacketLength(u32::MAX)));
            assert_eq!(with(5), Err(Violation::PacketLength(5)));
        }
    }

    #[test]
    fn in_the_clear_every_message_but_the_next_one_closes_the_connection() {
        let id = b"SSH-2.0-x\r\n".to_vec();
        let exchange = format!("curve25519-sha256,{STRICT}");
        let states = [
            (id.clone(), vec![MSG_KEXINIT]),
            ([id.clone(), kexinit(&exchange, CIPHER)].concat(), vec![MSG_KEX_FIRST]),
            (
                [id.clone(), kexinit(&exchange, CIPHER), packet(&[MSG_KEX_FIRST])].concat(),
                vec![MSG_KEX_FIRST, MSG_NEWKEYS],
            ),
            (
                [id, kexinit(&exchange, CIPHER), packet(&[MSG_KEX_FIRST]), packet(&[MSG_KEX_FIRST])].concat(),
                vec![MSG_NEWKEYS],
            ),
        ];
        for (before, allowed) in states {
            for message in 0..=255 {
                let sent = match message {
                    MSG_KEXINIT => kexinit(&exchange, CIPHER),
                    _ => packet(&[message]),
                };
                let passes = judge(&[before.clone(), sent].concat()).is_ok();
                assert_eq!(
                    passes,
                    allowed.contains(&message) || message == MSG_DISCONNECT,
                    "message {message}"
                );
            }
        }
    }

    #[test]
    fn a_client_without_strict_exchange_or_without_the_cipher_is_turned_away() {
        let id = b"SSH-2.0-x\r\n".to_vec();
        let strict = format!("a,{STRICT}");
        for (exchange, cipher) in [("curve25519-sha256", CIPHER), (strict.as_str(), "aes256-ctr")] {
            let bytes = [id.clone(), kexinit(exchange, cipher)].concat();
            assert!(matches!(judge(&bytes), Err(Violation::NotOffered(_))));
        }
    }

    #[test]
    fn without_authentication_a_client_has_a_budget() {
        let mut guard = Guard::default();
        guard.input(&opening(), false).unwrap();
        let one = [vec![0, 0, 0x70, 0], vec![0; 0x7000 + 16]].concat();
        let mut sent = opening().len() as u64;
        while sent + one.len() as u64 <= UNAUTHENTICATED_MAX_BYTES {
            guard.input(&one, false).unwrap();
            sent += one.len() as u64;
        }
        assert_eq!(guard.input(&one, false), Err(Violation::TooMuch));
        assert_eq!(guard.input(&one, true), Ok(()), "who has authenticated may go on");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_are_kept_without_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..4_000),
            opened in any::<bool>(),
        ) {
            let mut guard = Guard::default();
            if opened {
                guard.input(b"SSH-2.0-x\r\n", false).unwrap();
            }
            let _ = guard.input(&bytes, false);
            prop_assert!(guard.kept.len() <= PACKET_MAX_BYTES as usize);
        }
    }
}
