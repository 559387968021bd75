//! The shell at a terminal: line editing, history and the loop of prompts.

use std::io;
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use super::client::Client;
use super::error::Error;
use super::names::Names;
use super::script::{Flow, Shell};
use super::{command, input};

const HISTORY_ENTRIES: usize = 1000;

/// Reads and runs statements until the user leaves. A failed statement is reported, and the loop goes on.
pub(super) async fn run(mut shell: Shell) -> Result<(), Error> {
    let mut terminal = Terminal::open(shell.client.clone()).map_err(terminal_error)?;
    loop {
        let client = shell.client.clone();
        // On a thread that may block, so that the connection's keep-alives go on.
        let (returned, input) = tokio::task::spawn_blocking(move || {
            let input = terminal.read(client);
            (terminal, input)
        })
        .await
        .map_err(|error| Error::Output(io::Error::other(error)))?;
        terminal = returned;
        terminal.leave_prompt(&mut shell);
        match input {
            Ok(input) => {
                let script = command::meant_by(&input).unwrap_or(&input);
                match shell.run_script(script, None).await {
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

/// The terminal at which the user types.
struct Terminal {
    editor: Editor<Names, FileHistory>,
    /// The file that keeps the inputs.
    history: Option<PathBuf>,
}

impl Terminal {
    fn open(client: Client) -> rustyline::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_ENTRIES)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Names::new(client)));
        let history = history_file();
        if let Some(file) = &history {
            // Without a file this fails, as at the first start.
            let _ = editor.load_history(file);
        }
        Ok(Self { editor, history })
    }

    /// Reads one input, and adds it to the history as one entry.
    fn read(&mut self, client: Client) -> rustyline::Result<String> {
        if let Some(names) = self.editor.helper() {
            names.lend(client);
        }
        let input = input::read(|prompt| self.editor.readline(prompt))?;
        self.remember(&input);
        Ok(input)
    }

    /// Takes over what a prompt may have changed: the session of the connection, and the size of the window.
    fn leave_prompt(&mut self, shell: &mut Shell) {
        if let Some(names) = self.editor.helper() {
            shell.client = names.client();
        }
        shell.view.terminal = self.editor.dimensions().map(|(columns, _)| usize::from(columns));
    }

    /// Adds `input` to the history. A history that cannot be kept is logged only.
    fn remember(&mut self, input: &str) {
        if input.trim().is_empty() {
            return;
        }
        let added = self.editor.add_history_entry(input);
        if let (Ok(true), Some(file)) = (added, &self.history) {
            let kept = file
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .map_err(ReadlineError::from);
            if let Err(error) = kept.and_then(|()| self.editor.append_history(file)) {
                tracing::debug!(%error, file = %file.display(), "history not kept");
            }
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
