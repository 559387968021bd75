//! The object stores that tables read from, and the URLs that distinguish them.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::execution::runtime_env::RuntimeEnv;
use squadron_proto::control::ObjectStoreSpec;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::net::object_stores;
use url::{Position, Url};

use super::names::display_url;

/// How many stores, each a bucket with one set of options, a server keeps.
const MAX_STORES: usize = 1024;

/// Every store that a table was opened with. Stores stay: a plan may still read from the store of a dropped table.
pub(super) struct Stores {
    runtime: Arc<RuntimeEnv>,
    known: Mutex<Vec<KnownStore>>,
}

struct KnownStore {
    /// Scheme and authority as the user wrote them.
    base: String,
    spec: ObjectStoreSpec,
    /// Tables that were opened with it.
    tables: usize,
}

impl Stores {
    pub(super) fn new(runtime: Arc<RuntimeEnv>) -> Self {
        Self {
            runtime,
            known: Mutex::default(),
        }
    }

    /// Registers the store of the user's `url` and returns the URL that plans use for it.
    ///
    /// # Errors
    /// `Invalid` for a URL that no table can have, and where the options do not make a store.
    pub(super) fn locate(&self, url: &Url, options: &[(String, String)]) -> Result<Url, Failure> {
        check_url(url)?;
        if url.scheme() == "file" {
            return match options.first() {
                None => Ok(url.clone()),
                Some((key, _)) => Err(invalid(format!(
                    "the option {key} has no meaning for the local path {}; leave it out",
                    display_url(url)
                ))),
            };
        }
        let base = &url[..Position::BeforePath];
        let mut options = options.to_vec();
        options.sort();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known
            .iter_mut()
            .find(|known| known.base == base && known.spec.options == options)
        {
            known.tables += 1;
            return relocate(url, &known.spec.url);
        }
        if known.len() == MAX_STORES {
            return Err(Failure::new(
                FailureKind::Exhausted,
                format!(
                    "there are {MAX_STORES} object stores already, and each set of options makes one; restart the \
                     server to forget those of dropped tables"
                ),
            ));
        }
        // DataFusion distinguishes stores by scheme and host alone, so a tag for options and user goes into the scheme.
        let needs_tag = !options.is_empty() || !url.username().is_empty();
        let registered = match needs_tag {
            true => object_stores::tag_url(url, &format!("{:08x}", rand::random::<u32>()))?,
            false => url.clone(),
        };
        let spec = ObjectStoreSpec {
            url: registered[..Position::BeforePath].to_string(),
            options,
        };
        object_stores::register(&self.runtime, &spec)?;
        known.push(KnownStore {
            base: base.to_string(),
            spec,
            tables: 1,
        });
        Ok(registered)
    }

    /// Takes back one [`Self::locate`] whose table was not made. A store with no other table is removed, so that failed
    /// statements do not add up.
    pub(super) fn release(&self, registered: &Url) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let url = &registered[..Position::BeforePath];
        let Some(at) = known.iter().position(|known| known.spec.url == url) else {
            return;
        };
        known[at].tables -= 1;
        if known[at].tables == 0 {
            known.remove(at);
            // A registry that keeps the store does no harm: the URL is not used again.
            let _ = self.runtime.deregister_object_store(registered);
        }
    }

    pub(super) fn specs(&self) -> Vec<ObjectStoreSpec> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|known| known.spec.clone()).collect()
    }

    pub(super) fn spec(&self, url: &str) -> Option<ObjectStoreSpec> {
        let url = url.trim_end_matches('/');
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .find(|known| known.spec.url == url)
            .map(|known| known.spec.clone())
    }

    /// `text` with the URLs that plans use replaced by those that users wrote.
    pub(super) fn to_user_urls(&self, text: &str) -> String {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .filter(|known| known.base != known.spec.url)
            .fold(text.to_string(), |text, known| {
                text.replace(&known.spec.url, &known.base)
            })
    }
}

/// Keeps a store registered that no table reads from.
#[derive(Default)]
pub struct StoreLease(Option<(Arc<Stores>, Url)>);

impl StoreLease {
    pub(super) fn new(stores: Arc<Stores>, registered: Url) -> Self {
        Self(Some((stores, registered)))
    }
}

impl std::fmt::Debug for StoreLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreLease")
    }
}

impl Drop for StoreLease {
    fn drop(&mut self) {
        if let Some((stores, url)) = self.0.take() {
            stores.release(&url);
        }
    }
}

/// `url` below another scheme and authority.
fn relocate(url: &Url, base: &str) -> Result<Url, Failure> {
    let text = format!("{base}{}", &url[Position::BeforePath..]);
    Url::parse(&text).map_err(|error| Failure::internal(format!("{} cannot be relocated: {error}", url.path())))
}

fn check_url(url: &Url) -> Result<(), Failure> {
    if url.password().is_some() {
        return Err(invalid(format!(
            "the URL of {} holds a password, which would show in logs; put it into OPTIONS or the environment",
            url.host_str().unwrap_or_default()
        )));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(format!(
            "the URL {} has a ? or # part, which object stores ignore; leave it out, or write %3F and %23",
            &url[..Position::AfterPath]
        )));
    }
    let is_http = matches!(url.scheme(), "http" | "https");
    if is_http && url.path().ends_with('/') {
        return Err(invalid(format!(
            "{url} is a folder, and http cannot list folders; name a single file"
        )));
    }
    Ok(())
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores() -> Stores {
        Stores::new(Arc::new(RuntimeEnv::default()))
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn options(key: &str) -> Vec<(String, String)> {
        vec![
            ("aws.access_key_id".into(), key.into()),
            ("aws.secret_access_key".into(), "hush".into()),
        ]
    }

    #[test]
    fn bucket_without_options_keeps_url() {
        let stores = stores();
        let plain = stores.locate(&url("s3://bucket/a/"), &[]).unwrap();
        assert_eq!(plain.as_str(), "s3://bucket/a/");
        assert_eq!(
            stores.locate(&url("s3://bucket/b/"), &[]).unwrap().as_str(),
            "s3://bucket/b/"
        );
        assert_eq!(stores.specs().len(), 1);
        assert!(stores.spec("s3://bucket/").unwrap().options.is_empty());
    }

    #[test]
    fn options_make_a_separate_store() {
        let stores = stores();
        let first = stores.locate(&url("s3://bucket/x/"), &options("a")).unwrap();
        let again = stores.locate(&url("s3://bucket/x/"), &options("a")).unwrap();
        let other = stores.locate(&url("s3://bucket/x/"), &options("b")).unwrap();
        assert_eq!(first, again);
        assert_ne!(first.scheme(), other.scheme());
        assert!(!first.as_str().contains("hush") && first.path() == "/x/");
        assert_eq!(stores.specs().len(), 2);
        let base = &first[..Position::BeforePath];
        assert_eq!(stores.spec(base).unwrap().options, options("a"));
        assert_eq!(
            stores.to_user_urls(&format!("no files at {first}!")),
            "no files at s3://bucket/x/!"
        );
    }

    #[test]
    fn store_is_released_with_last_table() {
        let stores = stores();
        let kept = stores.locate(&url("s3://bucket/x/"), &options("a")).unwrap();
        let again = stores.locate(&url("s3://bucket/y/"), &options("a")).unwrap();
        stores.release(&again);
        assert_eq!(stores.specs().len(), 1, "the first table still reads from it");
        assert!(stores.runtime.object_store_registry.get_store(&kept).is_ok());
        stores.release(&kept);
        assert!(stores.specs().is_empty());
        assert!(stores.runtime.object_store_registry.get_store(&kept).is_err());
    }

    #[test]
    fn containers_of_account_are_separate_stores() {
        let stores = stores();
        let one = stores
            .locate(&url("abfss://one@account.dfs.core.windows.net/x/"), &[])
            .unwrap();
        let two = stores
            .locate(&url("abfss://two@account.dfs.core.windows.net/x/"), &[])
            .unwrap();
        assert_ne!(one.scheme(), two.scheme());
    }

    #[test]
    fn locate_refuses_unusable_urls() {
        for (text, part) in [
            ("http://h/folder/", "single file"),
            ("https://h/x.csv?token=1", "? or #"),
            ("https://u:p@h/x.csv", "password"),
        ] {
            let failure = stores().locate(&url(text), &[]).unwrap_err();
            assert!(
                failure.message.contains(part) && !failure.message.contains("token"),
                "{failure}"
            );
        }
        let failure = stores().locate(&url("file:///x/"), &options("a")).unwrap_err();
        assert!(failure.message.contains("aws.access_key_id") && !failure.message.contains("hush"));
    }
}
