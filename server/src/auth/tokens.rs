//! `--tokens FILE`: lines `name:token`, or `name:sha256:DIGEST` so that the file holds no secret.

use std::collections::HashMap;
use std::fmt::Write;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use super::file;
use super::principal::Principal;

/// The shortest token that is accepted, in characters; shorter ones could be guessed.
const MIN_TOKEN: usize = 16;
const DIGEST_PREFIX: &str = "sha256:";

/// SHA-256 of a token, by which it is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; digest::SHA256_OUTPUT_LEN]);

impl Digest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        Self::from_tag(digest::digest(&digest::SHA256, token.as_bytes()).as_ref())
    }

    /// # Panics
    /// When `tag` has not the length of SHA-256.
    pub(super) fn from_tag(tag: &[u8]) -> Self {
        Self(tag.try_into().expect("SHA-256 has 32 bytes"))
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        if text.len() != 2 * bytes.len() || !text.is_ascii() {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// As 64 lower-case digits.
    pub fn to_hex(self) -> String {
        self.0.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// 256 random bits as 64 lower-case digits.
///
/// # Panics
/// When the operating system has no randomness to give.
pub(super) fn random_token() -> String {
    let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system gives random bytes");
    Digest(bytes).to_hex()
}

/// Tokens with the names of their users. One user may have several.
pub(super) struct Tokens(HashMap<Digest, Principal>);

impl Tokens {
    pub(super) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut tokens = HashMap::new();
        for line in file::lines(text, "TOKEN") {
            let (number, name, token) = line?;
            let digest = parse_digest(token.trim()).map_err(|why| (number, format!("the token of {name} {why}")))?;
            if tokens.insert(digest, Principal::user(name)).is_some() {
                let why = format!("the token of {name} is used twice; give each line one of its own");
                return Err((number, why));
            }
        }
        Ok(Self(tokens))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Principal> {
        self.0.get(digest).cloned()
    }

    /// Whether a client that sends a token as its password may send this user name with it: that of the token, none, or
    /// `token`, since some drivers insist on a name.
    pub(super) fn accepts_name(user: &str, principal: &Principal) -> bool {
        user.is_empty() || user == "token" || principal.name() == Some(user)
    }
}

fn parse_digest(token: &str) -> Result<Digest, &'static str> {
    if let Some(hex) = token.strip_prefix(DIGEST_PREFIX) {
        return Digest::from_hex(hex).ok_or("has no SHA-256 after sha256:; write its 64 hexadecimal digits");
    }
    if !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err("has spaces or characters that no header can carry; use visible ASCII");
    }
    if token.len() < MIN_TOKEN {
        return Err("is so short that it could be guessed; make one with `openssl rand -hex 32`");
    }
    Ok(Digest::of(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_match_plain_and_digest_lines() {
        let digest = Digest::of("another-long-token").to_hex();
        let text = format!("ann:a-long-enough-token\nbot:sha256:{digest}\nann:and-a-second-one\n");
        let tokens = Tokens::parse(&text).unwrap();
        for (token, name) in [
            ("a-long-enough-token", Some("ann")),
            ("and-a-second-one", Some("ann")),
            ("another-long-token", Some("bot")),
            (digest.as_str(), None),
            ("a-long-enough-toke", None),
        ] {
            let principal = tokens.get(&Digest::of(token));
            assert_eq!(principal, name.map(Principal::user), "{token}");
        }
    }

    #[test]
    fn parse_error_names_line_not_token() {
        for (text, line, says) in [
            ("ann:secret", 1, "could be guessed"),
            ("#\nann:secret secret secret", 2, "visible ASCII"),
            ("ann:sha256:secret", 1, "64 hexadecimal digits"),
            ("ann:secretsecretsecret\nbob:secretsecretsecret", 2, "used twice"),
        ] {
            let (at, why) = Tokens::parse(text).err().unwrap();
            assert_eq!(at, line, "{text}");
            assert!(why.contains(says), "{why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn digest_equals_published_sha256() {
        assert_eq!(
            Digest::of("abc").to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(random_token().len(), 64);
        assert_ne!(random_token(), random_token());
    }
}
