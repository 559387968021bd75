//! The reference page of all flags, generated from their one definition.

use std::fmt::Write;

use super::layers;

/// Markdown for `docs/configuration.md`; a test keeps that page equal.
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Generated from the flags' definition (`server/src/config/args.rs`); `squadron COMMAND --help` shows the same.\n\n\
         A flag beats its variable, the variable beats its key in the file that `--config` names, and the key beats the\n\
         default. In the file, the flags of each command stand in a table of its name, with `_` for `-`:\n\n\
         ```toml\n[serve]\nlisten = \"127.0.0.1:50051\"\ndata = [\"/srv/tables\", \"events=s3://bucket/events/\"]\n\n\
         [worker]\nserver = \"http://10.0.0.1:50052\"\n```\n",
    );
    for command in layers::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(
            page,
            "\n## `squadron {name}`\n\n{about}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n"
        );
        for arg in command.get_arguments() {
            let Some(variable) = layers::variable_name(name, arg) else {
                continue;
            };
            let flag = arg.get_long().unwrap_or_default();
            let value = match arg.get_action().takes_values() {
                true => arg
                    .get_value_names()
                    .map(|names| format!(" {}", names.join(" ")))
                    .unwrap_or_default(),
                false => String::new(),
            };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let (help, default) = split_help(&help, arg.get_default_values());
            let _ = writeln!(
                page,
                "| `--{flag}{}` | `{variable}` | {default} | {} |",
                value.replace('|', "\\|"),
                help.replace('|', "\\|")
            );
        }
    }
    page
}

/// The meaning and the default of a flag: splits `[default: ..]` and `[env: ..]` off a help text.
fn split_help(help: &str, defaults: &[clap::builder::OsStr]) -> (String, String) {
    let help = help.split(" [env: ").next().unwrap_or_default();
    let (text, written) = match help.split_once(" [default: ") {
        Some((text, rest)) => (text, rest.split(']').next().unwrap_or_default().to_string()),
        None => (help, String::new()),
    };
    let declared = defaults.first().map(|value| format!("`{}`", value.to_string_lossy()));
    (text.trim().to_string(), declared.unwrap_or(written))
}
