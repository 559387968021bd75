//! The shell at a terminal: line editing, history and the loop of prompts.

use std::io;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};

use super::error::Error;
use super::script::{Flow, Shell};
use super::split;

const PROMPT: &str = "squadron> ";
const HISTORY_ENTRIES: usize = 1000;

/// Reads and runs statements until the user leaves. A failed statement is reported, and the loop goes on.
pub(super) async fn run(mut shell: Shell) -> Result<(), Error> {
    let history = history_file();
    let mut editor = open_editor(history.as_ref()).map_err(terminal_error)?;
    loop {
        // On a thread that may block, so that the connection's keep-alives go on.
        let (returned, input) = tokio::task::spawn_blocking(move || {
            let input = editor.readline(PROMPT);
            (editor, input)
        })
        .await
        .map_err(|error| Error::Output(io::Error::other(error)))?;
        editor = returned;
        match input {
            Ok(input) => {
                remember(&mut editor, &input, history.as_ref());
                match shell.run_script(&input, None).await {
                    Ok(Flow::Go) => {}
                    Ok(Flow::Quit) => break,
                    Err(error) if error.is_reader_gone() => break,
                    Err(error) => eprintln!("error: {error}"),
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal_error(error)),
        }
    }
    shell.close().await;
    Ok(())
}

fn open_editor(history: Option<&PathBuf>) -> rustyline::Result<Editor<StatementHelper, FileHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY_ENTRIES)?
        .history_ignore_space(true)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(StatementHelper));
    if let Some(file) = history {
        // Without a file this fails, as at the first start.
        let _ = editor.load_history(file);
    }
    Ok(editor)
}

/// Adds `input` to the history. A history that cannot be kept is logged only.
fn remember(editor: &mut Editor<StatementHelper, FileHistory>, input: &str, history: Option<&PathBuf>) {
    if input.trim().is_empty() {
        return;
    }
    let added = editor.add_history_entry(input);
    if let (Ok(true), Some(file)) = (added, history) {
        let kept = file
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .map_err(ReadlineError::from);
        if let Err(error) = kept.and_then(|()| editor.append_history(file)) {
            tracing::debug!(%error, file = %file.display(), "history not kept");
        }
    }
}

/// `squadron/history` in the folder where the user's programs keep their data.
fn history_file() -> Option<PathBuf> {
    let folder = |variable: &str| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data = if cfg!(windows) {
        folder("APPDATA")
    } else if cfg!(target_os = "macos") {
        std::env::home_dir().map(|home| home.join("Library/Application Support"))
    } else {
        folder("XDG_DATA_HOME").or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
    };
    data.map(|data| data.join("squadron").join("history"))
}

fn terminal_error(error: ReadlineError) -> Error {
    Error::Output(match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// Keeps the editor in one input, over several lines, until its last statement ends.
struct StatementHelper;

impl Validator for StatementHelper {
    fn validate(&self, input: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if split::is_complete(input.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for StatementHelper {
    type Candidate = String;
}

impl Hinter for StatementHelper {
    type Hint = String;
}

impl Highlighter for StatementHelper {}

impl Helper for StatementHelper {}
