//! The authenticator with files of users and tokens.

use super::*;

const TOKEN: &str = "a-token-of-the-file";

struct Files {
    _folder: tempfile::TempDir,
    users: PathBuf,
    tokens: PathBuf,
}

fn write_files() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let (users, tokens) = (folder.path().join("users"), folder.path().join("tokens"));
    let hash = hash("ann's").unwrap();
    std::fs::write(&users, format!("ann:{hash}\n")).unwrap();
    std::fs::write(&tokens, format!("bot:{TOKEN}\n")).unwrap();
    Files {
        _folder: folder,
        users,
        tokens,
    }
}

fn authenticator(files: &Files, idle_timeout: Duration) -> Authenticator {
    Authenticator::new(&AuthOptions {
        users: Some(files.users.clone()),
        tokens: Some(files.tokens.clone()),
        idle_timeout,
        max_logins: 10,
    })
    .unwrap()
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Password {
        user: user.into(),
        password: password.into(),
    }
}

fn bearer(token: &str) -> Credentials {
    Credentials::Token(token.into())
}

async fn admitted_name(authenticator: &Authenticator, credentials: &Credentials) -> Option<String> {
    let principal = authenticator.admit(Some(credentials), None).await.ok()?;
    Some(principal.name()?.to_owned())
}

#[tokio::test]
async fn credentials_decide_the_principal() {
    let files = write_files();
    let authenticator = authenticator(&files, Duration::from_secs(60));
    for (credentials, name) in [
        (basic("ann", "ann's"), Some("ann")),
        (basic("ann", "ann's"), Some("ann")),
        (basic("ann", "bob's"), None),
        (basic("bob", "ann's"), None),
        (basic("ann", ""), None),
        (bearer(TOKEN), Some("bot")),
        (bearer("a-token-of-nobody"), None),
        (basic("bot", TOKEN), Some("bot")),
        (basic("token", TOKEN), Some("bot")),
        (basic("", TOKEN), Some("bot")),
        (basic("ann", TOKEN), None),
    ] {
        let found = admitted_name(&authenticator, &credentials).await;
        assert_eq!(found.as_deref(), name, "{credentials:?}");
    }
    let missing = authenticator.admit(None, None).await.unwrap_err();
    assert_eq!(missing.kind, FailureKind::Unauthenticated);
    assert!(missing.message.contains("log in"), "{missing}");
}

#[tokio::test]
async fn password_login_issues_new_token() {
    let files = write_files();
    let authenticator = authenticator(&files, Duration::from_secs(60));
    let log_in = async |credentials: Credentials| authenticator.log_in(Some(&credentials), None).await.unwrap();
    let login = log_in(basic("ann", "ann's")).await;
    assert!(login.is_new);
    assert_ne!(login.token, log_in(basic("ann", "ann's")).await.token);
    assert_eq!(
        admitted_name(&authenticator, &bearer(&login.token)).await.unwrap(),
        "ann"
    );
    for own in [bearer(&login.token), basic("ann", &login.token)] {
        let again = log_in(own).await;
        assert_eq!((again.token, again.is_new), (login.token.clone(), false));
    }
    assert_eq!(log_in(basic("bot", TOKEN)).await.token, TOKEN);
}

#[tokio::test]
async fn changed_password_revokes_old_logins() {
    let files = write_files();
    let authenticator = authenticator(&files, Duration::from_secs(60));
    let old = basic("ann", "ann's");
    let token = authenticator.log_in(Some(&old), None).await.unwrap().token;
    let hash = hash("new").unwrap();
    std::fs::write(&files.users, format!("# changed\nann:{hash}\n")).unwrap();
    let mut looks = 0;
    while admitted_name(&authenticator, &old).await.is_some() {
        looks += 1;
        assert!(looks < 500, "the file is never read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(admitted_name(&authenticator, &bearer(&token)).await, None);
    assert_eq!(
        admitted_name(&authenticator, &basic("ann", "new")).await.unwrap(),
        "ann"
    );
}

#[tokio::test]
async fn logins_are_bounded_and_expire() {
    let files = write_files();
    let idle_timeout = Duration::from_millis(300);
    let authenticator = authenticator(&files, idle_timeout);
    let credentials = basic("ann", "ann's");
    for _ in 0..50 {
        authenticator.log_in(Some(&credentials), None).await.unwrap();
    }
    let inner = authenticator.0.as_ref().unwrap();
    inner.issued.run_pending_tasks();
    assert!(inner.issued.entry_count() <= 10);
    let token = authenticator.log_in(Some(&credentials), None).await.unwrap().token;
    let idle = Instant::now();
    tokio::time::sleep(idle_timeout + Duration::from_millis(50)).await;
    assert!(idle.elapsed() > idle_timeout);
    assert_eq!(admitted_name(&authenticator, &bearer(&token)).await, None);
}

#[tokio::test]
async fn open_server_admits_everyone_as_anonymous() {
    let authenticator = Authenticator::open_to_all();
    assert!(!authenticator.is_required());
    for credentials in [None, Some(basic("ann", "x")), Some(bearer("t"))] {
        let principal = authenticator.admit(credentials.as_ref(), None).await.unwrap();
        assert_eq!(principal, Principal::default());
        let login = authenticator.log_in(credentials.as_ref(), None).await.unwrap();
        assert_eq!(login.is_new, login.token != "t");
    }
}

#[test]
fn debug_and_logs_hide_secrets() {
    for credentials in [basic("ann", "hush"), bearer("hush")] {
        assert!(!format!("{credentials:?}").contains("hush"));
    }
    assert_eq!(escape_for_log("a\nb"), "a\\nb");
    assert_eq!(escape_for_log(&"x".repeat(1000)).len(), MAX_LOGGED_NAME);
}
