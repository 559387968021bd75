//! Builds object stores from their specification, so that the server and every worker read the same files.
//!
//! ```text
//! s3://bucket              settings from this process's environment (AWS_*, GOOGLE_*, AZURE_*)
//! s3+4f1c9a02://bucket     the same, with the options of a table overriding the environment
//! ```
//!
//! A table with options of its own gets a tag in the scheme of its URL, because DataFusion finds stores by scheme and
//! host alone: this way two tables may read one bucket with different keys, and secrets stay out of URLs and plans. A
//! URL means the same store for ever; registering it again has no effect.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use squadron_proto::control::ObjectStoreSpec;
use squadron_proto::{Failure, FailureKind};
use url::{Position, Url};

/// How often a failed request is repeated.
const MAX_RETRIES: usize = 5;

/// How long a request is repeated at most. The default of `object_store`, three minutes, looks like a hang to users.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The kinds of stores, with the namespaces of their table options and the prefix of their variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    S3,
    Google,
    Azure,
    Http,
}

impl Kind {
    fn from_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "file" => Some(Self::Local),
            "s3" | "s3a" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" | "adl" | "azure" | "abfs" | "abfss" => Some(Self::Azure),
            "http" | "https" => Some(Self::Http),
            _ => None,
        }
    }

    fn namespaces(self) -> &'static [&'static str] {
        match self {
            Self::Local => &[],
            Self::S3 => &["aws", "s3"],
            Self::Google => &["gcp", "google", "gs"],
            Self::Azure => &["azure", "az"],
            Self::Http => &["http"],
        }
    }
}

/// Whether a table option such as `aws.region` is meant for the object store, not for the file format.
pub fn is_store_option(key: &str) -> bool {
    let namespace = key.split_once('.').map(|(namespace, _)| namespace);
    [Kind::S3, Kind::Google, Kind::Azure, Kind::Http]
        .iter()
        .any(|kind| namespace.is_some_and(|namespace| kind.namespaces().contains(&namespace)))
}

/// The URL for the store of `url` with options of its own, distinguished by `tag`.
///
/// # Errors
/// When `tag` cannot be part of a scheme.
pub fn tag_url(url: &Url, tag: &str) -> Result<Url, Failure> {
    let text = format!("{}+{tag}{}", url.scheme(), &url[Position::AfterScheme..]);
    Url::parse(&text).map_err(|error| Failure::internal(format!("{text} is not a URL: {error}")))
}

/// Registers the store of `spec` with `runtime`, unless its URL is registered already.
///
/// # Errors
/// `Invalid` for an unknown scheme or option, and for settings from which no store can be built.
pub fn register(runtime: &RuntimeEnv, spec: &ObjectStoreSpec) -> Result<(), Failure> {
    let url = Url::parse(&spec.url)
        .map_err(|error| invalid(format!("{} is not the URL of an object store ({error})", spec.url)))?;
    if runtime.object_store_registry.get_store(&url).is_ok() {
        return Ok(());
    }
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if let Some(store) = build(&url, &environment, &spec.options)? {
        runtime.register_object_store(&url, store);
    }
    Ok(())
}

/// The store, or none for the local file system, which every runtime has registered.
fn build(
    url: &Url,
    environment: &[(String, String)],
    options: &[(String, String)],
) -> Result<Option<Arc<dyn ObjectStore>>, Failure> {
    let scheme = url.scheme().split('+').next().unwrap_or_default();
    let kind = Kind::from_scheme(scheme).ok_or_else(|| {
        invalid(format!(
            "{url} has the scheme {scheme}, which is not supported; use file, s3, gs, az, http or https"
        ))
    })?;
    let plain = format!("{scheme}{}", &url[Position::AfterScheme..Position::BeforePath]);
    let failed = |error: object_store::Error| invalid(format!("the object store {plain} cannot be used: {error}"));
    let store: Arc<dyn ObjectStore> = match kind {
        Kind::Local => return Ok(None),
        Kind::S3 => Arc::new(s3(&plain, environment, options)?.build().map_err(failed)?),
        Kind::Google => Arc::new(google(&plain, environment, options)?.build().map_err(failed)?),
        Kind::Azure => Arc::new(azure(&plain, environment, options)?.build().map_err(failed)?),
        Kind::Http => Arc::new(http(&plain, options)?.build().map_err(failed)?),
    };
    Ok(Some(store))
}

fn s3(url: &str, environment: &[(String, String)], options: &[(String, String)]) -> Result<AmazonS3Builder, Failure> {
    use AmazonS3ConfigKey::{AccessKeyId, Endpoint, S3Endpoint, SecretAccessKey, Token};
    let options: Vec<(AmazonS3ConfigKey, _)> = parse_options(Kind::S3, options)?;
    // A key from the options together with a session token from the environment would be refused by the store.
    let own_key = options.iter().any(|(key, _)| *key == AccessKeyId);
    let environment = parse_environment("AWS_", environment)
        .filter(|(key, _)| !own_key || ![AccessKeyId, SecretAccessKey, Token].contains(key));
    let builder = environment.chain(options).fold(
        AmazonS3Builder::new().with_url(url).with_retry(retry()),
        |builder, (key, value)| builder.with_config(key, value),
    );
    // An endpoint without TLS is intended.
    let plain_endpoint = [S3Endpoint, Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key))
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    let allow_http = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);
    Ok(match plain_endpoint {
        true => builder.with_config(allow_http, "true"),
        false => builder,
    })
}

fn google(
    url: &str,
    environment: &[(String, String)],
    options: &[(String, String)],
) -> Result<GoogleCloudStorageBuilder, Failure> {
    let options: Vec<(GoogleConfigKey, _)> = parse_options(Kind::Google, options)?;
    let builder = GoogleCloudStorageBuilder::new().with_url(url).with_retry(retry());
    Ok(parse_environment("GOOGLE_", environment)
        .chain(options)
        .fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

fn azure(
    url: &str,
    environment: &[(String, String)],
    options: &[(String, String)],
) -> Result<MicrosoftAzureBuilder, Failure> {
    let options: Vec<(AzureConfigKey, _)> = parse_options(Kind::Azure, options)?;
    // The one variable of Azure's managed identities that lacks the prefix.
    let identity = environment
        .iter()
        .filter(|(key, _)| key == "IDENTITY_ENDPOINT")
        .map(|(_, value)| (AzureConfigKey::MsiEndpoint, value.clone()));
    let builder = MicrosoftAzureBuilder::new().with_url(url).with_retry(retry());
    Ok(parse_environment("AZURE_", environment)
        .chain(identity)
        .chain(options)
        .fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

fn http(url: &str, options: &[(String, String)]) -> Result<HttpBuilder, Failure> {
    let options: Vec<(ClientConfigKey, _)> = parse_options(Kind::Http, options)?;
    let plain = url.starts_with("http://").to_string();
    let builder = HttpBuilder::new()
        .with_url(url)
        .with_retry(retry())
        .with_config(ClientConfigKey::AllowHttp, plain);
    Ok(options
        .into_iter()
        .fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

/// Variables with `prefix` that are settings of the store; others with that prefix belong to other programs.
fn parse_environment<'a, K: FromStr + 'a>(
    prefix: &'a str,
    environment: &'a [(String, String)],
) -> impl Iterator<Item = (K, String)> + 'a {
    environment
        .iter()
        .filter(move |(key, value)| key.starts_with(prefix) && !value.is_empty())
        .filter_map(|(key, value)| Some((key.to_ascii_lowercase().parse().ok()?, value.clone())))
}

/// Options such as `aws.region`. The message for an unknown one names its key, never its value.
fn parse_options<K: FromStr>(kind: Kind, options: &[(String, String)]) -> Result<Vec<(K, String)>, Failure> {
    options
        .iter()
        .map(|(key, value)| {
            let name = key
                .split_once('.')
                .filter(|(namespace, _)| kind.namespaces().contains(namespace))
                .map(|(_, name)| name.to_ascii_lowercase());
            match name.and_then(|name| name.parse().ok()) {
                Some(parsed) => Ok((parsed, value.clone())),
                None => Err(invalid(format!(
                    "the option {key} is not one of this object store; its options start with {}.",
                    kind.namespaces().first().copied().unwrap_or("no namespace")
                ))),
            }
        })
        .collect()
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    fn spec(url: &str, options: &[(&str, &str)]) -> ObjectStoreSpec {
        ObjectStoreSpec {
            url: url.into(),
            options: pairs(options),
        }
    }

    #[test]
    fn schemes_register_one_store_each() {
        let runtime = RuntimeEnv::default();
        for (url, options) in [
            ("s3://bucket", &[("aws.region", "eu-west-1")][..]),
            (
                "s3+ab12://bucket",
                &[("aws.access_key_id", "k"), ("aws.secret_access_key", "s")],
            ),
            ("gs://bucket", &[("gcp.skip_signature", "true")]),
            ("az://container", &[("azure.account_name", "a")]),
            ("abfss+cd34://container@account.dfs.core.windows.net", &[]),
            ("http://127.0.0.1:9", &[]),
            ("https+ef56://example.com", &[("http.timeout", "5s")]),
        ] {
            let spec = spec(url, options);
            register(&runtime, &spec).unwrap();
            let url = Url::parse(url).unwrap();
            let first = runtime.object_store_registry.get_store(&url).unwrap();
            register(&runtime, &spec).unwrap();
            let second = runtime.object_store_registry.get_store(&url).unwrap();
            assert!(Arc::ptr_eq(&first, &second), "{url}");
        }
        register(&runtime, &spec("file:///", &[])).unwrap();
    }

    #[test]
    fn options_override_the_environment() {
        let environment = pairs(&[
            ("AWS_ACCESS_KEY_ID", "env-key"),
            ("AWS_SECRET_ACCESS_KEY", "env-secret"),
            ("AWS_SESSION_TOKEN", "env-token"),
            ("AWS_REGION", "env-region"),
            ("AWS_ENDPOINT", "http://127.0.0.1:8333"),
            ("AWS_PAGER", "less"),
        ]);
        let get = |builder: &AmazonS3Builder, key: &str| builder.get_config_value(&key.parse().unwrap());
        let plain = s3("s3://b", &environment, &[]).unwrap();
        assert_eq!(get(&plain, "access_key_id").as_deref(), Some("env-key"));
        assert_eq!(get(&plain, "token").as_deref(), Some("env-token"));
        assert_eq!(get(&plain, "allow_http").as_deref(), Some("true"));
        let options = pairs(&[
            ("aws.access_key_id", "own-key"),
            ("aws.secret_access_key", "own-secret"),
        ]);
        let own = s3("s3://b", &environment, &options).unwrap();
        assert_eq!(get(&own, "access_key_id").as_deref(), Some("own-key"));
        assert_eq!(get(&own, "secret_access_key").as_deref(), Some("own-secret"));
        assert_eq!(
            get(&own, "token"),
            None,
            "the environment's token belongs to the environment's key"
        );
        assert_eq!(get(&own, "region").as_deref(), Some("env-region"));
    }

    #[test]
    fn unknown_schemes_and_options_are_refused() {
        let runtime = RuntimeEnv::default();
        let failure = register(&runtime, &spec("ftp://host", &[])).unwrap_err();
        assert!(failure.message.contains("ftp"), "{failure}");
        for key in ["aws.secret_acess_key", "gcp.region", "region"] {
            let failure = register(&runtime, &spec("s3://b", &[(key, "hush")])).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid);
            assert!(
                failure.message.contains(key) && !failure.message.contains("hush"),
                "{failure}"
            );
        }
    }

    #[test]
    fn tag_changes_only_the_scheme() {
        let url = Url::parse("s3://bucket/a%20b/").unwrap();
        assert_eq!(tag_url(&url, "4f1c").unwrap().as_str(), "s3+4f1c://bucket/a%20b/");
        let url = Url::parse("http://host:8080/x").unwrap();
        assert_eq!(tag_url(&url, "4f1c").unwrap().as_str(), "http+4f1c://host:8080/x");
        assert!(is_store_option("aws.region") && !is_store_option("format.delimiter") && !is_store_option("region"));
    }
}
