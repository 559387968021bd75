//! `--users FILE`: lines `name:argon2-hash`, with hashes as `squadron hash-password` makes them.

use std::collections::HashMap;
use std::sync::Arc;

use super::file;
use super::passwords;

/// Names with the hashes of their passwords.
pub(super) struct Users(HashMap<Arc<str>, Arc<str>>);

impl Users {
    pub(super) fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut users: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        for line in file::lines(text, "HASH") {
            let (number, name, hash) = line?;
            let hash = hash.trim();
            if !passwords::is_usable(hash) {
                let why = format!("what follows {name}: is no argon2 hash; make one with `squadron hash-password`");
                return Err((number, why));
            }
            if users.insert(name.into(), hash.into()).is_some() {
                let why = format!("the name {name} is used twice; keep one of the lines");
                return Err((number, why));
            }
        }
        Ok(Self(users))
    }

    /// The user's name and the hash of the password.
    pub(super) fn get(&self, name: &str) -> Option<(Arc<str>, Arc<str>)> {
        let (name, hash) = self.0.get_key_value(name)?;
        Some((Arc::clone(name), Arc::clone(hash)))
    }

    /// The hash of any user.
    pub(super) fn any_hash(&self) -> Option<Arc<str>> {
        self.0.values().next().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$TBK8UVPjhiUHgY2rzyPVcg";

    #[test]
    fn parse_reads_names_and_hashes() {
        let users = Users::parse(&format!("ann:{HASH}\nbob: {HASH} \n")).unwrap();
        assert_eq!(users.get("bob").unwrap().1.as_ref(), HASH);
        assert!(users.get("eve").is_none());
    }

    #[test]
    fn parse_error_names_line_not_secret() {
        for (text, line, says) in [
            ("ann:secret".to_owned(), 1, "squadron hash-password"),
            (format!("ann:{HASH}\nann:{HASH}"), 2, "ann is used twice"),
            (format!("#\nann{HASH}"), 2, "no colon"),
            ("ann:$argon2id$v=19$m=8".to_owned(), 1, "no argon2 hash"),
            ("ann:$2b$12$R9h/cIPz0gi.URNNX3kh2O".to_owned(), 1, "no argon2 hash"),
        ] {
            let (at, why) = Users::parse(&text).err().unwrap();
            assert_eq!(at, line, "{text}");
            assert!(why.contains(says), "{why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
