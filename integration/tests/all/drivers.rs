//! Third-party drivers and servers, fetched once into the target folder, outside any test's time limit.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use squadron_integration::process::target_folder;

/// The JDBC driver and the Maven plugin that fetches it.
const JDBC_DRIVER: &str = "org.apache.arrow:flight-sql-jdbc-driver:18.3.0";
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";
const MAVEN_COPY_ALL: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The sources of the JDBC suite, its main class first.
const JDBC_SUITE: [&str; 8] = [
    "JdbcSuite.java",
    "Checks.java",
    "JdbcMetadata.java",
    "JdbcParameters.java",
    "JdbcStatements.java",
    "JdbcSystem.java",
    "JdbcTypes.java",
    "JdbcWrites.java",
];

/// The sources of the client suites.
pub(crate) fn suites() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The virtual environment with everything of `requirements.txt`.
pub(crate) fn python_environment() -> PathBuf {
    environment("python")
}

/// The virtual environment with the producers of Substrait plans, which need versions of their own.
pub(crate) fn substrait_environment() -> PathBuf {
    environment("substrait")
}

/// The environment of one suite. The hash of the requirements is part of the folder's name, so that checkouts that
/// share a target folder do not remove each other's environments.
fn environment(suite: &str) -> PathBuf {
    let requirements = suites().join(suite).join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).expect("the requirements are in the repository");
    let mut content = DefaultHasher::new();
    wanted.hash(&mut content);
    let name = format!("{suite}-{:016x}", content.finish());
    prepare_once(&name, &wanted, |folder| {
        run(Command::new("python3").args([OsStr::new("-m"), OsStr::new("venv"), folder.as_os_str()]));
        let mut install = Command::new(folder.join("bin/python"));
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ]);
        run(install.arg(&requirements));
    })
}

/// The jars of Isthmus, the SQL side of substrait-java.
pub(crate) fn isthmus() -> PathBuf {
    let pom = suites().join("substrait/pom.xml");
    let wanted = fs::read_to_string(&pom).expect("the pom is in the repository");
    prepare_once("isthmus", &wanted, |folder| {
        let mut copy = Command::new("mvn");
        copy.args(["--batch-mode", "--quiet", "--file"]).arg(&pom);
        copy.arg(MAVEN_COPY_ALL);
        run(copy.arg(format!("-DoutputDirectory={}", folder.display())));
    })
}

/// The jar of the JDBC driver.
pub(crate) fn jdbc_driver() -> PathBuf {
    let folder = prepare_once("jdbc", JDBC_DRIVER, |folder| {
        let mut copy = Command::new("mvn");
        copy.args(["--batch-mode", "--quiet", MAVEN_COPY]);
        copy.arg(format!("-Dartifact={JDBC_DRIVER}"));
        run(copy.arg(format!("-DoutputDirectory={}", folder.display())));
    });
    let jars = fs::read_dir(&folder).expect("the folder was just made");
    let mut jars = jars.flatten().map(|entry| entry.path());
    let jar = jars.find(|path| path.extension().is_some_and(|extension| extension == "jar"));
    jar.unwrap_or_else(|| panic!("Maven left no jar in {}", folder.display()))
}

/// The class path of the JDBC suite: the driver and the compiled suite.
pub(crate) fn jdbc_suite() -> String {
    let driver = jdbc_driver();
    let sources = JDBC_SUITE.map(|name| suites().join("java").join(name));
    let wanted = contents(&sources);
    let classes = prepare_once("jdbc-suite", &wanted, |folder| {
        let mut compile = Command::new("javac");
        compile
            .args(["-Xlint:all", "-Werror", "-proc:none", "-cp"])
            .arg(&driver);
        run(compile.arg("-d").arg(folder).args(&sources));
    });
    format!("{}:{}", driver.display(), classes.display())
}

/// The program of the Go suite; it is built, and its modules are fetched, when one of its files changed.
pub(crate) fn go_suite() -> PathBuf {
    let folder = suites().join("go");
    let entries = fs::read_dir(&folder).expect("the suite is in the repository");
    let mut sources: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    sources.sort();
    let built = prepare_once("go", &contents(&sources), |target| {
        let mut build = Command::new("go");
        build
            .current_dir(&folder)
            .env("GOFLAGS", "-mod=readonly")
            .env("CGO_ENABLED", "0");
        run(build.args(["build", "-o"]).arg(target.join("suite")).arg("."));
    });
    built.join("suite")
}

/// The concatenated files, to detect a change of any of them.
fn contents(files: &[PathBuf]) -> String {
    let read = |file: &PathBuf| fs::read_to_string(file).expect("the suite is in the repository");
    files.iter().map(read).collect()
}

/// A folder of the target folder that `fill` writes once for each `content`, under a lock, so that other processes
/// wait.
fn prepare_once(name: &str, content: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let clients = target_folder().join("clients");
    fs::create_dir_all(&clients).expect("the target folder takes folders");
    let lock = File::create(clients.join(format!("{name}.lock"))).expect("the target folder takes files");
    lock.lock().expect("a file can be locked");
    let folder = clients.join(name);
    let done = clients.join(format!("{name}.done"));
    if fs::read_to_string(&done).is_ok_and(|filled| filled == content) {
        return folder;
    }
    drop(fs::remove_file(&done));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("it was removed before");
    fill(&folder);
    fs::write(&done, content).expect("the target folder takes files");
    folder
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
