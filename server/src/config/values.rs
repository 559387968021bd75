//! Parsers of flags' values: sizes, times, addresses, secrets, data sources. An `Err` is the second half of the message
//! to the user, after the flag and its value: what is wrong, and the remedy.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

/// A text that must not appear in logs: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A value of `--data`: where tables come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// A folder whose files and folders are tables, or a single file.
    Path(PathBuf),
    /// One table.
    Named {
        /// The table's name, as given.
        name: String,
        /// A URL with one of [`SCHEMES`], `file://` also for a path without a scheme.
        url: Url,
    },
}

/// The URL schemes that tables may have.
pub const SCHEMES: [&str; 11] = [
    "file", "s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https",
];

/// Parses bytes: `4GB`, `4GiB`, `1.5g` or a plain number.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "is not a size; write it like 512MB, 4GB or 4GiB".to_string();
    let trimmed = text.trim();
    let unit_at = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    if bytes < 1.0 {
        return Err("is nothing; give at least 1B".into());
    }
    if bytes > i64::MAX as f64 {
        return Err("is more than any machine has; give a smaller size".into());
    }
    Ok(bytes as u64)
}

/// Parses the memory of a worker.
pub(super) fn parse_memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 1 << 20;
    match parse_size(text)? {
        bytes if bytes < LEAST => Err("is too little to run a query; give at least 1MiB".into()),
        bytes => Ok(bytes),
    }
}

/// Parses the size of a message, up to the limit of Arrow's offsets and gRPC's lengths.
pub(super) fn parse_message_size(text: &str) -> Result<usize, String> {
    const LEAST: u64 = 4 << 20;
    const MOST: u64 = 1 << 30;
    match parse_size(text)? {
        bytes if bytes < LEAST => Err("is less than clients send; give at least 4MiB".into()),
        bytes if bytes > MOST => Err("is more than one message can be; give at most 1GiB".into()),
        bytes => usize::try_from(bytes).map_err(|_| "is more than this machine can address".into()),
    }
}

/// Parses a time: `500ms`, `10s`, `2m`, `1h` or plain seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is not a time; write it like 500ms, 10s, 2m or 1h".to_string();
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis_of_one: u64 = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    const LONGEST_MS: u64 = 365 * 24 * 3_600_000;
    match number.checked_mul(millis_of_one) {
        Some(0) => Err("is no time at all; give at least 1ms".into()),
        Some(millis) if millis <= LONGEST_MS => Ok(Duration::from_millis(millis)),
        Some(_) | None => Err("is longer than a year; give a shorter time".into()),
    }
}

/// Parses a number from 0 on.
pub(super) fn parse_whole_number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "is not a whole number; give one".into())
}

/// Parses a number from 1 on.
pub(super) fn parse_at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("is not a whole number from 1 on; give one".into()),
        Ok(number) => Ok(number),
    }
}

/// Parses the power with which weights fall.
pub(super) fn parse_priority_decay(text: &str) -> Result<u32, String> {
    const MOST: u32 = 4;
    match text.parse() {
        Ok(power) if power <= MOST => Ok(power),
        _ => Err(format!("is not a rate of decay; give a whole number from 0 to {MOST}")),
    }
}

/// Parses the number of embedded workers.
pub(super) fn parse_workers(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    match text.parse() {
        Ok(workers) if workers <= MOST => Ok(workers),
        _ => Err(format!("is not a number of workers; give 0 to {MOST}")),
    }
}

/// Parses the number of slots.
pub(super) fn parse_slots(text: &str) -> Result<usize, String> {
    const MOST: usize = 4096;
    match text.parse() {
        Ok(0) => Err("leaves no slot to run anything; give at least 1, or leave the flag out for one per core".into()),
        Ok(slots) if slots <= MOST => Ok(slots),
        Ok(_) => Err(format!("is more than a worker can run at once; give at most {MOST}")),
        Err(_) => Err("is not a whole number; give at least 1, or leave the flag out for one per core".into()),
    }
}

/// Parses a TPC-H scale.
pub(super) fn parse_scale(text: &str) -> Result<f64, String> {
    const LARGEST: f64 = 100_000.0;
    match text.parse::<f64>() {
        Ok(scale) if scale > 0.0 && scale <= LARGEST => Ok(scale),
        _ => Err("is not a TPC-H scale; give a number above 0, such as 0.1 or 10".into()),
    }
}

/// Parses an address to listen on; a name such as `localhost` is resolved.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = || "is not an address to listen on; write it like 127.0.0.1:50051 or 0.0.0.0:0".to_string();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    let found: Vec<_> = text.to_socket_addrs().map_err(|_| wrong())?.collect();
    let v4 = found.iter().find(|address| address.is_ipv4());
    v4.or(found.first()).copied().ok_or_else(wrong)
}

/// Parses the URL of a server, with `grpc://`, `grpc+tls://`, `http://`, `https://` or no scheme, to an http(s) URL.
pub(super) fn parse_server_url(text: &str) -> Result<Url, String> {
    let wrong = || "is not the address of a server; write it like grpc://HOST:PORT".to_string();
    let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
    let scheme = match scheme {
        "grpc" | "grpc+tcp" | "http" => "http",
        "grpc+tls" | "https" => "https",
        _ => {
            return Err("has a scheme that is not known; use grpc://, grpc+tls://, http:// or https://".into());
        }
    };
    let rest = rest.trim_end_matches('/');
    let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| wrong())?;
    let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    if url.host_str().is_none() || !bare {
        return Err(wrong());
    }
    // A parsed URL drops the scheme's own port, so the port is read from the text.
    let has_port = rest
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port {
        return Err("has no port; write it like grpc://HOST:PORT".into());
    }
    Ok(url)
}

/// Parses a secret, or reads it from the file of `@FILE`.
pub(super) fn parse_secret(text: &str) -> Result<Secret, String> {
    let secret = match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| format!("cannot be read ({error}); name a readable file after the @"))?
            .trim_end_matches(['\r', '\n'])
            .to_string(),
        None => text.to_string(),
    };
    if secret.is_empty() {
        return Err("is empty; give some text, or @FILE with a file that is not empty".into());
    }
    Ok(Secret(secret))
}

/// Parses `DIR`, a file, or `NAME=URL` where NAME is an identifier and no path of that whole text exists.
pub(super) fn parse_data_source(text: &str) -> Result<DataSource, String> {
    let path = Path::new(text);
    if path.exists() {
        return absolute(path).map(DataSource::Path);
    }
    match text.split_once('=') {
        Some((name, location)) if is_identifier(name) => Ok(DataSource::Named {
            name: name.to_string(),
            url: parse_location(location)?,
        }),
        _ if text.contains("://") => Err("is a table without a name; write NAME=URL".into()),
        _ => Err("does not exist; name a folder, a file, or a table as NAME=URL".into()),
    }
}

fn parse_location(location: &str) -> Result<Url, String> {
    if !location.contains("://") {
        let path = absolute(Path::new(location))?;
        if !path.exists() {
            return Err("names a path that does not exist; correct it, or give a URL".into());
        }
        return path_url(&path);
    }
    let url = Url::parse(location).map_err(|error| format!("is not a URL ({error}); write NAME=SCHEME://..."))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(format!(
            "has the scheme {}, which is not supported; use file, s3, gs, az, http or https",
            url.scheme()
        ));
    }
    if url.scheme() == "file" {
        let path = url
            .to_file_path()
            .map_err(|()| "is not a path of this machine; write file:///PATH".to_string())?;
        if !path.exists() {
            return Err("names a path that does not exist; correct it".into());
        }
        return path_url(&path);
    }
    Ok(url)
}

/// The `file://` URL of a path; folders end in a slash.
pub(crate) fn path_url(path: &Path) -> Result<Url, String> {
    let url = if path.is_dir() {
        Url::from_directory_path(path)
    } else {
        Url::from_file_path(path)
    };
    url.map_err(|()| "cannot be written as a URL; move it to another path".to_string())
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    // Not `canonicalize`: tables and messages keep the user's own spelling.
    std::path::absolute(path).map_err(|error| format!("is not a path ({error}); correct it"))
}

fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    characters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in [
            ("4GB", 4_000_000_000),
            ("4GiB", 4 << 30),
            ("4 gib", 4 << 30),
            ("1.5k", 1500),
            ("2Mi", 2 << 20),
            ("17", 17),
            ("17B", 17),
            ("1TB", 1_000_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "4XB", "-1", "0", "1e99", "4GBs", "9999999TB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units_and_exceed_zero() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("7", 7_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "0",
            "0ms",
            "-1s",
            "1.5s",
            "1d",
            "99999999999999999999h",
            "9000000h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_may_be_names() {
        assert_eq!(parse_address("0.0.0.0:0").unwrap().port(), 0);
        assert_eq!(parse_address("[::1]:5").unwrap().port(), 5);
        assert!(parse_address("localhost:7").unwrap().ip().is_loopback());
        for text in ["", "localhost", ":5", "1.2.3.4", "1.2.3.4:99999", "x:y"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn server_url_accepts_usual_schemes() {
        for (text, url) in [
            ("grpc://h:1", "http://h:1/"),
            ("grpc+tls://h:1", "https://h:1/"),
            ("http://h:1/", "http://h:1/"),
            ("https://h:443", "https://h/"),
            ("h:1", "http://h:1/"),
            ("127.0.0.1:50051", "http://127.0.0.1:50051/"),
        ] {
            assert_eq!(parse_server_url(text).unwrap().as_str(), url, "{text}");
        }
        for text in [
            "",
            "h",
            "grpc://h",
            "ftp://h:1",
            "grpc://h:1/path",
            "grpc://:1",
            "http://u@h:1",
        ] {
            assert!(parse_server_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secret_reads_file_and_hides_itself() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush\n").unwrap();
        let read = parse_secret(&format!("@{}", file.path().display())).unwrap();
        assert_eq!(read.reveal(), "hush");
        assert!(!format!("{read:?}").contains("hush"));
        assert!(parse_secret("@/no/such/file").unwrap_err().contains("cannot be read"));
        assert!(parse_secret("").is_err());
    }

    #[test]
    fn data_source_is_path_or_url() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a=b");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(
            parse_data_source(odd.to_str().unwrap()),
            Ok(DataSource::Path(odd.clone())),
            "an existing path wins over NAME=URL"
        );
        let named = parse_data_source("t=s3://bucket/prefix/").unwrap();
        assert!(matches!(named, DataSource::Named { name, url } if name == "t" && url.scheme() == "s3"));
        let local = parse_data_source(&format!("t={}", folder.path().display())).unwrap();
        assert!(matches!(local, DataSource::Named { url, .. } if url.as_str().ends_with('/')));
        for (text, part) in [
            ("/no/such/folder", "does not exist"),
            ("s3://bucket/x", "without a name"),
            ("t=/no/such/folder", "does not exist"),
            ("t=ftp://h/x", "not supported"),
            ("1t=s3://b/x", "without a name"),
        ] {
            let refusal = parse_data_source(text).unwrap_err();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}
